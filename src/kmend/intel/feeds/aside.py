"""What a feed holds and cannot be read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeGuard

_CVE = re.compile(r"CVE-(?:19|20)\d{2}-\d{4,19}")


@dataclass(frozen=True, slots=True)
class Aside:
    """A record that was set aside.

    Attributes:
        name: which one, as the feed names it.
        why: for people.
    """

    name: str
    why: str


def is_cve(text: object) -> TypeGuard[str]:
    """Whether it is a CVE's ID."""
    return isinstance(text, str) and _CVE.fullmatch(text) is not None
