"""Reads the record of a demonstration and decides, apart from the program that made it: `python -m demo.verdict [RECORD]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from demo.heartbeat import longest_gap
from demo.record import Record, Snapshot, Step
from demo.scenario import FIXES
from kmend.core import document
from kmend.core.durable import read_bounded

RECORD = Path(__file__).parent / "record.json"
_ALARMS = (
    "WARNING:",
    "BUG:",
    "Oops",
    "Call Trace",
    "general protection",
    "stack guard",
    "soft lockup",
    "invalid relocation",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One statement of the story, and whether the record bears it out."""

    good: bool
    text: str


def judge(record: Record) -> Iterator[Finding]:
    """Every statement of the story, decided from the record alone."""
    steps = {step.name: step for step in record.steps}
    names = ("start", "tampered", "forged", "update-1", "update-2", "rollback")
    missing = [name for name in names if name not in steps]
    if missing or len(record.levels) != 2:
        yield Finding(False, f"the record is not complete: {', '.join(missing) or 'levels'}")
        return
    start = steps["start"].after
    one, two = record.levels
    first, second = FIXES
    yield Finding(
        _open(start, 0) and _open(start, 1), f"before: an unprivileged program used {first.cve}; {second.cve} was open"
    )
    for name, text in (
        ("tampered", "a livepatch with one byte changed"),
        ("forged", "a repository signed by a stranger"),
    ):
        yield Finding(_refused(steps[name], start), f"{text} was refused, and the kernel was not touched")
    after = steps["update-1"].after
    yield Finding(
        _runs(steps["update-1"], one.module, one.functions),
        f"level 1 ({one.module}) is enabled, and replaces exactly its functions",
    )
    yield Finding(_closed(after, 0), f"{first.cve} is closed: {_shown(after, first.probe)}; stream sockets still work")
    yield Finding(_open(after, 1), f"{second.cve} is still open, as level 1 does not mend it")
    after = steps["update-2"].after
    yield Finding(
        _runs(steps["update-2"], two.module, two.functions),
        f"level 2 ({two.module}) replaced level 1 in one transition",
    )
    yield Finding(_closed(after, 0) and _closed(after, 1), f"both CVEs are closed: {_shown(after, second.probe)}")
    after = steps["rollback"].after
    yield Finding(_runs(steps["rollback"], one.module, one.functions), "the rollback brought level 1 back")
    yield Finding(_closed(after, 0) and _open(after, 1), f"{first.cve} is still closed, {second.cve} is open again")
    yield Finding(
        len({step.after.boot_id for step in record.steps}) == 1, f"the kernel never rebooted (boot ID {start.boot_id})"
    )
    yield Finding(
        len({step.after.echo for step in record.steps}) == 1 and bool(start.echo),
        "the long-running service is the same process",
    )
    exchange = record.exchange
    whole = (
        exchange is not None
        and not exchange.error
        and exchange.sent - exchange.answered <= 1
        and exchange.answered > 100
    )
    yield Finding(
        whole, f"its connection never broke: {exchange.answered if exchange else 0} messages, every one answered"
    )
    alarms = [line for line in record.kernel_log.splitlines() if any(alarm in line for alarm in _ALARMS)]
    yield Finding(
        not alarms and bool(record.kernel_log),
        "the kernel log holds no warning" + "".join(f"\n{line}" for line in alarms[:5]),
    )
    yield Finding(all(cve in record.status for cve in one.cves), f"kmend status names {', '.join(one.cves)}")


def gaps(record: Record) -> dict[str, float]:
    """The longest pause between two answers in milliseconds: before, during and after the first level went in."""
    steps = {step.name: step for step in record.steps}
    if record.exchange is None or "update-1" not in steps or "start" not in steps:
        return {}
    update = steps["update-1"]
    end = update.after.seconds
    begin = end - update.seconds
    times = record.exchange.times
    return {
        "before": 1000 * longest_gap(times, steps["start"].after.seconds, begin),
        "during": 1000 * longest_gap(times, begin, end),
        "after": 1000 * longest_gap(times, end, steps["update-2"].after.seconds - steps["update-2"].seconds),
    }


def _open(snapshot: Snapshot, number: int) -> bool:
    fix = FIXES[number]
    answers = snapshot.probes.get(fix.probe, {})
    return all(answers.get(name) == before for name, (before, _) in fix.hole.items()) and _kept(snapshot, number)


def _closed(snapshot: Snapshot, number: int) -> bool:
    fix = FIXES[number]
    answers = snapshot.probes.get(fix.probe, {})
    return all(answers.get(name) == after for name, (_, after) in fix.hole.items()) and _kept(snapshot, number)


def _kept(snapshot: Snapshot, number: int) -> bool:
    fix = FIXES[number]
    return all(snapshot.probes.get(fix.probe, {}).get(name) == answer for name, answer in fix.kept.items())


def _refused(step: Step, start: Snapshot) -> bool:
    return step.status != 0 and step.after.modules == start.modules and not step.after.livepatch


def _runs(step: Step, module: str, functions: tuple[str, ...]) -> bool:
    """Whether exactly that livepatch is enabled, its transition over, with exactly those functions."""
    tree = step.after.livepatch
    enabled = {path.split("/", 1)[0] for path, content in tree.items() if path.endswith("/enabled") and content == "1"}
    found = {
        path.split("/")[2]
        for path in tree
        if path.startswith(f"{module}/vmlinux/") and path.count("/") == 2 and "," in path
    }
    return (
        step.status == 0 and enabled == {module} and tree.get(f"{module}/transition") == "0" and found == set(functions)
    )


def _shown(snapshot: Snapshot, probe: str) -> str:
    return ", ".join(f"{name} {answer}" for name, answer in snapshot.probes.get(probe, {}).items())


def main() -> int:
    """Print every finding; 0 if all are as told, else 1."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else RECORD
    record = document.decode(Record, read_bounded(path, max_bytes=64 << 20), max_bytes=64 << 20)
    findings = list(judge(record))
    for finding in findings:
        print(f"{'yes' if finding.good else 'NO '}  {finding.text}")
    return 0 if all(finding.good for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
