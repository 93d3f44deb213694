"""A host's way through the period, from its own reports; and what is open in each state that it passed. Pure.

The server makes the timelines of a pack with this, and whoever verifies the pack makes them again from what hosts and publisher
have signed: a timeline that says something else is a lie.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from kmend.core.wire import CheckIn, StateReport
from kmend.server.evidence.documents import Meaning, State, Stay, Timeline, Turn

ON_ITS_WAY = frozenset({"transitioning", "loading"})
FIRST = "first report"
Key = tuple[str, int]
"""Kernel build and level that counts; 0 for none."""


@dataclass(frozen=True, slots=True)
class Closing:
    """How a CVE fared on a host.

    Attributes:
        detected: the first report of a kernel that has it open; None if there is none in the period.
        closed_at, closed_by: the last time that it was closed; None and empty while it is open.
        reopened: how often it was closed and open again.
    """

    detected: int | None
    closed_at: int | None
    closed_by: str
    reopened: int


def is_unpatched(message: CheckIn, report: StateReport, boot_id: str, *, before: bool) -> bool:
    """Whether the kernel has left out something that the level should patch, as the host has said last on this boot.

    Args:
        boot_id, before: of the report before, and what was true of it.
    """
    if message.module_report is not None:
        return bool(message.module_report.unpatched)
    return before and report.boot_id == boot_id


def stay_of(message: CheckIn, report: StateReport, *, unpatched: bool = False) -> Stay:
    """What a report says that the host runs.

    Args:
        unpatched: not all that the level patches is patched: it counts as one that is on its way in.
    """
    held = report.loaded
    on_its_way = report.trying is not None and report.state in ON_ITS_WAY
    if on_its_way:
        held = report.trying
    pending = on_its_way or (unpatched and held is not None)
    return Stay(
        at=report.at,
        counter=message.counter,
        boot_id=report.boot_id,
        build_id=report.kernel.build_id,
        level=held.level if held is not None else 0,
        module=held.module if held is not None else "",
        sha256=held.sha256 if held is not None else "",
        pending=pending,
    )


def timeline(host: str, found: Iterable[Stay], counts: Callable[[Key, Key | None], tuple[int, int, int]]) -> Timeline:
    """A host's timeline.

    Args:
        found: one of each report, by counter.
        counts: of a state and the one before it: how many CVEs were closed, reopened, and are open now.
    """
    stays: list[Stay] = []
    turns: list[Turn] = []
    for stay in changes(found):
        before = stays[-1] if stays else None
        stays.append(stay)
        if before is None or key_of(before) != key_of(stay):
            closed, reopened, left = counts(key_of(stay), key_of(before) if before is not None else None)
            turns.append(Turn(stay.at, stay.counter, closed, reopened, left, _cause(before, stay)))
    return Timeline(host, tuple(stays), tuple(turns))


def changes(found: Iterable[Stay]) -> Iterator[Stay]:
    """Without those that say what the one before them says."""
    before: Stay | None = None
    for stay in found:
        if before is None or not _same(before, stay):
            yield stay
            before = stay


def key_of(stay: Stay) -> Key:
    """The state that a host is in: what is only on its way in does not count."""
    return stay.build_id, 0 if stay.pending else stay.level


def state(build_id: str, level: int, meanings: Iterable[Meaning], levels: Mapping[int, Collection[str]]) -> State:
    """What is open where this build runs with this level.

    Args:
        meanings: of the build.
        levels: of the build: number -> CVEs that it closes, by its manifest.
    """
    found = {item.cve: item.affected for item in meanings}
    named = {cve for closes in levels.values() for cve in closes}
    may_be_open = {cve for cve, affected in found.items() if affected is not False} | (named - found.keys())
    closed = may_be_open & set(levels.get(level, ()))
    return State(build_id, level, tuple(sorted(may_be_open - closed)), tuple(sorted(closed)))


def counting(open_in: Callable[[Key], Collection[str]]) -> Callable[[Key, Key | None], tuple[int, int, int]]:
    """What `timeline` needs, from the open CVEs of each state; each pair of states is compared once."""
    known: dict[tuple[Key, Key | None], tuple[int, int, int]] = {}

    def counts(now: Key, before: Key | None) -> tuple[int, int, int]:
        if (now, before) not in known:
            is_open = set(open_in(now))
            was_open = set(open_in(before)) if before is not None else is_open
            known[now, before] = (len(was_open - is_open), len(is_open - was_open), len(is_open))
        return known[now, before]

    return counts


def closing(cve: str, stays: Sequence[Stay], open_in: Callable[[Key], Collection[str]]) -> Closing:
    """What a timeline says of one CVE."""
    detected: int | None = None
    closed_at: int | None = None
    by = ""
    reopened = 0
    before: Stay | None = None
    for stay in stays:
        if cve in open_in(key_of(stay)):
            reopened += closed_at is not None
            detected = stay.at if detected is None else detected
            closed_at, by = None, ""
        elif detected is not None and closed_at is None:
            closed_at, by = stay.at, _cause(before, stay)
        before = stay
    return Closing(detected, closed_at, by, reopened)


def _same(before: Stay, now: Stay) -> bool:
    return before == replace(now, at=before.at, counter=before.counter)


def _cause(before: Stay | None, now: Stay) -> str:
    if before is None:
        return FIRST
    if before.build_id != now.build_id:
        return f"kernel build {now.build_id}"
    if now.pending:
        return f"level {now.level} on its way in"
    if key_of(now)[1] > key_of(before)[1]:
        return f"level {now.level}"
    why = " by a reboot" if before.boot_id != now.boot_id else ""
    left = f", level {now.level} in its place" if key_of(now)[1] else ""
    return f"level {before.level} taken off{why}{left}"
