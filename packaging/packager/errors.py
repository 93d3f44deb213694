"""Why a package cannot be made."""

from __future__ import annotations


class PackagingError(Exception):
    """The definition is wrong, or a tool is missing or fails; the message says which."""
