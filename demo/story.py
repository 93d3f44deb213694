"""How the demonstration is told: numbered acts, each with its time, the commands as one would type them."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Story:
    """Prints the story to standard output."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self._act = 0
        self._color = sys.stdout.isatty()

    @property
    def now(self) -> float:
        """Seconds since the story began."""
        return time.monotonic() - self.start

    @contextmanager
    def act(self, title: str) -> Iterator[None]:
        """One act: its title at the beginning, its duration at the end."""
        self._act += 1
        began = time.monotonic()
        print(f"\n{self._styled(f'{self._act}. {title}', '1')}", flush=True)
        yield
        print(self._styled(f"   ({time.monotonic() - began:.1f} s)", "2"), flush=True)

    def command(self, words: Sequence[str], where: str = "") -> None:
        """Show a command as it could be typed."""
        prompt = f"{where}# " if where else "$ "
        print(f"   {self._styled(prompt + shlex.join(words), '36')}", flush=True)

    def say(self, text: str) -> None:
        """Show some lines, indented."""
        for line in text.rstrip().expandtabs(4).splitlines():
            print(f"     {line}", flush=True)

    def verdict(self, good: bool, text: str) -> None:
        """Show one decided statement."""
        mark = self._styled("yes", "32") if good else self._styled("NO ", "31;1")
        print(f"   {mark}  {text}", flush=True)

    def _styled(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._color else text
