"""What a host's reports come to."""

from __future__ import annotations

from collections.abc import Sequence

from tests.unit.server.hosts.machines import Machine

from kmend.core.wire import ModuleReport
from kmend.server.evidence import timelines
from kmend.server.evidence.documents import Meaning, Stay
from kmend.server.evidence.timelines import Said, closing, counting, key_of, said_after, state, timeline

BUILD, LATER = "5ca1ab1e" * 5, "0ddba115" * 5
MEANINGS = [
    Meaning(BUILD, "CVE-2026-1", True, "affected", "built in", (), (), ""),
    Meaning(BUILD, "CVE-2026-2", True, "affected", "built in", (), (), ""),
    Meaning(BUILD, "CVE-2026-3", None, "no record", "unknown", (), (), ""),
    Meaning(BUILD, "CVE-2026-4", False, "not compiled", "absent", (), (), ""),
]
LEVELS = {
    number: {f"CVE-2026-{cve}": ("vmlinux",) for cve in closes} for number, closes in ((1, (1,)), (2, (1, 2, 4, 5)))
}
STATES = {
    **{(BUILD, level, ""): state(BUILD, level, MEANINGS, LEVELS).open for level in (0, 1, 2)},
    (LATER, 0, ""): ("CVE-2026-3",),
}


def stay(at: int, level: int, *, pending: bool = False, build: str = BUILD, boot: str = "a") -> Stay:
    return Stay(at, at, boot, build, level, f"kmend_{level}", "", pending)


def test_a_state_has_open_what_nothing_closes() -> None:
    assert STATES[BUILD, 0, ""] == ("CVE-2026-1", "CVE-2026-2", "CVE-2026-3", "CVE-2026-5"), "unknown is open"
    assert STATES[BUILD, 1, ""] == ("CVE-2026-2", "CVE-2026-3", "CVE-2026-5")
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
    assert key_of(stay(1, 2, pending=True)) == (BUILD, 0, "")
    assert turns(stay(1, 1), stay(2, 2, pending=True), stay(3, 2))[1:] == [
        (2, 0, 1, 4, "level 2 on its way in"),
        (3, 3, 0, 1, "level 2"),
    ]


EXFAT = ModuleReport(("exfat",), barred=("dccp",), absent=("rds",))


def test_what_a_host_said_of_its_modules_holds_as_long_as_it_does_for_the_server() -> None:
    """On one boot until it says something else, or that it cannot tell; on the next boot only if it is still the same."""
    machine = Machine.new("web-1")
    machine.id, machine.phase = "f0" * 16, "steady"
    said, found = Said(), []
    for boot, modules, sent in (
        (1, EXFAT, False), (1, EXFAT, True), (1, EXFAT, False), (2, EXFAT, False), (2, ModuleReport(()), False),
        (3, ModuleReport(()), False), (3, ModuleReport(()), True), (3, None, False), (3, EXFAT, True),
    ):  # fmt: skip
        machine.boot, machine.modules, machine.send_modules = boot, modules, sent
        said = said_after(said, machine.check_in(full=True).message)
        found.append(said.report)
    assert found == [None, EXFAT, EXFAT, EXFAT, EXFAT, None, ModuleReport(()), None, EXFAT]


def test_what_modules_change_in_a_state() -> None:
    def module(number: int, *objects: str, complete: bool = True) -> Meaning:
        cve = f"CVE-2026-{number}"
        return Meaning(BUILD, cve, True, "affected", "module", objects, (), "", complete=complete)

    meanings = [*MEANINGS, module(10, "rds"), module(11, "rds", "dccp"), module(12, "rds", "ext4"), module(13, "dccp"),
                module(14, "rds", complete=False), module(15, "exfat")]  # fmt: skip
    levels = {1: {"CVE-2026-1": ("vmlinux",), "CVE-2026-15": ("exfat",)}}
    modules = timelines.watched(meanings)
    assert modules == {"rds", "dccp", "ext4", "exfat"}, "only where no other object can have the code"
    said = Said("t", "b", EXFAT)
    around = timelines.around_of(said, BUILD, 0, modules)
    assert around is not None
    assert (around.absent, around.barred, around.unpatched) == (("rds",), ("dccp",), ())
    changed = timelines.surroundings(around, meanings, levels)
    assert (changed.not_present, changed.left_out) == (("CVE-2026-10",), ())
    mitigated = [item.cve for item in meanings if timelines.is_mitigated(item, around)]
    assert mitigated == ["CVE-2026-11", "CVE-2026-13"]
    sealed = timelines.around_of(Said("t", "b", ModuleReport(("ext4",), sealed=True)), BUILD, 0, modules)
    assert sealed is not None
    assert sealed.barred == ("dccp", "exfat", "rds")
    left = timelines.around_of(Said("t", "b", ModuleReport(("exfat",), unpatched=("exfat",))), BUILD, 1, modules)
    assert left is not None
    assert timelines.surroundings(left, meanings, levels).left_out == ("CVE-2026-15",), "the rest of the level counts"
    assert timelines.around_of(Said("t", "b", ModuleReport(("ext4",))), BUILD, 1, modules) is None
    assert timelines.around_of(Said(), BUILD, 1, modules) is None


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
