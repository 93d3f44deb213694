"""What stands open on a kernel build, without any host: what later uploads name, and what of that is compiled there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kmend.core.errors import MalformedError
from kmend.core.facts import KernelFacts
from kmend.intel.applicability import Applicability, Build, Presence, Reason, judge
from kmend.intel.feeds.cna import CveRecord
from kmend.intel.feeds.debian import DebianRelease


@dataclass(frozen=True, slots=True)
class Outlook:
    """The answer.

    Attributes:
        named: CVEs that uploads after this build close, newest upload first.
        found: what each of them means for the build, in the same order.
    """

    package: str
    newest: str
    named: tuple[str, ...]
    found: tuple[Applicability, ...]

    @property
    def compiled(self) -> tuple[str, ...]:
        """Those whose code is in the build."""
        return tuple(item.cve for item in self.found if item.presence in (Presence.BUILT_IN, Presence.MODULE))

    @property
    def open(self) -> tuple[str, ...]:
        """Those that the build has, or may have: nothing that is imported says that it has not."""
        return tuple(item.cve for item in self.found if item.affected is not False)

    @property
    def closable(self) -> tuple[str, ...]:
        """Those of `open` that a livepatch may close, since C code was compiled; the factory may still refuse one."""
        return tuple(item.cve for item in self.found if item.affected and item.in_c)

    @property
    def not_built(self) -> tuple[str, ...]:
        """Those whose code is not in the build."""
        return tuple(item.cve for item in self.found if item.reason is Reason.NOT_BUILT)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Those of `open` of which it is not known whether the code is in the build."""
        return tuple(item.cve for item in self.found if item.affected is None)


def fixed_until(releases: Sequence[DebianRelease], package: str) -> frozenset[str]:
    """CVEs that the changelog names in an upload, or in one before it.

    Raises:
        MalformedError: there is no such upload.
    """
    place = _place(releases, package)
    return frozenset(fix.cve for release in releases[place:] for fix in release.fixes)


def named_again(releases: Sequence[DebianRelease], package: str) -> frozenset[str]:
    """CVEs that stable updates had mended in an upload or before, and that a later one mends once more.

    Raises:
        MalformedError: there is no such upload.
    """
    place = _place(releases, package)
    own = {fix.cve for release in releases[place:] for fix in release.fixes if not fix.stable}
    later = {fix.cve for release in releases[:place] for fix in release.fixes if fix.stable}
    return (fixed_until(releases, package) & later) - own


def named_after(releases: Sequence[DebianRelease], package: str) -> tuple[str, ...]:
    """CVEs that later uploads of the same branch close, newest first, and that no earlier one has closed for good.

    Raises:
        MalformedError: there is no such upload.
    """
    place = _place(releases, package)
    before = fixed_until(releases, package) - named_again(releases, package)
    found = (fix.cve for release in releases[:place] for fix in release.fixes if fix.cve not in before)
    return tuple(dict.fromkeys(found))


def outlook(
    facts: KernelFacts | None,
    package: str,
    releases: Sequence[DebianRelease],
    records: Mapping[str, CveRecord],
    rejected: frozenset[str] = frozenset(),
) -> Outlook:
    """What stands open on a build of a distro's package.

    Args:
        releases: the changelog, newest first.
        records: of the CNA; what it does not have is not known, and stays open.

    Raises:
        MalformedError: the changelog does not know the package.
    """
    named = named_after(releases, package)
    build = Build(package, fixed_until(releases, package), facts, named_again(releases, package))
    found = tuple(judge(cve, records.get(cve), build, rejected=cve in rejected) for cve in named)
    return Outlook(package, releases[0].version, named, found)


def _place(releases: Sequence[DebianRelease], package: str) -> int:
    for place, release in enumerate(releases):
        if release.version == package:
            return place
    raise MalformedError(
        f"the changelog does not know the package version {package[:60]}", hint="it may be newer than the changelog"
    )
