"""Reads the record of the fleet's demonstration and decides: `python -m demo.fleet.verdict [RECORD]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from demo.fleet.record import GuestView, Moment, Record, RolloutView
from demo.verdict import Finding
from kmend.core import document
from kmend.core.durable import read_bounded

RECORD = Path(__file__).parents[1] / "fleet-record.json"
FIRST, SECOND, THIRD = "canary", "early", "broad"
MOMENTS = ("enrolled", "rolled", "halted", "rebooted", "recalled")
MAX_BYTES = 64 << 20


def judge(record: Record) -> Iterator[Finding]:
    """Every statement of the story, decided from the record alone."""
    moments = {moment.name: moment for moment in record.moments}
    rollouts = {rollout.level: rollout for rollout in record.rollouts}
    missing = [name for name in MOMENTS if name not in moments]
    if missing or set(rollouts) != {1, 2} or len(record.levels) != 2 or record.times is None or record.log is None:
        yield Finding(False, f"the record is not complete: {', '.join(missing) or 'levels or rollouts'}")
        return
    one, two = record.levels
    yield from _enrolled(record, moments["enrolled"])
    yield from _rolled(record, moments["enrolled"], moments["rolled"], rollouts[1], one.module)
    yield from _halted(record, moments, rollouts[2], two.module)
    yield from _recalled(record, moments["rebooted"], moments["recalled"])
    yield from _accounted(record)


def _enrolled(record: Record, moment: Moment) -> Iterator[Finding]:
    total = sum(record.fleet.values())
    real = sorted(guest.ring for guest in moment.guests)
    yield Finding(
        total >= 2003 and real == sorted((FIRST, SECOND, THIRD)) and len(record.fleet) == 3,
        f"{total} hosts in three rings ({_sizes(record)}), a real kernel in each ring",
    )
    yield Finding(
        all(guest.hole == "answered" and not guest.livepatches for guest in moment.guests),
        "before: the hole was open on every real host",
    )


def _rolled(record: Record, before: Moment, after: Moment, rollout: RolloutView, module: str) -> Iterator[Finding]:
    yield Finding(rollout.state == "finished" and not rollout.override, f"level 1: {rollout.name} finished")
    yield Finding(
        all(_has(guest, module) and guest.hole == "EOPNOTSUPP" for guest in after.guests)
        and _same_boots(before.guests, after.guests),
        "every real host runs level 1 on the same boot, and the hole is closed there",
    )
    reached = {ring: counts.get("1", 0) for ring, counts in after.levels.items()}
    yield Finding(
        all(reached.get(ring, 0) == count for ring, count in record.fleet.items()),
        "the server counts level 1 on "
        + ", ".join(f"{reached.get(ring, 0)} of {n} in {ring}" for ring, n in record.fleet.items()),
    )
    yield Finding(_ordered(rollout), "no ring got it before the ring before it had passed")
    most = [_most_in_flight(rollout, stage) for stage in range(len(rollout.rings))]
    yield Finding(
        all(found <= allowed for found, allowed in zip(most, rollout.at_once, strict=True)),
        "never more in flight than allowed: "
        + ", ".join(f"{found} of {allowed}" for found, allowed in zip(most, rollout.at_once, strict=True)),
    )


def _halted(record: Record, moments: dict[str, Moment], rollout: RolloutView, module: str) -> Iterator[Finding]:
    rolled, halted, rebooted = moments["rolled"], moments["halted"], moments["rebooted"]
    times = record.times or {}
    canary = next(guest.name for guest in rolled.guests if guest.ring == FIRST)
    log = (record.log or {}).get(canary, "")
    yield Finding("the demonstration's bad level" in log, f"level 2 panicked the kernel of {canary}, for real")
    yield Finding(
        rollout.override == "halted" and "halted" in halted.rollouts.get(rollout.name, ""),
        f"the server halted {rollout.name} by itself, "
        f"{times.get('halted', 0) - times.get('panicked', 0):.0f} s after the panic: {rollout.reason}",
    )
    beyond = [grant for grant in rollout.grants if grant.stage > 0]
    others = [guest for moment in (halted, rebooted) for guest in moment.guests if guest.ring != FIRST]
    yield Finding(
        not beyond and others != [] and not any(module in guest.livepatches for guest in others),
        f"no host beyond the ring {FIRST} was ever given it ({len(rollout.grants)} grants, all in {FIRST})",
    )
    failed = [grant for grant in rollout.grants if grant.host == record.real.get(canary)]
    yield Finding(
        [grant.state for grant in failed] == ["failed"],
        f"the failure is {canary}'s: {', '.join(grant.cause for grant in failed)}",
    )
    back = next(guest for guest in rebooted.guests if guest.name == canary)
    was = next(guest for guest in rolled.guests if guest.name == canary)
    yield Finding(
        back.boot_id != was.boot_id and not any(name == module for name in back.livepatches),
        f"{canary} came up again and does not load level 2 any more",
    )
    yield Finding(any("rollout.halted" in notice for notice in record.notices), "people were told, by webhook")


def _recalled(record: Record, before: Moment, after: Moment) -> Iterator[Finding]:
    times = record.times or {}
    others = [guest for guest in after.guests if guest.ring != FIRST]
    boots = [guest for guest in before.guests if guest.ring != FIRST]
    yield Finding(
        bool(others) and all(not guest.livepatches and guest.hole == "answered" for guest in after.guests),
        f"the recall of level 1's fix took it off every real host, {times.get('recalled', 0) - times.get('recall', 0):.0f} s "
        "after it was published",
    )
    yield Finding(_same_boots(boots, others), "without a restart")


def _accounted(record: Record) -> Iterator[Finding]:
    lines = record.audit.splitlines()
    yield Finding(
        record.audit_verified == 0 and len(lines) > 10, f"the audit log's {len(lines)} records verify offline"
    )


def _sizes(record: Record) -> str:
    return ", ".join(f"{count} in {ring}" for ring, count in record.fleet.items())


def _has(guest: GuestView, module: str) -> bool:
    return guest.livepatches == {module: "1,0"}


def _same_boots(
    before: list[GuestView] | tuple[GuestView, ...], after: list[GuestView] | tuple[GuestView, ...]
) -> bool:
    return {guest.name: guest.boot_id for guest in before} == {guest.name: guest.boot_id for guest in after}


def _ordered(rollout: RolloutView) -> bool:
    """Whether every grant of a stage came after the end of the stage before."""
    return all(
        grant.stage == 0 or 0 < rollout.passed_at[grant.stage - 1] <= grant.granted_at for grant in rollout.grants
    )


def _most_in_flight(rollout: RolloutView, stage: int) -> int:
    """The most hosts of a stage that were between grant and outcome at any one second."""
    events: list[tuple[int, int]] = []
    for grant in rollout.grants:
        if grant.stage == stage:
            # Within a second the end comes first: a slot may be given again in the second in which it came free.
            events += [(grant.granted_at, 1), (max(grant.state_since, grant.granted_at + 1), -1)]
    most = now = 0
    for _, change in sorted(events):
        now += change
        most = max(most, now)
    return most


def main() -> int:
    """Print every finding; 0 if all are as told, else 1."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else RECORD
    record = document.decode(Record, read_bounded(path, max_bytes=MAX_BYTES), max_bytes=MAX_BYTES)
    findings = list(judge(record))
    for finding in findings:
        print(f"{'yes' if finding.good else 'NO '}  {finding.text}")
    return 0 if all(finding.good for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
