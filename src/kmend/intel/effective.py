"""The effective version: the newest release whose fixes this host has, all of them, as far as they concern it.

A convenience for people. What is true of each CVE stands in its verdict; a livepatch holds a part of the fixes of later releases,
which the version cannot say, and `+partial` stands for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kmend.intel.versions import KernelVersion


@dataclass(frozen=True, slots=True)
class Effective:
    """The answer.

    Attributes:
        release: every CVE that a release up to this mends is closed on the host.
        partial: some that later ones mend are, too.
    """

    release: KernelVersion
    partial: bool

    def __str__(self) -> str:
        return f"{self.release}+partial" if self.partial else str(self.release)


def effective(running: KernelVersion, opened: Iterable[int], patched: Iterable[int], newest: int) -> Effective:
    """The effective version of a host.

    Args:
        running: the release that its kernel is made from.
        opened: for each CVE that stands open on it and is mended on this branch: by which stable update.
        patched: likewise, for each that a livepatch has closed.
        newest: the newest stable update of the branch that the feeds know; no version beyond is ever said.
    """
    # What stands open although the running release mends it (the distro took it back) lets no later one be claimed, either.
    limit = min((newest + 1, *(max(update, running.update + 1) for update in opened)))
    reached = [update for update in patched if running.update < update < limit]
    # Without a livepatch's doing, a later release is not claimed only because nothing of it concerns this host.
    update = max(reached, default=running.update)
    return Effective(
        KernelVersion(running.branch, update),
        any(item >= max(limit, running.update + 1) for item in patched),
    )
