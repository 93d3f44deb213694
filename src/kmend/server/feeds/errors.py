"""What can go wrong with a feed."""

from __future__ import annotations

from typing import ClassVar

from kmend.core.errors import KmendError


class FeedError(KmendError):
    """A feed cannot be had, or cannot be read.

    Attributes:
        retry_after: seconds for which whoever has it wants to be left alone; None if that is not known.
    """

    kind: ClassVar[str] = "feed"

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after
