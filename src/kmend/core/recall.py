"""Recalls: signed statements that a fix, or a level, must no longer be loaded, and perhaps must be taken off (DESIGN, 5)."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from kmend.core.errors import MalformedError
from kmend.core.kernel import check_build_id
from kmend.core.manifest import Manifest, check_digest, check_level

RECALLS_FORMAT = "kmend-recalls/1"
MAX_RECALLS = 1000
MAX_REASON = 500


class Extent(str, enum.Enum):
    """How far a recall goes; each holds the one before."""

    STOP_NEW = "stop-new"
    STOP_REAPPLY = "stop-reapply"
    REVERT = "revert"


@dataclass(frozen=True, slots=True)
class Recall:
    """One recall: of a fix wherever it is, or of one level of one kernel build.

    Attributes:
        number: by which it is withdrawn; never used again.
        extent: `stop-new`: not loaded any more; `stop-reapply`: nor at boot; `revert`: taken off where it is loaded.
        reason: for people.
        at: seconds since 1970-01-01 UTC.
        fix: digest; empty if a level is recalled.
        build_id, level: empty and 0 if a fix is recalled.
    """

    number: int
    extent: Extent
    reason: str
    at: int
    fix: str = ""
    build_id: str = ""
    level: int = 0

    def __post_init__(self) -> None:
        if self.number < 1 or not 0 < len(self.reason) <= MAX_REASON or not self.reason.isprintable():
            raise MalformedError(
                f"a recall has a number from 1 on, and a reason of one line of at most {MAX_REASON} characters"
            )
        if self.fix:
            check_digest(self.fix)
        if bool(self.fix) == bool(self.build_id):
            raise MalformedError("a recall is of a fix or of a level, and of one of the two")
        if self.build_id:
            check_build_id(self.build_id)
            check_level(self.level)

    def concerns(self, manifest: Manifest) -> bool:
        """Whether this level is recalled, or holds the fix and does not say that it clears it."""
        if self.fix:
            return self.fix in manifest.fix_digests and self.fix not in manifest.clears
        return (self.build_id, self.level) == (manifest.kernel.build_id, manifest.level)


@dataclass(frozen=True, slots=True)
class Recalls:
    """All recalls that stand, as they are signed.

    Attributes:
        version: rises with each change; 0 where there has never been one.
        last: the highest number that was ever given.
    """

    version: int = 0
    last: int = 0
    recalls: tuple[Recall, ...] = ()
    format: str = RECALLS_FORMAT

    def __post_init__(self) -> None:
        if self.format != RECALLS_FORMAT:
            raise MalformedError(f"recalls format {self.format[:40]!r} is not {RECALLS_FORMAT}", hint="update kmend")
        if len(self.recalls) > MAX_RECALLS:
            raise MalformedError(f"there are {len(self.recalls)} recalls; {MAX_RECALLS} are accepted")
        numbers = [item.number for item in self.recalls]
        if numbers != sorted(set(numbers)) or (numbers and numbers[-1] > self.last) or self.version < 0:
            raise MalformedError("the recalls are not in the order of their numbers")

    def of(self, manifest: Manifest, extents: Collection[Extent] = tuple(Extent)) -> Recall | None:
        """The last recall of one of these extents that concerns a level; None if none does."""
        found = [item for item in self.recalls if item.extent in extents and item.concerns(manifest)]
        return found[-1] if found else None

    @property
    def fixes(self) -> frozenset[str]:
        """Every recalled fix: leaving it out is no regression."""
        return frozenset(item.fix for item in self.recalls if item.fix)
