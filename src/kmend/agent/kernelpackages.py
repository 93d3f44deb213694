"""The newest kernel that is installed, by dpkg's own record: what a restart would bring. Pure.

Of other package managers the record cannot be read without their libraries; of their hosts it is not known.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable

_IMAGE = re.compile(r"linux-image-(?:unsigned-)?(?P<release>[0-9][A-Za-z0-9.+~-]{0,98})")
_WANTED = frozenset({"Package", "Status", "Version"})
_MAX_LINE = 4096
_PARTS = re.compile(r"([0-9]+)")


def newest(status: Iterable[str], releases: Collection[str]) -> str:
    """The highest version of an installed kernel package; empty if there is none.

    Args:
        status: the lines of `/var/lib/dpkg/status`.
        releases: that have a folder of modules, so that they can be started.
    """
    found = ""
    members: dict[str, str] = {}
    for line in itertools.chain(status, ("",)):
        name, colon, value = line[:_MAX_LINE].partition(":")
        if colon and name in _WANTED:
            members[name] = value.strip()
        elif not line.strip():
            match = _IMAGE.fullmatch(members.get("Package", ""))
            installed = members.get("Status", "").split()[-2:] == ["ok", "installed"]
            version = members.get("Version", "")
            if match is not None and installed and match["release"] in releases and is_newer(version, found):
                found = version
            members = {}
    return found


def is_newer(version: str, other: str) -> bool:
    """Whether a package version comes after another one (deb-version(7)); every one comes after none."""
    return bool(version) and (not other or _key(version) > _key(other))


def _key(version: str) -> tuple[int, list[tuple[tuple[int, ...], int]], list[tuple[tuple[int, ...], int]]]:
    epoch, colon, rest = version.partition(":")
    if not colon or not (epoch.isascii() and epoch.isdigit()):
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "0")
    return int(epoch[:9]), _ordered(upstream), _ordered(revision)


def _ordered(part: str) -> list[tuple[tuple[int, ...], int]]:
    """Turns of other characters and numbers: `~` before the end, letters before the rest."""
    pieces = _PARTS.split(part)
    found = []
    for place in range(0, len(pieces), 2):
        number = int(pieces[place + 1][:18]) if place + 1 < len(pieces) else 0
        found.append(((*(_weight(letter) for letter in pieces[place]), 0), number))
    return found


def _weight(letter: str) -> int:
    if letter == "~":
        return -1
    return ord(letter) if letter.isalpha() else ord(letter) + 256
