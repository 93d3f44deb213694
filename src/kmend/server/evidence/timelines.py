"""A host's way through the period, from its own reports; and what is open in each state that it passed. Pure.

The server makes the timelines of a pack with this, and whoever verifies the pack makes them again from what hosts and publisher
have signed: a timeline that says something else is a lie.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from kmend.core.document import encode
from kmend.core.manifest import sha256_hex
from kmend.core.wire import CheckIn, ModuleReport, StateReport
from kmend.intel.applicability import Applicability, Presence, Reason
from kmend.intel.verdicts import HostKernel, Level, Verdict, Word, verdict
from kmend.server.evidence.documents import Around, Meaning, State, Stay, Surroundings, Timeline, Turn

ON_ITS_WAY = frozenset({"transitioning", "loading"})
FIRST, MODULES = "first report", "its modules"
Key = tuple[str, int, str]
"""Kernel build, level that counts (0 for none), and name of the surroundings."""
Levels = Mapping[int, Mapping[str, tuple[str, ...]]]
"""Of a build: number -> CVE that it closes -> objects that it patches for that; none if that is not known."""
_NAME_LENGTH = 16
_UNKNOWN = Meaning("", "", None, "", Presence.UNKNOWN.value, (), (), "")
_PRESENCES = frozenset(item.value for item in Presence)


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


@dataclass(frozen=True, slots=True)
class Said:
    """What a host has said of its modules, as the server takes it (`kmend.server.hosts.checkin.judge`).

    Attributes:
        tag: of the report; empty if it has said nothing that still holds.
        boot_id: of the last check-in.
    """

    tag: str = ""
    boot_id: str = ""
    report: ModuleReport | None = None


def said_after(before: Said, message: CheckIn) -> Said:
    """What holds after one more report."""
    news = message.modules != before.tag
    if message.module_report is not None and news:
        return Said(message.modules, message.boot_id, message.module_report)
    if before.tag and (not message.modules or (news and message.boot_id != before.boot_id)):
        return Said("", message.boot_id)
    return replace(before, boot_id=message.boot_id)


def watched(meanings: Iterable[Meaning]) -> frozenset[str]:
    """Modules of a build on which it turns whether something is open: that alone may have the code."""
    return frozenset(name for item in meanings if _is_in_modules(item) for name in item.objects)


def around_of(said: Said, build_id: str, level: int, modules: frozenset[str]) -> Around | None:
    """What of a host's modules counts in a state; None if nothing does, or the host has not said.

    Args:
        level: that counts; 0 for none.
        modules: that are watched on the build.
    """
    report = said.report
    if report is None:
        return None
    out = modules.difference(report.loaded)
    absent = out.intersection(report.absent)
    barred = out - absent if report.sealed else (out - absent).intersection(report.barred)
    unpatched = set(report.unpatched) if level else set()
    if not (absent or barred or unpatched):
        return None
    return Around(build_id, level, *(tuple(sorted(names)) for names in (absent, barred, unpatched)))


def name_of(around: Around | None) -> str:
    """By which a stay names its surroundings."""
    return sha256_hex(encode(around))[:_NAME_LENGTH] if around is not None else ""


def surroundings(around: Around, meanings: Iterable[Meaning], levels: Levels) -> Surroundings:
    """What surroundings change, by the same rules as the server's own answers (`kmend.intel.verdicts`).

    Args:
        meanings, levels: of the build.
    """
    closes = levels.get(around.level, {})
    out = {*around.absent, *around.barred}
    not_present, left_out = [], []
    found = {item.cve: item for item in meanings}
    for cve, item in found.items():
        if item.affected is False or not (_is_in_modules(item) and out.intersection(item.objects)):
            continue
        if cve not in closes and not _verdict(item, around, closes).open:
            not_present.append(cve)
    if around.unpatched:
        for cve in closes:
            item = found.get(cve, _UNKNOWN)
            if item.affected is not False and _verdict(replace(item, cve=cve), around, closes).open:
                left_out.append(cve)
    return Surroundings(name_of(around), around, tuple(sorted(not_present)), tuple(sorted(left_out)))


def opened(
    states: Callable[[str, int], Collection[str]], around: Callable[[str], Surroundings]
) -> Callable[[Key], Collection[str]]:
    """What is open by key: of a state, with what its surroundings change.

    Args:
        states: what is open in a state.
    """

    def open_in(key: Key) -> Collection[str]:
        build_id, level, name = key
        found = states(build_id, level)
        if not name:
            return found
        changed = around(name)
        return (set(found) - set(changed.not_present)) | set(changed.left_out)

    return open_in


def is_mitigated(item: Meaning, around: Around) -> bool:
    """Whether all that has the code cannot be loaded: it is open still, and nothing on the host reaches it."""
    return _verdict(item, around, {}).word is Word.MITIGATED


def _is_in_modules(item: Meaning) -> bool:
    return item.affected is not False and item.presence == Presence.MODULE.value and item.complete


def _verdict(item: Meaning, around: Around, closes: Mapping[str, tuple[str, ...]]) -> Verdict:
    presence = Presence(item.presence) if item.presence in _PRESENCES else Presence.UNKNOWN
    means = Applicability(item.cve, item.affected, Reason.NO_RECORD, presence, item.objects, complete=item.complete)
    there = frozenset(item.objects).difference(around.absent, around.barred)
    host = HostKernel(
        around.level, modules=there, barred=frozenset(around.barred), absent=frozenset(around.absent),
        unpatched=frozenset(around.unpatched),
    )  # fmt: skip
    return verdict(means, host, [Level(around.level, frozenset(closes), closes)] if around.level else [])


def stay_of(message: CheckIn, report: StateReport, around: Callable[[str, int], str] = lambda *_: "") -> Stay:
    """What a report says that the host runs.

    Args:
        around: the name of the surroundings, for a kernel build and the level that counts.
    """
    held = report.loaded
    pending = report.trying is not None and report.state in ON_ITS_WAY
    if pending:
        held = report.trying
    level = held.level if held is not None else 0
    return Stay(
        at=report.at,
        counter=message.counter,
        boot_id=report.boot_id,
        build_id=report.kernel.build_id,
        level=level,
        module=held.module if held is not None else "",
        sha256=held.sha256 if held is not None else "",
        pending=pending,
        around=around(report.kernel.build_id, 0 if pending else level),
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
    return stay.build_id, 0 if stay.pending else stay.level, stay.around


def state(build_id: str, level: int, meanings: Iterable[Meaning], levels: Mapping[int, Iterable[str]]) -> State:
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
    if key_of(now)[1] == key_of(before)[1] and not before.pending:
        return MODULES
    if key_of(now)[1] > key_of(before)[1]:
        return f"level {now.level}"
    why = " by a reboot" if before.boot_id != now.boot_id else ""
    left = f", level {now.level} in its place" if key_of(now)[1] else ""
    return f"level {before.level} taken off{why}{left}"
