"""The status as Prometheus metrics, in the text format (version 0.0.4) that node_exporter's textfile collector reads.

Names follow https://prometheus.io/docs/practices/naming/: a prefix, base units, `_info` for labels that do not change, and no
timestamps, which that collector refuses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from kmend.agent.conditions import CODES, SUMMARIES

if TYPE_CHECKING:
    from kmend.agent.status import Status

VERDICTS = ("live-patched", "pending", "available", "withheld", "blocked")
_Samples = Iterable[tuple[Mapping[str, str], float]]


def text(status: Status) -> str:
    """Every metric."""
    livepatch, check = status.livepatch, status.last_check
    identity = {
        "agent": status.agent,
        "release": status.kernel.release,
        "build_id": status.kernel.build_id,
        "module": livepatch.module if livepatch is not None else "",
    }
    codes = {item.code for item in status.conditions}
    cves = counted(status)
    families: list[tuple[str, str, _Samples]] = [
        ("kmend_info", "The agent, the running kernel and the loaded livepatch.", [(identity, 1)]),
        (
            "kmend_host_state",
            "What sums the host up: 1 for the word that holds.",
            [({"state": word}, word == status.summary) for word in SUMMARIES.values()],
        ),
        (
            "kmend_condition",
            "What is not as it should be: 1 for what holds.",
            [({"condition": code}, code in codes) for code in CODES],
        ),
        ("kmend_status_code", "What kmend status --exit-code ends with.", [({}, status.exit_code)]),
        ("kmend_level", "Level of the loaded livepatch, 0 for none.", [({}, livepatch.level if livepatch else 0)]),
        (
            "kmend_level_available",
            "Level that an update would load, 0 for none.",
            [({}, status.available.level if status.available is not None else 0)],
        ),
        (
            "kmend_livepatch_in_force",
            "Whether a livepatch is in force, its transition being over.",
            [({}, livepatch is not None and livepatch.state == "in-force")],
        ),
        (
            "kmend_livepatch_functions",
            "Functions that the loaded livepatch replaces.",
            [({}, livepatch.functions if livepatch is not None else 0)],
        ),
        ("kmend_cves", "CVEs by what they are on this host.", [({"verdict": word}, cves[word]) for word in VERDICTS]),
        (
            "kmend_transition_seconds",
            "For how long a transition has been under way, 0 if none is.",
            [({}, livepatch.moving_seconds if livepatch is not None else 0)],
        ),
        (
            "kmend_transition_tasks_left",
            "Tasks that are not switched yet.",
            [({}, livepatch.left if livepatch is not None else 0)],
        ),
        ("kmend_quarantined_levels", "Levels in quarantine.", [({}, len(status.quarantine))]),
        (
            "kmend_resident_modules",
            "Replaced modules that are still in memory.",
            [({}, len(status.resident_modules))],
        ),
        (
            "kmend_last_check_timestamp_seconds",
            "When the repository was last asked, 0 for never.",
            [({}, check.at if check is not None else 0)],
        ),
        (
            "kmend_last_good_check_timestamp_seconds",
            "When that last went well, 0 for never.",
            [({}, check.good_at if check is not None else 0)],
        ),
        (
            "kmend_reboot_needed",
            "Whether a restart is needed that no livepatch stands in for.",
            [({}, status.reboot is not None and status.reboot.verdict == "yes")],
        ),
        ("kmend_status_timestamp_seconds", "When this was written.", [({}, status.generated)]),
    ]
    return "".join(_family(*family) for family in families)


def counted(status: Status) -> Counter[str]:
    """How many CVEs there are of each verdict; one that is closed already is not counted as waiting too."""
    verdicts = {item.cve: item.verdict for item in status.cves}
    for cve in status.available.cves if status.available is not None else ():
        verdicts.setdefault(cve, "available")
    for obstacle in status.blocked:
        for cve in obstacle.cves:
            verdicts.setdefault(cve, "withheld")
    return Counter(verdicts.values())


def _family(name: str, meaning: str, samples: _Samples) -> str:
    rows = [f"# HELP {name} {meaning}", f"# TYPE {name} gauge"]
    for labels, value in samples:
        pairs = ",".join(f'{label}="{_escaped(content)}"' for label, content in labels.items())
        rows.append(f"{name}{'{' + pairs + '}' if pairs else ''} {int(value)}")
    return "\n".join(rows) + "\n"


def _escaped(text: str) -> str:
    """A label's value, by the text format's own rules."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
