"""Where a package stands among the uploads that a distro's changelog tells of.

A distro has a changelog for each of its releases, and each of these has one branch of the kernel: Debian 12 has 6.1, Debian 13
has 6.12. What one changelog names says nothing of another one's packages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from kmend.core.errors import MalformedError
from kmend.intel.versions import KernelVersion

_BRANCH = re.compile(r"(?:[0-9]+:)?(2\.6\.[0-9]{1,3}|[0-9]{1,3}\.[0-9]{1,3})(?![0-9])")
_BACKPORT = re.compile(r"~bpo[0-9]{1,3}\+[0-9]{1,3}$")


def branch_of(package: str) -> str:
    """The branch of a package's version: `6.1` of `6.1.176-1`, and of `6.1~rc3-1`; empty if that cannot be read."""
    found = _BRANCH.match(package)
    return found[1] if found is not None else ""


def changelog_of(package: str, uploads: Mapping[str, Mapping[str, int]]) -> str:
    """The changelog that speaks of a package: that of its own branch, or else one that names this very package; empty for none.

    Args:
        uploads: the changelogs, by their branch -> package -> place, rising.
    """
    own = branch_of(package)
    if own in uploads:
        return own
    return min((branch for branch, places in uploads.items() if package in places), default="")


def place_of(package: str, places: Mapping[str, int]) -> int:
    """The last upload that a package has everything of; 0 if none is known.

    A backport has what the upload has that it was made from. A package that the changelog does not name, since it is newer or
    somebody else's, has what those uploads have that are of its branch, and of an earlier stable update.
    """
    for name in (package, _BACKPORT.sub("", package)):
        if name in places:
            return places[name]
    return max((places[name] for name in _earlier(package, places)), default=0)


def _earlier(package: str, names: Iterable[str]) -> Iterable[str]:
    try:
        own = KernelVersion.of_package(package)
    except MalformedError:
        return
    for name in names:
        try:
            other = KernelVersion.of_package(name)
        except MalformedError:
            continue
        if other.branch == own.branch and other.update < own.update:
            yield name
