"""What this host's own policy withholds, by which rule, and until when. Pure: configuration, a publication and the time in.

A rule withholds a level from what kmend does by itself; a person who names it (`kmend update --level N`) gets it.
"""

from __future__ import annotations

import datetime
import enum
import re
from dataclasses import dataclass

from kmend.core import windows
from kmend.core.errors import MalformedError
from kmend.core.manifest import check_channel

_HOLD = re.compile(r"(?P<count>[0-9]{1,5})(?P<unit>[hd])")
MAX_HOLD_HOURS = 366 * 24


class Rule(str, enum.Enum):
    """The rules, in the order in which they are reported."""

    NO_APPLY = "no-apply"
    CHANNEL = "channel"
    PIN_LEVEL = "pin-level"
    PIN_DATE = "pin-date"
    HOLD = "hold"
    WINDOW = "window"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class ApplyPolicy:
    """The section `[apply]`: what kmend loads by itself, and when.

    Attributes:
        automatic: False: nothing is loaded by itself.
        hold: how long after its publication a level waits: `36h`, `3d`, `0h`.
        pin_level: no level above this one; 0 for none.
        pin_date: no level published after this day (`2026-11-24`, to its end in `timezone`); empty for none.
        windows: when levels may be loaded (`Sat,Sun 02:00-05:00`); none for always.
        timezone: of windows and pin_date.
        channel: besides levels for everybody, take those published for this channel; empty for none.
    """

    automatic: bool = True
    hold: str = "0h"
    pin_level: int = 0
    pin_date: str = ""
    windows: tuple[str, ...] = ()
    timezone: str = "UTC"
    channel: str = ""

    def __post_init__(self) -> None:
        hold_seconds(self.hold)
        windows.check_zone(self.timezone)
        pinned_until(self)
        if self.pin_level < 0:
            raise MalformedError("pin_level must be a level, or 0 for none")
        if len(self.windows) > windows.MAX_WINDOWS:
            raise MalformedError(f"there are {len(self.windows)} windows; {windows.MAX_WINDOWS} are accepted")
        for text in self.windows:
            windows.parse_window(text)
        if self.channel:
            check_channel(self.channel)


@dataclass(frozen=True, slots=True)
class Publication:
    """What the signed list says of one level: when it was published, and for which channel (empty for everybody)."""

    level: int
    published: int
    channel: str = ""


@dataclass(frozen=True, slots=True)
class Withheld:
    """One rule that withholds a level.

    Attributes:
        until: when this rule lets it go, in seconds since 1970-01-01 UTC; None if only the configuration can.
        reason: for people.
    """

    rule: Rule
    until: int | None
    reason: str


def hold_seconds(text: str) -> int:
    """The seconds in `36h` or `3d`.

    Raises:
        MalformedError: it is not of that form, or more than 366 days.
    """
    match = _HOLD.fullmatch(text)
    hours = int(match["count"]) * (24 if match["unit"] == "d" else 1) if match is not None else -1
    if not 0 <= hours <= MAX_HOLD_HOURS:
        raise MalformedError(f"hold is {text[:40]!r}; write hours or days, for example 36h or 3d, at most 366d")
    return hours * 3600


def pinned_until(policy: ApplyPolicy) -> int | None:
    """The first instant after the day `pin_date`; None if there is none.

    Raises:
        MalformedError: it is not a date.
    """
    if not policy.pin_date:
        return None
    try:
        day = datetime.date.fromisoformat(policy.pin_date)
    except ValueError:
        raise MalformedError(f"pin_date is {policy.pin_date[:40]!r}; write for example 2026-11-24") from None
    if not 1970 <= day.year <= 9000:
        raise MalformedError(f"pin_date is {policy.pin_date}; the year is not believable")
    whole_day = windows.Window(tuple(range(7)), 0, 24 * 60)
    return windows.span(whole_day, policy.timezone, day)[1]


def withholding(policy: ApplyPolicy, publication: Publication, now: int) -> tuple[Withheld, ...]:
    """Every rule that withholds a level at `now`, in the order of `Rule`; empty if the host may load it.

    A window is told from the time on at which the other rules have let the level go.
    """
    found: list[Withheld] = []
    if not policy.automatic:
        found.append(Withheld(Rule.NO_APPLY, None, "nothing is loaded by itself (apply.automatic is false)"))
    if publication.channel not in ("", policy.channel):
        found.append(Withheld(Rule.CHANNEL, None, f"it is published for the channel {publication.channel} only"))
    if policy.pin_level and publication.level > policy.pin_level:
        found.append(Withheld(Rule.PIN_LEVEL, None, f"this host is pinned to level {policy.pin_level}"))
    pinned = pinned_until(policy)
    if pinned is not None and publication.published >= pinned:
        found.append(Withheld(Rule.PIN_DATE, None, f"this host is pinned to what was published by {policy.pin_date}"))
    hold = hold_seconds(policy.hold)
    ripe = publication.published + hold if hold else now
    if now < ripe:
        found.append(Withheld(Rule.HOLD, ripe, f"it is held for {policy.hold} after its publication"))
    if policy.windows:
        parsed = [windows.parse_window(text) for text in policy.windows]
        if not windows.is_open(parsed, policy.timezone, now):
            opens = windows.next_open(parsed, policy.timezone, max(now, ripe))
            found.append(Withheld(Rule.WINDOW, opens, f"no maintenance window is open ({policy.timezone})"))
    return tuple(found)


def pins(policy: ApplyPolicy, publication: Publication) -> tuple[Withheld, ...]:
    """The rules that keep even what ran here before from coming back at boot: a pin, but not the time of day or a hold."""
    rules = withholding(policy, publication, publication.published)
    return tuple(rule for rule in rules if rule.rule in (Rule.PIN_LEVEL, Rule.PIN_DATE))


def released(rules: tuple[Withheld, ...]) -> int | None:
    """When all of the rules have let the level go; None if that needs a change of configuration."""
    times = [rule.until for rule in rules]
    return None if None in times else max((time for time in times if time is not None), default=None)
