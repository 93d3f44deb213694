"""The demonstration's verdict: a true record passes, and every lie in one is noticed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from demo.record import Exchange, LevelRecord, Record, Snapshot, Step
from demo.scenario import FIXES
from demo.verdict import gaps, judge

from kmend.core import document

ONE = LevelRecord(1, "kmend_1_aaaaaaaa", "a" * 64, ("unix_ioctl,1",), (FIXES[0].cve,))
TWO = LevelRecord(2, "kmend_2_bbbbbbbb", "b" * 64, ("other,1", "unix_ioctl,1"), (FIXES[0].cve, FIXES[1].cve))


def probes(*closed: int) -> dict[str, dict[str, str]]:
    """What the probes print when the holes with those numbers are closed."""
    return {
        fix.probe: {name: after if number in closed else before for name, (before, after) in fix.hole.items()}
        | fix.kept
        for number, fix in enumerate(FIXES)
    }


def livepatch(level: LevelRecord | None) -> dict[str, str]:
    """`/sys/kernel/livepatch` with that level enabled."""
    if level is None:
        return {}
    top = {
        level.module: "",
        f"{level.module}/enabled": "1",
        f"{level.module}/transition": "0",
        f"{level.module}/vmlinux": "",
    }
    return top | {f"{level.module}/vmlinux/{function}": "" for function in level.functions}


def step(name: str, seconds: float, level: LevelRecord | None, *closed: int, status: int = 0) -> Step:
    """A step and the guest after it."""
    modules = "virtio 1" if level is None else f"virtio 1\n{level.module} 2"
    after = Snapshot(seconds, "boot", modules, livepatch(level), "42 1000", probes(*closed))
    return Step(name, "kmend", status, "", 1.0, after)


def true_record() -> Record:
    """A demonstration in which all is as told."""
    return Record(
        kernel="debian:6.1.0-50-cloud-amd64@6.1.176-1",
        build_id="c" * 40,
        levels=(ONE, TWO),
        steps=(
            step("start", 5, None),
            step("tampered", 10, None, status=1),
            step("forged", 15, None, status=1),
            step("update-1", 20, ONE, 0),
            step("update-2", 30, TWO, 0, 1),
            step("rollback", 40, ONE, 0),
        ),
        exchange=Exchange(500, 500, "", tuple(n / 10 for n in range(500))),
        kernel_log="[1.0] livepatch: patching complete",
        status=f"{FIXES[0].cve} live-patched",
    )


def with_step(record: Record, name: str, change: Callable[[Step], Step]) -> Record:
    """The record with one step told otherwise."""
    return replace(record, steps=tuple(change(s) if s.name == name else s for s in record.steps))


def after(**changes: object) -> Callable[[Step], Step]:
    """A change to the guest after a step."""
    return lambda told: replace(told, after=replace(told.after, **changes))  # type: ignore[arg-type]


LIES: dict[str, Callable[[Record], Record]] = {
    "a step is missing": lambda r: replace(r, steps=r.steps[:-1]),
    "the hole was never open": lambda r: with_step(r, "start", after(probes=probes(0))),
    "the tampered one was accepted": lambda r: with_step(r, "tampered", lambda s: replace(s, status=0)),
    "the forged one changed the kernel": lambda r: with_step(r, "forged", after(livepatch=livepatch(ONE))),
    "the refused one left a module": lambda r: with_step(r, "tampered", after(modules="virtio 1\nkmend_1_aaaaaaaa 2")),
    "the hole stayed open": lambda r: with_step(r, "update-1", after(probes=probes())),
    "a function is missing": lambda r: with_step(
        r, "update-2", after(livepatch=livepatch(replace(TWO, functions=("other,1",))))
    ),
    "the transition hangs": lambda r: with_step(
        r, "update-1", after(livepatch=livepatch(ONE) | {f"{ONE.module}/transition": "1"})
    ),
    "both levels are enabled": lambda r: with_step(r, "update-2", after(livepatch=livepatch(ONE) | livepatch(TWO))),
    "the rollback failed": lambda r: with_step(r, "rollback", lambda s: replace(s, status=3)),
    "stream sockets broke": lambda r: with_step(
        r,
        "update-1",
        after(
            probes=probes(0)
            | {FIXES[0].probe: {"datagram": "EOPNOTSUPP", "seqpacket": "EOPNOTSUPP", "stream": "EINVAL"}}
        ),
    ),
    "it rebooted": lambda r: with_step(r, "update-2", after(boot_id="another")),
    "the service was restarted": lambda r: with_step(r, "update-2", after(echo="43 2000")),
    "the connection broke": lambda r: replace(r, exchange=Exchange(500, 400, "reset", ())),
    "messages were lost": lambda r: replace(r, exchange=Exchange(500, 450, "", (0.0,) * 450)),
    "nothing was exchanged": lambda r: replace(r, exchange=None),
    "the kernel complained": lambda r: replace(r, kernel_log="[1.0] WARNING: CPU: 0 PID: 1"),
    "there is no kernel log": lambda r: replace(r, kernel_log=""),
    "status says nothing": lambda r: replace(r, status="no livepatch"),
}


def test_a_true_record_passes() -> None:
    assert all(finding.good for finding in judge(true_record()))


@pytest.mark.parametrize("lie", LIES)
def test_every_lie_is_noticed(lie: str) -> None:
    assert not all(finding.good for finding in judge(LIES[lie](true_record())))


def test_the_record_survives_being_stored() -> None:
    assert document.decode(Record, document.encode(true_record())) == true_record()


def test_gaps_are_measured_in_their_own_windows() -> None:
    times = tuple(n / 10 for n in range(195)) + tuple(19.5 + n / 10 for n in range(1, 300))
    record = replace(true_record(), exchange=Exchange(len(times), len(times), "", times))
    measured = gaps(record)
    assert measured["during"] == pytest.approx(200, abs=1)
    assert measured["before"] == pytest.approx(100, abs=1)
    assert measured["after"] == pytest.approx(100, abs=1)
