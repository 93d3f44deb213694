"""`kmend nagios`: the status as a check of Nagios, Icinga, Naemon and their kind.

One line and an exit code, by the Monitoring Plugins Development Guidelines: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN, and after a
bar the performance data, `label=value[unit];warn;crit;min;max`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from kmend.agent import metrics
from kmend.agent.conditions import CODES
from kmend.agent.status import Status
from kmend.core.errors import UsageError

_MAX_LINE = 1000


class Severity(enum.IntEnum):
    """What a condition is worth; the number is the exit code."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


DEFAULTS: Mapping[str, Severity] = {
    "never-checked": Severity.UNKNOWN,
    "check-failed": Severity.WARNING,
    "stale": Severity.CRITICAL,
    "unconfirmed": Severity.CRITICAL,
    "not-supported": Severity.WARNING,
    "oopsed": Severity.CRITICAL,
    "transition-pending": Severity.OK,
    "stopped": Severity.WARNING,
    "recalled": Severity.WARNING,
    "quarantined": Severity.CRITICAL,
    "withheld": Severity.OK,
    "regression": Severity.WARNING,
    "update-available": Severity.WARNING,
    "return-refused": Severity.CRITICAL,
    "frozen": Severity.WARNING,
    "not-offered": Severity.OK,
}
_ORDER = (Severity.OK, Severity.UNKNOWN, Severity.WARNING, Severity.CRITICAL)


def severities(changes: Mapping[Severity, str]) -> dict[str, Severity]:
    """`DEFAULTS` with what the caller wants otherwise: a severity to conditions, separated by commas.

    Raises:
        UsageError: there is no such condition.
    """
    wanted = dict(DEFAULTS)
    for severity, text in changes.items():
        for code in (word.strip() for word in text.split(",")):
            if code not in CODES:
                raise UsageError(f"{code[:40]!r} is not a condition", hint=f"there are {', '.join(CODES)}")
            wanted[code] = severity
    return wanted


def check(status: Status, wanted: Mapping[str, Severity], *, stale_seconds: int) -> tuple[Severity, str]:
    """The severity and the line.

    Args:
        stale_seconds: from when on a check is too old; the threshold of the performance data.
    """
    judged = [(wanted[item.code], item) for item in status.conditions]
    worst = max((severity for severity, _ in judged), key=_ORDER.index, default=Severity.OK)
    told = [item.message for severity, item in judged if severity is worst] if judged else []
    livepatch = status.livepatch
    cves = metrics.counted(status)
    if livepatch is None:
        told.append("no livepatch is loaded")
    else:
        state = {"in-force": "in force", "coming": "coming into force"}.get(livepatch.state, "leaving")
        told.append(f"level {livepatch.level} {state}, {cves['live-patched']} CVEs live-patched")
    good = status.last_check.good_at if status.last_check is not None else 0
    age = status.generated - good if good else None
    data = [
        f"level={livepatch.level if livepatch is not None else 0}",
        f"live_patched={cves['live-patched']};;;0",
        f"available={cves['available']};;;0",
        f"withheld={cves['withheld']};;;0",
        f"tasks_left={livepatch.left if livepatch is not None else 0};;;0",
        *([f"check_age={max(0, age)}s;;{stale_seconds};0"] if age is not None else []),
    ]
    return worst, f"KMEND {worst.name} - {_plain('; '.join(told))} | {' '.join(data)}"


def broken(message: str) -> tuple[Severity, str]:
    """The line where the status cannot be told at all."""
    return Severity.UNKNOWN, f"KMEND {Severity.UNKNOWN.name} - {_plain(message)}"


def _plain(text: str) -> str:
    """On one line, without the bar that would begin the performance data."""
    clean = "".join(letter if letter.isprintable() and letter != "|" else " " for letter in text)
    return clean if len(clean) <= _MAX_LINE else clean[:_MAX_LINE] + "..."
