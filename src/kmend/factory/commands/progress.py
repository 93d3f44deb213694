"""How long work is shown while it goes on: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from kmend.factory.commands.output import say


class ShownProgress:
    """A progress bar on a terminal, plain lines elsewhere; on standard error."""

    def __init__(self) -> None:
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[told]}"),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bars.add_task("", total=0, told="", visible=False)
        self._title, self._count, self._done = "", 0, 0
        self._start = time.monotonic()

    def __enter__(self) -> ShownProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, title: str, count: int) -> None:
        """A step of `count` parts begins."""
        self._title, self._count, self._done, self._start = title, count, 0, time.monotonic()
        if self._bars.disable:
            say(f"- {title} ({count})")
        else:
            self._task = self._bars.add_task(title, total=count, told="")

    def advance(self, told: str) -> None:
        """A part is done."""
        self._done += 1
        if self._bars.disable:
            say(f"  {self._done}/{self._count} {time.monotonic() - self._start:.0f}s {told}")
        else:
            self._bars.update(self._task, advance=1, told=told[:60])
