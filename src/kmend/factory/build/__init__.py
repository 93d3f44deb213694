"""Fixes in, a livepatch out: compile, prove, compare, refuse or extract, resolve, link, and check as the kernel will.

`build` does it all and returns a `Built`; `explain` tells of it in words; refusals come as `RefusedError`, whose codes are
`RefusalCode`. `write_build` stores a livepatch as a folder that `publish` takes;
`reserved_folder` makes sure of that folder before the work begins.
With a `Vendor`, `build` holds the result against the vendor's own fixed kernel; `Cause` says why a function differs.
"""

from __future__ import annotations

from kmend.factory.build.builder import Built, build
from kmend.factory.build.causes import Cause
from kmend.factory.build.folder import reserved_folder, write_build
from kmend.factory.build.refusal import NoChangeError, Refusal, RefusalCode, RefusedError
from kmend.factory.build.report import explain
from kmend.factory.build.vendor import Vendor

__all__ = [
    "Built",
    "Cause",
    "NoChangeError",
    "Refusal",
    "RefusalCode",
    "RefusedError",
    "Vendor",
    "build",
    "explain",
    "reserved_folder",
    "write_build",
]
