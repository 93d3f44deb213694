"""Maintenance windows: weekly stretches of local time, as instants. Pure.

A window begins at the first instant at which the zone's clocks show its start. Where they leap over the start (the hour that is
lost in spring), it begins when they have leapt. It ends when they first show its end; where that is leapt over too, or is not
after the start, the window keeps the length that its two times have on an ordinary day. So each day that is named has exactly
one window, none is empty, and an hour that comes twice in autumn opens a window once.
"""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kmend.core.errors import MalformedError

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MAX_WINDOWS = 50
_WINDOW = re.compile(
    r"(?:(?P<days>[A-Za-z, -]+) )?(?P<start>[0-2][0-9]:[0-5][0-9]) ?- ?(?P<end>(?:[01][0-9]|2[0-4]):[0-5][0-9])"
)
_MINUTES_A_DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time on some days of the week.

    Attributes:
        days: on which it begins, 0 for Monday.
        start: minutes after midnight, by the clock.
        length: minutes, at most a day.
    """

    days: tuple[int, ...]
    start: int
    length: int


def parse_window(text: str) -> Window:
    """Read `Sat,Sun 02:00-05:00`, `Mon-Fri 22:00-04:00` or `02:00-05:00` (every day); an end before the start is the next day's.

    Raises:
        MalformedError: it is not of that form.
    """
    match = _WINDOW.fullmatch(text.strip())
    if match is None:
        raise MalformedError(f"{text[:60]!r} is not a window; write for example 'Sat,Sun 02:00-05:00'")
    start, end = _minutes(match["start"]), _minutes(match["end"])
    if start >= _MINUTES_A_DAY or end > _MINUTES_A_DAY or start == end:
        raise MalformedError(f"{text[:60]!r} is not a window: times are 00:00 to 24:00, and the two must differ")
    return Window(_days(match["days"], text), start, end - start if end > start else end + _MINUTES_A_DAY - start)


def check_zone(name: str) -> str:
    """`name`, if this host knows that time zone.

    Raises:
        MalformedError: it does not.
    """
    _zone(name)
    return name


def is_open(windows: Sequence[Window], zone: str, now: int) -> bool:
    """Whether one of the windows is open at `now` (seconds since 1970-01-01 UTC)."""
    return any(start <= now < end for start, end in around(windows, zone, now))


def next_open(windows: Sequence[Window], zone: str, now: int) -> int:
    """The first instant from `now` on at which a window is open: `now` itself if one is."""
    if is_open(windows, zone, now):
        return now
    return min(start for start, _ in around(windows, zone, now) if start >= now)


def around(windows: Sequence[Window], zone: str, now: int) -> Iterator[tuple[int, int]]:
    """The windows of the days from two before `now` to ten after, as (first instant, first instant after it)."""
    today = datetime.datetime.fromtimestamp(now, _zone(zone)).date()
    for offset in range(-2, 11):
        day = today + datetime.timedelta(days=offset)
        for window in windows:
            if day.weekday() in window.days:
                yield span(window, zone, day)


def span(window: Window, zone: str, day: datetime.date) -> tuple[int, int]:
    """The window that begins on `day`, as (first instant, first instant after it)."""
    start, _ = _instant(zone, day, window.start)
    end, leapt = _instant(zone, day, window.start + window.length)
    return start, start + window.length * 60 if leapt or end <= start else end


def _instant(zone: str, day: datetime.date, minutes: int) -> tuple[int, bool]:
    """When clocks first show that time, or have leapt over it, and whether they leap."""
    zoned = _zone(zone)
    naive = datetime.datetime.combine(day, datetime.time()) + datetime.timedelta(minutes=minutes)
    after = int(naive.replace(tzinfo=zoned).timestamp())
    if datetime.datetime.fromtimestamp(after, zoned).replace(tzinfo=None) == naive:
        return after, False
    # In a gap, PEP 495 makes fold=1 an instant before it, and fold=0 one after it; the leap is in between.
    before = int(naive.replace(tzinfo=zoned, fold=1).timestamp())
    offset = _offset(zoned, before)
    while after - before > 1:
        middle = (before + after) // 2
        before, after = (middle, after) if _offset(zoned, middle) == offset else (before, middle)
    return after, True


def _offset(zone: datetime.tzinfo, instant: int) -> datetime.timedelta | None:
    return datetime.datetime.fromtimestamp(instant, zone).utcoffset()


@functools.lru_cache(maxsize=16)
def _zone(name: str) -> datetime.tzinfo:
    if name == "UTC":
        return datetime.timezone.utc
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise MalformedError(
            f"{name[:60]!r} is not a time zone that this host knows; write for example Europe/Berlin, or install tzdata"
        ) from None


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return int(hours) * 60 + int(minutes)


def _days(text: str | None, window: str) -> tuple[int, ...]:
    if text is None:
        return tuple(range(7))
    chosen: set[int] = set()
    for part in text.replace(" ", "").split(","):
        first, _, last = part.partition("-")
        try:
            begin, end = (DAYS.index(name.capitalize()) for name in (first, last or first))
        except ValueError:
            raise MalformedError(f"{window[:60]!r}: {part[:20]!r} is no day; days are {', '.join(DAYS)}") from None
        chosen.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    return tuple(sorted(chosen))
