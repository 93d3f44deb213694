"""The one base of every error that kmend raises on purpose."""

from __future__ import annotations

from typing import ClassVar


class KmendError(Exception):
    """A failure with a diagnosis for people and a kind for machines.

    Args:
        message: what went wrong, with the names and numbers that matter.
        hint: what to do next; empty when there is nothing useful to say.

    Each room derives its own errors from this; `kind` is a stable, lower-case, hyphenated word that scripts may test.
    """

    kind: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def diagnosis(self) -> str:
        """The message and, on a line of its own, the hint."""
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class MalformedError(KmendError):
    """Bytes from outside do not have the form that they claim."""

    kind = "malformed"


class SystemProblemError(KmendError):
    """The machine refused: a full disk, a missing permission, a missing program."""

    kind = "system"
