"""What several commands are given."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import ClassVar

import click

from kmend.server.config import DEFAULT_PATH

config_option = click.option(
    "--config",
    "config_path",
    default=DEFAULT_PATH,
    show_default=True,
    envvar="KMEND_SERVER_CONFIG",
    type=click.Path(path_type=Path),
    help="The server's configuration.",
)


def now() -> datetime.datetime:
    """The time, in UTC and whole seconds."""
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


class Duration(click.ParamType[int]):
    """A time like `15m`, `36h`, `7d`; in seconds."""

    name = "duration"
    _units: ClassVar[dict[str, int]] = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it, or tell what is wrong with it."""
        if isinstance(value, int):
            return value
        text = str(value)
        number, unit = text[:-1], text[-1:]
        if unit not in self._units or not number.isascii() or not number.isdigit() or len(number) > 6:
            self.fail(f"{text!r} is not a time like 15m, 36h or 7d", param, ctx)
        return int(number) * self._units[unit]


DURATION = Duration()
