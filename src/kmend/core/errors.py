"""The one base of every error that kmend raises on purpose."""

from __future__ import annotations

from typing import ClassVar


class KmendError(Exception):
    """A failure with a diagnosis for people and a kind for machines.

    Args:
        message: what went wrong, with the names and numbers that matter.
        hint: what to do next; by default what the class has to say.

    Each room derives its own errors from this; `kind` is a stable, lower-case, hyphenated word that scripts may test, and
    `exit_status` is what a program ends with: 1 for a failure, 2 for a mistake of the caller's and for a refusal.
    """

    kind: ClassVar[str] = "error"
    exit_status: int = 1
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint

    def diagnosis(self) -> str:
        """The message and, on a line of its own, the hint."""
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class MalformedError(KmendError):
    """Bytes from outside do not have the form that they claim."""

    kind = "malformed"
    exit_status = 2


class SystemProblemError(KmendError):
    """The machine refused: a full disk, a missing permission, a missing program."""

    kind = "system"
    default_hint = "look at free space, permissions and memory there"


class UsageError(KmendError):
    """The caller asks for something that makes no sense, or names something that is not what it must be."""

    kind = "usage"
    exit_status = 2
