"""Fixes in, a livepatch out: compile, prove, compare, refuse or extract, resolve, link, and check as the kernel will.

`build` does it all and returns a `Built`; `explain` tells of it in words; refusals come as `RefusedError`, whose codes are
`RefusalCode`. `write_build` stores a livepatch as a folder that `publish` takes.
"""

from __future__ import annotations

from kmend.factory.build.builder import Built, build
from kmend.factory.build.refusal import NoChangeError, Refusal, RefusalCode, RefusedError
from kmend.factory.build.report import explain, write_build

__all__ = ["Built", "NoChangeError", "Refusal", "RefusalCode", "RefusedError", "build", "explain", "write_build"]
