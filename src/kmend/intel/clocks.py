"""How long a CVE has stood open on a host: two clocks, which no reboot sets back.

One runs from the CVE's publication (or the host's coming, if that is later), the other from when there was something that closes
it. A host that loses its livepatch goes on where it was: the clocks keep their beginning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kmend.intel.verdicts import CLOSED, Word

_FIX_THERE = frozenset({Word.PENDING, Word.AVAILABLE, Word.WITHHELD, Word.BLOCKED, Word.NEEDS_REBOOT})


@dataclass(frozen=True, slots=True)
class Change:
    """From then on a verdict held, with that detail. `at` is in seconds since 1970-01-01 UTC."""

    at: int
    word: Word
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Clocks:
    """What the changes come to; all in seconds since 1970-01-01 UTC, or seconds.

    Attributes:
        open_since: when it was first open here; None if it never was. That it was closed in between does not change it.
        fix_since: when something that closes it was first there; None if nothing is.
        closed_since: since when it has been closed; None while it is open.
        exposed: seconds in which it was open.
        reopened: how often it was closed and open again.
        since: since when the present verdict holds; None if there is none.
    """

    open_since: int | None
    fix_since: int | None
    closed_since: int | None
    exposed: int
    reopened: int
    since: int | None = None


def clocks(changes: Iterable[Change], now: int, *, published: int = 0, fix_published: int | None = None) -> Clocks:
    """Both clocks from a host's history of one CVE.

    Args:
        changes: in any order.
        published: when the CVE was; nothing is open before that, and what had been closed by then never was.
        fix_published: when the first thing that closes it was published, if that is known better than by the verdicts.
    """
    ordered: list[Change] = []
    for change in sorted(changes, key=lambda change: change.at):
        if ordered and change.at <= max(ordered[-1].at, published):
            ordered.pop()
        ordered.append(change)
    open_since: int | None = None
    fix_since = fix_published
    closed_since: int | None = None
    exposed = reopened = 0
    was_open: int | None = None
    since: int | None = None
    word: Word | None = None
    for change in ordered:
        at = max(change.at, published)
        if change.word is not word:
            since, word = at, change.word
        if change.word in CLOSED:
            if was_open is not None:
                exposed += max(0, at - was_open)
                was_open = None
            if closed_since is None:
                closed_since = at
            continue
        if was_open is None:
            was_open = at
            reopened += open_since is not None
        open_since = at if open_since is None else open_since
        closed_since = None
        if change.word in _FIX_THERE and fix_since is None:
            fix_since = at
    if was_open is not None:
        exposed += max(0, now - was_open)
    return Clocks(open_since, fix_since, closed_since, exposed, reopened, since)
