"""Refusals: what cannot become a livepatch, why, where, and what would make it possible. The codes are a closed list."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from kmend.core.errors import KmendError


class RefusalCode(enum.Enum):
    """Why a fix is refused; scripts may test these words."""

    ASSEMBLY = "assembly"
    BUILD_FILE = "build-file"
    HEADER = "header"
    FILE_ADDED = "file-added"
    FILE_REMOVED = "file-removed"
    NOT_BUILT = "not-built"
    DOES_NOT_APPLY = "does-not-apply"
    COMPILE_ERROR = "compile-error"
    ORIGINAL_DIFFERS = "original-differs"
    INIT_CODE = "init-code"
    FIXED_SECTION = "fixed-section"
    SHORT_JUMP = "short-jump"
    NOT_TRACEABLE = "not-traceable"
    NOT_LINKED = "not-linked"
    ALWAYS_ON_STACK = "always-on-stack"
    CHANGED_DATA = "changed-data"
    STRUCT_LAYOUT = "struct-layout"
    PROTOTYPE = "prototype"
    NEW_WRITABLE_DATA = "new-writable-data"
    STATIC_LOCAL = "static-local"
    REMOVED_EXPORT = "removed-export"
    BOOT_TABLE = "boot-table"
    UNKNOWN_SECTION = "unknown-section"
    UNRESOLVED = "unresolved"
    AMBIGUOUS_SYMBOL = "ambiguous-symbol"
    WEAK_REFERENCE = "weak-reference"
    MODULE_EXPORT = "module-export"
    MODULE_STATIC_KEY = "module-static-key"
    CALLBACK = "callback"
    STATEMENT = "statement"


ALLOWABLE = frozenset(
    {
        RefusalCode.INIT_CODE,
        RefusalCode.ALWAYS_ON_STACK,
        RefusalCode.CHANGED_DATA,
        RefusalCode.STRUCT_LAYOUT,
        RefusalCode.PROTOTYPE,
        RefusalCode.NEW_WRITABLE_DATA,
        RefusalCode.STATIC_LOCAL,
        RefusalCode.REMOVED_EXPORT,
    }
)
"""What a fix's author may vouch for (`Kmend-Allow:`): questions of meaning, which only a person can answer. The rest are
facts about the kernel, and the livepatch could not be loaded, or would do something else, if they were passed over."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason.

    Attributes:
        message: a sentence that a kernel developer accepts.
        hint: what would make it possible; empty if nothing would.
        file: source file; symbol, section, offset: the evidence, as far as it applies (offset in bytes, -1 for none).
    """

    code: RefusalCode
    message: str
    hint: str = ""
    file: str = ""
    symbol: str = ""
    section: str = ""
    offset: int = -1


class RefusedError(KmendError):
    """The fix cannot become a livepatch as it stands. `refusals` holds every reason found, at least one."""

    kind = "refused"
    exit_status = 2

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        lines = [f"{refusal.code.value}: {refusal.message}" for refusal in refusals]
        hints = list(dict.fromkeys(refusal.hint for refusal in refusals if refusal.hint))
        super().__init__("the fix is refused:\n  " + "\n  ".join(lines), hint="\n      ".join(hints))
        self.refusals = tuple(refusals)


class NoChangeError(KmendError):
    """The fix changes nothing in the compiled kernel."""

    kind = "no-functional-change"
    exit_status = 3
