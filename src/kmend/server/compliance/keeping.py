"""What takes long to find out is found out once, and answered from for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

QUICK_SECONDS = 0.5
"""What is found out sooner is found out anew each time."""
TIMES = 10
"""An answer is given again for so many times as long as it took: at most an eleventh of a processor goes into it."""
LONGEST_SECONDS = 3600
MAX_KEPT = 16


@dataclass(slots=True)
class _Place:
    """One question; whoever asks it while it is being found out waits here."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    answer: Any = None
    until: float = 0.0


class Keeping:
    """Keeps answers by their question, in this process.

    Args:
        seconds: of a clock that never goes back.
    """

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._guard = threading.Lock()
        self._places: dict[Hashable, _Place] = {}

    def get(self, question: Hashable, find: Callable[[], T]) -> T:
        """The answer to a question: one that is kept, or a new one. An error of `find`'s is everybody's own."""
        place = self._place(question)
        with place.turn:
            if self._seconds() < place.until:
                kept: T = place.answer
                return kept
            place.answer = None
            began = self._seconds()
            found = find()
            took = self._seconds() - began
            if took > QUICK_SECONDS:
                place.answer = found
                place.until = self._seconds() + min(TIMES * took, LONGEST_SECONDS)
            return found

    def _place(self, question: Hashable) -> _Place:
        with self._guard:
            place = self._places.pop(question, None) or _Place()
            self._places[question] = place  # the one that was asked last is at the end
            while len(self._places) > MAX_KEPT:
                del self._places[next(iter(self._places))]
            return place
