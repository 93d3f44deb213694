"""What people read: the status, the history and the quarantine as text, coloured where there is a terminal."""

from __future__ import annotations

import datetime
import textwrap
from collections.abc import Iterable

from kmend.agent.choice import Obstacle
from kmend.agent.examination import Examined
from kmend.agent.history import Record
from kmend.agent.quarantine import Entry
from kmend.agent.status import Status

_GREEN, _YELLOW, _RED, _BOLD, _DIM = "32", "33", "31", "1", "2"
_WORDS = {
    "current": ("current", _GREEN),
    "update-available": ("an update is available", _YELLOW),
    "blocked": ("a newer level is held back on this host", _YELLOW),
    "pending": ("a transition is under way", _YELLOW),
    "reboot-needed": ("reboot needed", _RED),
    "not-supported": ("this kernel build is not supported by the repository", _RED),
    "error": ("attention needed", _RED),
}
_LABEL = 12
_WIDTH = 100


class Painter:
    """Colours text, or not.

    Args:
        colour: whether the output is a terminal that wants colours.
    """

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour

    def __call__(self, text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colour else text


def status(document: Status, paint: Painter) -> str:
    """The status for people."""
    word, colour = _WORDS[document.summary]
    kernel = document.kernel
    lines = [
        _row("kernel", f"{kernel.release}  {paint(kernel.version, _DIM)}"),
        _row("", paint(f"build ID {kernel.build_id}", _DIM)),
        _row("state", paint(word, f"{_BOLD};{colour}")),
    ]
    lines += _livepatch(document, paint)
    if document.available is not None:
        cves = ", ".join(document.available.cves) or "no CVE"
        lines += _rows("available", f"level {document.available.level}: {cves}  (kmend update)")
    if document.stopped:
        lines += _rows("stopped", f"nothing is loaded: {document.stopped}")
    for obstacle in document.blocked:
        lines += _rows("held back", f"level {obstacle.level}: {held_back(obstacle, document.generated)}")
        if obstacle.cves:
            lines += _rows("", f"withholds {', '.join(obstacle.cves)}")
    if document.other_livepatches:
        lines += _rows("others", f"livepatches that are not kmend's: {', '.join(document.other_livepatches)}")
    if document.resident_modules:
        lines += _rows(
            "resident", f"{', '.join(document.resident_modules)} (out of use, to be removed when that is safe)"
        )
    lines += _check(document, paint)
    if document.reboot is not None and document.reboot.verdict != "no":
        needed = paint("needed", _RED) if document.reboot.verdict == "yes" else "not needed"
        lines += _rows("restart", f"{needed}: {document.reboot.reason}")
    for note in document.notes:
        lines += _rows("note", f"{moment(note.at)}  {note.message}")
    return "\n".join(lines)


def history(records: Iterable[Record]) -> str:
    """The history for people, oldest first."""
    rows = [
        f"{moment(record.at)}  {'(found later) ' if record.recovered else ''}level {record.level}: {record.message}"
        for record in records
    ]
    return "\n".join(rows) or "nothing has happened yet"


def quarantine(entries: Iterable[Entry]) -> str:
    """The quarantine for people."""
    rows = [f"{moment(entry.at)}  level {entry.level} ({entry.cause.value}): {entry.message}" for entry in entries]
    return "\n".join(rows) or "nothing is in quarantine"


def preflight(examined: Examined) -> str:
    """What speaks against a load, the worst first."""
    what = f"level {examined.level}" if examined.level else "no level is waiting; the host"
    rows = [f"{what}: {'nothing keeps it out' if examined.fit else 'cannot be loaded now'}"]
    for finding in examined.findings:
        rows.append(f"  {'no ' if finding.fatal else '  '} {finding.code}: {finding.message}")
        if finding.hint:
            rows.append(f"        {finding.hint}")
    return "\n".join(rows)


def held_back(obstacle: Obstacle, now: int) -> str:
    """Why a level is not loaded by itself, and for how long."""
    if not obstacle.rules:
        return obstacle.reason
    if obstacle.by_server_alone:
        return f"{obstacle.reason}; until the server offers it"
    if obstacle.until is None:
        return f"{obstacle.reason}; until the configuration changes"
    return f"{obstacle.reason}; until {moment(obstacle.until)}, {duration(obstacle.until - now)} from now"


def duration(seconds: int) -> str:
    """A length of time in its two largest units."""
    days, rest = divmod(max(0, seconds), 86_400)
    hours, rest = divmod(rest, 3600)
    if days:
        return f"{days} d {hours} h"
    minutes = -(-rest // 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def moment(at: int) -> str:
    """A time in UTC, to the second."""
    return datetime.datetime.fromtimestamp(at, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")


def _livepatch(document: Status, paint: Painter) -> list[str]:
    livepatch = document.livepatch
    if livepatch is None:
        return [_row("livepatch", "none is loaded")]
    states = {
        "in-force": ("in force", _GREEN),
        "coming": ("coming into force", _YELLOW),
        "leaving": ("leaving", _YELLOW),
    }
    word, colour = states[livepatch.state]
    functions = "1 function" if livepatch.functions == 1 else f"{livepatch.functions} functions"
    lines = [
        _row("livepatch", f"level {livepatch.level}, {paint(word, colour)}: {livepatch.module}, {functions} replaced")
    ]
    if not livepatch.known:
        lines += _rows("", "its manifest is not on this host, so its fixes cannot be named")
    verdicts = {item.cve: item.verdict for item in document.cves}
    for fix in livepatch.fixes:
        lines += _rows("fixes" if fix is livepatch.fixes[0] else "", fix.title)
        for cve in fix.cves:
            verdict = verdicts[cve]
            shown = paint(verdict, _RED if verdict == "blocked" else colour)
            lines.append(_row("", f"  {paint(cve, _BOLD)}  {shown}"))
    for reason in livepatch.pinned:
        lines += _rows("pinned", reason)
    if livepatch.tasks:
        since = f" after {livepatch.moving_seconds} s" if livepatch.moving_seconds else ""
        lines += _rows(
            "transition", f"{livepatch.tasks - livepatch.left} of {livepatch.tasks} tasks are switched{since}"
        )
    for task in livepatch.blocking:
        where = f": {task.stack[0] if task.stack else task.why}"
        lines += _rows("waits for", f"{task.name} ({task.task}){where}")
    return lines


def _check(document: Status, paint: Painter) -> list[str]:
    check = document.last_check
    if not document.repository:
        return _rows("last check", paint("no repository is configured", _RED))
    if check is None:
        return _rows("last check", paint("never", _RED) + f"  {document.repository}  (kmend check)")
    lines = []
    if check.kind:
        lines += _rows("last check", f"{moment(check.at)}  {paint('failed', _RED)}: {check.message}")
        lines += _rows("", f"last good one: {moment(check.good_at) if check.good_at else 'never'}")
    else:
        lines += _rows("last check", f"{moment(check.at)}  {document.repository}")
    if check.stale:
        lines += _rows("", paint("the last good check is too long ago", _RED))
    return lines


def _row(label: str, text: str) -> str:
    return f"{label:<{_LABEL}}{text}".rstrip()


def _rows(label: str, text: str) -> list[str]:
    wrapped = textwrap.wrap(text, _WIDTH - _LABEL, break_long_words=False, break_on_hyphens=False) or [""]
    return [_row(label, wrapped[0]), *(_row("", line) for line in wrapped[1:])]
