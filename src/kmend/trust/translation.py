"""What python-tuf complains about, as errors with a diagnosis."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from tuf.api import exceptions
from tuf.api.serialization import DeserializationError

from kmend.core.errors import SystemProblemError
from kmend.trust import clockcheck
from kmend.trust.errors import (
    BrokenMetadataError,
    MismatchError,
    MixedError,
    RollbackError,
    SignatureError,
    TrustError,
    UnreachableError,
)

MAX_TEXT = 600
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What python-tuf lets through, besides its own errors, when metadata is not of the form that it expects."""
UNREADABLE = (exceptions.RepositoryError, DeserializationError, *MALFORMED)
"""Every way in which metadata that is read directly turns out not to be what it should be."""
_LAG = "a mirror may lag behind, or be in the middle of a copy; if it stays so, somebody holds updates back"
_COPY = "copy the repository again, metadata last and timestamp.json last of all; if it stays so, somebody changes it"


@contextlib.contextmanager
def translated(now: float, server: Callable[[], float | None]) -> Iterator[None]:
    """Turn python-tuf's errors into ours.

    Args:
        now: this host's clock.
        server: asked after an error: the date of the server's last answer, None if unknown. Both in seconds since 1970-01-01 UTC.

    Raises:
        TrustError: see `kmend.trust.errors`.
        SystemProblemError: this host's disk refuses.
    """
    try:
        yield
    except (exceptions.RepositoryError, exceptions.DownloadError) as problem:
        raise translate(problem, now, server()) from problem
    except MALFORMED as problem:
        raise BrokenMetadataError(f"the repository's metadata is malformed: {_plain(problem)}") from problem
    except OSError as problem:
        raise SystemProblemError(f"cannot keep the repository's metadata: {problem.strerror or problem}") from problem


def _plain(problem: Exception) -> str:
    """Its message, which may quote what nobody has signed: bounded, without what a terminal would obey."""
    text = str(problem)
    shown = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."
    return "".join(letter if letter.isprintable() else " " for letter in shown)


def translate(problem: Exception, now: float, server: float | None) -> TrustError:
    """The error for one of python-tuf's."""
    text = _plain(problem)
    if isinstance(problem, exceptions.DownloadError):
        return UnreachableError(text, hint="check the network and the repository's URL")
    if isinstance(problem, exceptions.ExpiredMetadataError):
        return clockcheck.expired(text, now=now, server=server)
    if isinstance(problem, exceptions.UnsignedMetadataError):
        return SignatureError(
            f"the repository's metadata is not signed by the keys that this host trusts: {text}",
            hint="do not go on; ask the publisher whether the keys were changed, by another way than this repository",
        )
    if isinstance(problem, exceptions.BadVersionNumberError):
        if text.startswith("Expected"):
            # python-tuf says so of what the repository itself has named in another version, and "New ..." of the past.
            return MixedError(f"the repository is mixed from different publications: {text}", hint=_COPY)
        return RollbackError(f"the repository offers something older than this host has seen: {text}", hint=_LAG)
    if isinstance(problem, exceptions.LengthOrHashMismatchError):
        return MismatchError(f"content differs from its signed metadata: {text}", hint=_COPY)
    if isinstance(problem.__cause__, DeserializationError) or isinstance(problem, DeserializationError):
        return BrokenMetadataError(
            f"the repository's metadata cannot be read: {text}",
            hint="the file was cut or damaged, or this is no repository; compare it with the publisher's",
        )
    return BrokenMetadataError(f"the repository's metadata is not acceptable: {text}")
