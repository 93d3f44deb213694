"""`kmend uname`: the running kernel's names with the level that is in force, for inventories that want one string.

The level is appended, `6.1.176-1+0kmend3`: by the rules of dpkg and of rpm that sorts after the version that runs and before
every later one of the vendor's, also before `6.1.176-1+deb12u1` and `+b1`, which is what the zero is for. It says that something
was patched. It never takes over the vendor's version of a fixed kernel, since a scanner would believe that everything in that
version is fixed; which CVEs are, `kmend cves` says (docs/decisions/0017-effective-version.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kmend.agent.session import Session
from kmend.core.errors import MalformedError
from kmend.core.kernel import KernelRef

_DEBIAN = re.compile(r"\bDebian (?P<package>[0-9][A-Za-z0-9.+~:-]*)")


@dataclass(frozen=True, slots=True)
class Effective:
    """`kmend uname --json`; only ever gains members.

    Attributes:
        release: `uname -r`.
        package: version of the kernel's package, empty if it is not known.
        level: in force, 0 for none; one whose transition is under way does not count.
        effective_release: `release` with the level.
        effective_package: `package` with the level; empty if that is not known.
    """

    release: str
    package: str
    level: int
    effective_release: str
    effective_package: str
    format: str = "kmend-uname/1"


def effective(session: Session) -> Effective:
    """The names of what runs."""
    view = session.kernel.view()
    current = view.current
    manifest = session.loaded(view)
    in_force = current is not None and current.enabled and not current.transition and manifest is not None
    level = manifest.level if manifest is not None and in_force else 0
    release = session.running.release
    package = package_of(session.running.version, manifest.kernel.ref if manifest is not None else "")
    suffix = f"+0kmend{level}" if level else ""
    return Effective(release, package, level, release + suffix, package + suffix if package else "")


def package_of(version: str, ref: str) -> str:
    """The package version: as the level's signed kernel ref has it, else as Debian writes it into `uname -v`."""
    try:
        stated = KernelRef.parse(ref).package if ref else None
    except MalformedError:
        stated = None
    if stated:
        return stated
    match = _DEBIAN.search(version)
    return match["package"] if match is not None else ""
