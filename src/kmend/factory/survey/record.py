"""What a survey finds, as plain values."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from kmend.core.kernel import KernelIdentity
from kmend.core.manifest import HeldFunction, VendorRecord
from kmend.factory.build.causes import Cause

_SAME_CODE = frozenset({Cause.LINE_NUMBERS.value, Cause.SHORT_JUMPS.value})
"""Causes that are proved to be none: the fix, compiled as the vendor compiles, gives the vendor's bytes."""


class Outcome(enum.Enum):
    """What became of one file."""

    BUILT = "built"
    REFUSED = "refused"
    NO_CHANGE = "no_change"
    """Neither the fix nor the vendor changes the code of this file."""
    FAILED = "failed"
    """The source does not compile, kmend failed, or the livepatch did not load cleanly."""


@dataclass(frozen=True, slots=True)
class RefusalRecord:
    """A refusal with its evidence; see `kmend.factory.build.Refusal`."""

    code: str
    symbol: str
    section: str
    offset: int
    message: str


@dataclass(frozen=True, slots=True)
class LoadRecord:
    """How a livepatch did in a virtual machine.

    Attributes:
        clean: enabled, its transition completed, replaced or disabled, and unloaded (unless it is pinned), without a
            complaint in the kernel's log.
        problem: what went wrong; empty if nothing did.
        seconds: from its load to the end of its transition.
    """

    clean: bool
    problem: str
    seconds: float


@dataclass(frozen=True, slots=True)
class FileResult:
    """One changed file.

    Attributes:
        path: relative to the source tree.
        objects: `vmlinux` or modules that hold it.
        companions: headers and other files of which the fix takes hunks too, since the file does not compile without.
        functions: that the livepatch replaces.
        module: the livepatch's module name; empty if none was built.
        message: for what is neither built nor refused: why.
        vendor: how the functions compare with the vendor's own.
        load: None if it was not tried.
        seconds: that the build took.
    """

    path: str
    objects: tuple[str, ...]
    outcome: Outcome
    companions: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    refusals: tuple[RefusalRecord, ...] = ()
    module: str = ""
    message: str = ""
    vendor: VendorRecord | None = None
    load: LoadRecord | None = None
    seconds: float = 0.0

    @property
    def equal_to_vendor(self) -> bool:
        """Whether every function that the livepatch brings is the vendor's, `__LINE__` aside."""
        return self.vendor is not None and all(equal(function) for function in self.vendor.functions)


def equal(function: HeldFunction) -> bool:
    """Whether the function is the vendor's; it is too if it was proved so by compiling without kmend's line numbers."""
    return function.identical or function.cause in _SAME_CODE


@dataclass(frozen=True, slots=True)
class Totals:
    """Numbers of files, and of functions.

    Attributes:
        loaded: of the built ones, those that went through their life in a virtual machine cleanly.
        equal_to_vendor: of the built ones, those whose every function is the vendor's.
        functions: that livepatches bring; functions_equal_to_vendor: of those, the vendor's own, `__LINE__` aside;
            functions_identical: bit for bit, `__LINE__` too.
        refusals: files by refusal code (a file may have several).
        causes: functions by why they differ from the vendor's.
    """

    files: int
    built: int
    loaded: int
    equal_to_vendor: int
    refused: int
    no_change: int
    failed: int
    functions: int
    functions_equal_to_vendor: int
    functions_identical: int
    refusals: dict[str, int]
    causes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Survey:
    """The whole document."""

    kernel: KernelIdentity
    vendor: KernelIdentity
    totals: Totals
    files: tuple[FileResult, ...]
    format: str = "kmend-survey/1"


def total(files: Iterable[FileResult]) -> Totals:
    """Count."""
    results = list(files)
    outcomes = Counter(result.outcome for result in results)
    held = [function for result in results if result.vendor is not None for function in result.vendor.functions]
    built = [result for result in results if result.outcome is Outcome.BUILT]
    return Totals(
        files=len(results),
        built=len(built),
        loaded=sum(result.load is not None and result.load.clean for result in built),
        equal_to_vendor=sum(result.equal_to_vendor for result in built),
        refused=outcomes[Outcome.REFUSED],
        no_change=outcomes[Outcome.NO_CHANGE],
        failed=outcomes[Outcome.FAILED],
        functions=len(held),
        functions_equal_to_vendor=sum(equal(function) for function in held),
        functions_identical=sum(function.identical for function in held),
        refusals=dict(sorted(Counter(c for r in results for c in {x.code for x in r.refusals}).items())),
        causes=dict(sorted(Counter(function.cause for function in held if not function.identical).items())),
    )
