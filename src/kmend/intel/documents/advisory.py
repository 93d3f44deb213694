"""What a level's advisory says; CSAF, OSV and OVAL say the same in their own words."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_OUTSIDE = re.compile(r"[^A-Za-z0-9+._~-]+")


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A recall that concerns the level.

    Attributes:
        at: seconds since 1970-01-01 UTC.
        reason: what the publisher says.
    """

    at: int
    reason: str


@dataclass(frozen=True, slots=True)
class Advisory:
    """A published level.

    Attributes:
        name: of the advisory, unique where it is published; databases that are not registered with OSV begin theirs with `x_`.
        published: seconds since 1970-01-01 UTC.
        before: the level that it replaces; 0 for none.
        release, version: of the kernel, as `uname -r` and `uname -v` print them.
        functions: `object:function`.
        references: URLs of the fixes.
        architecture: `uname -m`.
        titles: CVE -> what it is about, as far as that is known.
        fixes: CVE -> URLs of the commits that mend it, as far as they are known.
        unaffected: CVE -> why this kernel build does not have it, although a fix of the level names it.
        withdrawn: the recall that is in force; None for none.
        changes: earlier recalls and their ends, and when what is known of its CVEs became another, as (when, what), oldest first;
            without the recall in force.
    """

    name: str
    published: int
    level: int
    before: int
    cves: tuple[str, ...]
    package: str
    release: str
    build_id: str
    module: str
    module_sha256: str
    functions: tuple[str, ...]
    references: tuple[str, ...] = ()
    ecosystem: str = "Debian:12"
    source: str = "linux"
    version: str = ""
    architecture: str = "x86_64"
    titles: Mapping[str, str] = field(default_factory=dict)
    fixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unaffected: Mapping[str, str] = field(default_factory=dict)
    withdrawn: Withdrawal | None = None
    changes: tuple[tuple[int, str], ...] = ()

    @property
    def modified(self) -> int:
        """When what it says was changed last."""
        times = [self.published, *(at for at, _ in self.changes)]
        return max([*times, self.withdrawn.at] if self.withdrawn is not None else times)


def advisory_name(release: str, build_id: str, level: int) -> str:
    """`KMEND-<release>-<build ID, shortened>-<level>`: one for each level, the same wherever it is published."""
    return f"KMEND-{_OUTSIDE.sub('_', release)}-{build_id[:12]}-{level}"


def moment(at: int) -> str:
    """Seconds since 1970-01-01 UTC, as RFC 3339 has it."""
    return datetime.datetime.fromtimestamp(at, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
