"""Pairs of the kernel CNA's `.dyad` files: where a bug came in, and where it was mended, branch by branch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kmend.core.errors import MalformedError
from kmend.intel.versions import KernelVersion

_COMMIT = re.compile(r"[0-9a-f]{40}")
MAX_PAIRS = 2000


@dataclass(frozen=True, slots=True)
class Pair:
    """One line of a `.dyad` file.

    Attributes:
        introduced: the first release with the bug; None if it has always been there, as far as is known.
        introduced_by: its commit, in that branch; empty if that is not known.
        fixed: the first release without it; None where it is not mended.
        fixed_by: its commit, in that branch; empty if there is none.
    """

    introduced: KernelVersion | None
    introduced_by: str
    fixed: KernelVersion | None
    fixed_by: str


def read_dyad(text: str) -> tuple[Pair, ...]:
    """Read a `.dyad` file. One line that cannot be read makes all of it unreadable: half of the pairs would be another statement.

    Raises:
        MalformedError: a line is no pair, or there is none.
    """
    pairs = [_pair(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not pairs:
        raise MalformedError("there is no pair in it")
    if len(pairs) > MAX_PAIRS:
        raise MalformedError(f"more than {MAX_PAIRS} pairs")
    return tuple(pairs)


def is_vulnerable(pairs: Sequence[Pair], release: KernelVersion) -> bool:
    """Whether a release has the bug: some pair brought it in, and no pair has mended it after that.

    A fix that is older than the bug mends another one: CVE-2025-38585 has two bugs, and the first was mended in 4.18, while the
    second came in with 5.8.
    """
    inside = [pair for pair in pairs if pair.introduced is None or pair.introduced.is_in(release)]
    fixes = {pair.fixed for pair in inside if pair.fixed is not None and pair.fixed.is_in(release)}
    return any(not any(_mends(fix, pair.introduced) for fix in fixes) for pair in inside)


def _mends(fix: KernelVersion, introduced: KernelVersion | None) -> bool:
    return introduced is None or fix == introduced or not fix.is_in(introduced)


def fixed_in(pairs: Sequence[Pair], branch: tuple[int, ...]) -> KernelVersion | None:
    """The stable update of a branch that mends it; None if there is none."""
    found = [pair.fixed for pair in pairs if pair.fixed is not None and pair.fixed.branch == branch]
    return min(found, default=None)


def _pair(line: str) -> Pair:
    parts = line.strip().split(":")
    if len(parts) != 4:
        raise MalformedError(f"{line[:80]!r} is not four words with colons between")
    return Pair(_release(parts[0]), _commit(parts[1]), _release(parts[2]), _commit(parts[3]))


def _release(text: str) -> KernelVersion | None:
    return None if text == "0" else KernelVersion.parse(text)


def _commit(text: str) -> str:
    if text == "0":
        return ""
    if not _COMMIT.fullmatch(text):
        raise MalformedError(f"{text[:60]!r} is not a commit")
    return text
