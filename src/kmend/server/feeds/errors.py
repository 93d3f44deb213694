"""What can go wrong with a feed."""

from __future__ import annotations

from typing import ClassVar

from kmend.core.errors import KmendError


class FeedError(KmendError):
    """A feed cannot be had, or cannot be read."""

    kind: ClassVar[str] = "feed"
