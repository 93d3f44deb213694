"""What a host's reports come to."""

from __future__ import annotations

from collections.abc import Sequence

from tests.unit.server.hosts.machines import Machine

from kmend.core.wire import ModuleReport
from kmend.server.evidence.documents import Meaning, Stay
from kmend.server.evidence.timelines import closing, counting, is_unpatched, key_of, state, stay_of, timeline

BUILD, LATER = "5ca1ab1e" * 5, "0ddba115" * 5
MEANINGS = [
    Meaning(BUILD, "CVE-2026-1", True, "affected", "built in", (), (), ""),
    Meaning(BUILD, "CVE-2026-2", True, "affected", "built in", (), (), ""),
    Meaning(BUILD, "CVE-2026-3", None, "no record", "unknown", (), (), ""),
    Meaning(BUILD, "CVE-2026-4", False, "not compiled", "absent", (), (), ""),
]
LEVELS = {1: ("CVE-2026-1",), 2: ("CVE-2026-1", "CVE-2026-2", "CVE-2026-4", "CVE-2026-5")}
STATES = {
    **{(BUILD, level): state(BUILD, level, MEANINGS, LEVELS).open for level in (0, 1, 2)},
    (LATER, 0): ("CVE-2026-3",),
}


def stay(at: int, level: int, *, pending: bool = False, build: str = BUILD, boot: str = "a") -> Stay:
    return Stay(at, at, boot, build, level, f"kmend_{level}", "", pending)


def test_a_state_has_open_what_nothing_closes() -> None:
    assert STATES[BUILD, 0] == ("CVE-2026-1", "CVE-2026-2", "CVE-2026-3", "CVE-2026-5"), "unknown is open"
    assert STATES[BUILD, 1] == ("CVE-2026-2", "CVE-2026-3", "CVE-2026-5")
    second = state(BUILD, 2, MEANINGS, LEVELS)
    assert second.open == ("CVE-2026-3",)
    assert second.live_patched == ("CVE-2026-1", "CVE-2026-2", "CVE-2026-5"), "what is not affected is not live-patched"


def turns(*stays: Stay) -> Sequence[tuple[int, int, int, int, str]]:
    found = timeline("h", stays, counting(STATES.__getitem__))
    return [(turn.at, turn.closed, turn.reopened, turn.open, turn.by) for turn in found.turns]


def test_a_life() -> None:
    assert turns(
        stay(1, 0),
        stay(2, 1, pending=True),
        stay(3, 1),
        stay(4, 1),
        stay(5, 2),
        stay(6, 0, boot="b"),
        stay(7, 2, boot="b"),
        stay(8, 1, boot="b"),
        stay(9, 0, build=LATER, boot="c"),
    ) == [
        (1, 0, 0, 4, "first report"),
        (3, 1, 0, 3, "level 1"),
        (5, 2, 0, 1, "level 2"),
        (6, 0, 3, 4, "level 2 taken off by a reboot"),
        (7, 3, 0, 1, "level 2"),
        (8, 0, 2, 3, "level 2 taken off, level 1 in its place"),
        (9, 2, 0, 1, f"kernel build {LATER}"),
    ]


def test_what_is_only_on_its_way_counts_as_nothing() -> None:
    assert key_of(stay(1, 2, pending=True)) == (BUILD, 0)
    assert turns(stay(1, 1), stay(2, 2, pending=True), stay(3, 2))[1:] == [
        (2, 0, 1, 4, "level 2 on its way in"),
        (3, 3, 0, 1, "level 2"),
    ]


def test_a_level_that_the_kernel_has_not_patched_everything_with_counts_as_nothing() -> None:
    machine = Machine.new("web-1")
    machine.id, machine.level, machine.phase = "f0" * 16, 1, "steady"
    machine.modules, machine.send_modules = ModuleReport(("exfat",), unpatched=("exfat",)), True
    stays, before, boot = [], False, ""
    for at in range(4):
        machine.boot = 1 + at // 3
        message = machine.check_in(full=True).message
        assert message.state is not None
        before = is_unpatched(message, message.state, boot, before=before)
        boot = message.boot_id
        stays.append(stay_of(message, message.state, unpatched=before))
        machine.send_modules = False
        if at == 1:
            machine.modules, machine.send_modules = ModuleReport(("exfat",)), True
    assert [item.pending for item in stays] == [True, True, False, False], "until the host says otherwise"


def test_reports_that_say_the_same_are_one_stay() -> None:
    found = timeline(
        "h", [stay(1, 1), stay(2, 1), stay(3, 1, boot="b"), stay(4, 1, boot="b")], counting(STATES.__getitem__)
    )
    assert [item.at for item in found.stays] == [1, 3]
    assert len(found.turns) == 1


def test_one_cve() -> None:
    life = [stay(1, 0), stay(3, 1), stay(5, 0, boot="b"), stay(9, 1, boot="b")]
    found = closing("CVE-2026-1", life, STATES.__getitem__)
    assert (found.detected, found.closed_at, found.closed_by, found.reopened) == (1, 9, "level 1", 1)
    found = closing("CVE-2026-2", life, STATES.__getitem__)
    assert (found.detected, found.closed_at, found.reopened) == (1, None, 0)
    found = closing("CVE-2026-4", life, STATES.__getitem__)
    assert found.detected is None
