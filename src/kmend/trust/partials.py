"""Downloads that broke off, kept for the next attempt; nothing here is believed before its digest was checked."""

from __future__ import annotations

import contextlib
from pathlib import Path

from kmend.core import durable
from kmend.core.errors import SystemProblemError
from kmend.trust.transport import Partial

SMALLEST = 64 * 1024
"""Less is fetched again."""
_MAX_VALIDATOR = 500


class Partials:
    """A folder that holds the beginning of at most one file: the validator in a line, then the bytes.

    Args:
        folder: created when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, sha256: str, size: int) -> Partial:
        """The beginning of the file with that digest; an empty one if there is none, or none that can be used."""
        try:
            kept = durable.read_bounded(self._folder / sha256, max_bytes=size + _MAX_VALIDATOR + 1)
        except SystemProblemError:
            return Partial()
        line, newline, content = kept.partition(b"\n")
        validator = line.decode("ascii", "replace")
        if not newline or not validator or not validator.isprintable() or not 0 < len(content) < size:
            return Partial()
        return Partial(bytearray(content), validator)

    def keep(self, sha256: str, partial: Partial) -> None:
        """Keep the beginning, in place of any other; a disk that does not take it is no reason to fail."""
        if len(partial.content) < SMALLEST or not partial.validator or len(partial.validator) > _MAX_VALIDATOR:
            return
        with contextlib.suppress(SystemProblemError, OSError, UnicodeEncodeError):
            durable.make_folder(self._folder)
            self.drop()
            durable.write_durably(
                self._folder / sha256, partial.validator.encode("ascii") + b"\n" + bytes(partial.content), mode=0o600
            )

    def drop(self) -> None:
        """Forget what is kept."""
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                path.unlink(missing_ok=True)
