"""Verdicts: one table of precedence, and what each word needs."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.intel.applicability import Applicability, Presence, Reason
from kmend.intel.verdicts import CLOSED, HostKernel, Level, Word, verdict

CVE = "CVE-2026-3001"
OPEN = Applicability(CVE, True, Reason.PRESENT, Presence.MODULE, ("exfat",), ("net/x.c is in exfat",), complete=True)
BUILT_IN = Applicability(CVE, True, Reason.PRESENT, Presence.BUILT_IN, ("vmlinux",))
UNKNOWN = Applicability(CVE, None, Reason.NO_RECORD, Presence.UNKNOWN)
TWO = replace(OPEN, objects=("exfat", "ext4"))
PERHAPS = replace(OPEN, complete=False)
HERE = Level(2, frozenset({CVE}))
OF_EXFAT = Level(2, frozenset({CVE}), {CVE: ("exfat",)})
OTHER = Level(3, frozenset({CVE}))


def word(found: Applicability, host: HostKernel, *levels: Level, fixed_in: str = "") -> Word:
    return verdict(found, host, levels, fixed_in=fixed_in).word


@pytest.mark.parametrize(
    ("found", "host", "levels", "fixed_in", "expected"),
    [
        (
            Applicability(CVE, False, Reason.FIXED_IN_BUILD, Presence.UNKNOWN),
            HostKernel(),
            [],
            "",
            Word.FIXED_BY_KERNEL,
        ),
        (Applicability(CVE, False, Reason.NOT_BUILT, Presence.NOT_BUILT), HostKernel(), [HERE], "", Word.NOT_AFFECTED),
        (OPEN, HostKernel(level=2), [HERE], "6.1.9-1", Word.LIVE_PATCHED),
        (OPEN, HostKernel(level=2, transition=True), [HERE], "6.1.9-1", Word.PENDING),
        (OPEN, HostKernel(level=3), [HERE, Level(3, frozenset())], "", Word.AVAILABLE),
        (OPEN, HostKernel(), [HERE], "6.1.9-1", Word.AVAILABLE),
        (OPEN, HostKernel(), [Level(2, frozenset({CVE}), withheld=("hold",))], "6.1.9-1", Word.WITHHELD),
        (OPEN, HostKernel(), [Level(2, frozenset({CVE}), blocked="recalled")], "6.1.9-1", Word.BLOCKED),
        (OPEN, HostKernel(), [Level(2, frozenset({CVE}), blocked="x"), Level(3, frozenset({CVE}))], "", Word.AVAILABLE),
        (OPEN, HostKernel(), [Level(2, frozenset({"CVE-2026-9"}))], "6.1.9-1", Word.NEEDS_REBOOT),
        (OPEN, HostKernel(), [], "", Word.NO_FIX_YET),
        (OPEN, HostKernel(modules=frozenset(), barred=frozenset({"exfat"})), [], "", Word.MITIGATED),
        (OPEN, HostKernel(modules=frozenset({"exfat"}), barred=frozenset({"exfat"})), [], "", Word.NO_FIX_YET),
        (OPEN, HostKernel(modules=frozenset()), [], "", Word.NO_FIX_YET),
        (BUILT_IN, HostKernel(modules=frozenset(), barred=frozenset({"vmlinux"})), [], "", Word.NO_FIX_YET),
        (OPEN, HostKernel(modules=frozenset(), absent=frozenset({"exfat"})), [], "", Word.NOT_AFFECTED),
        (OPEN, HostKernel(modules=frozenset({"exfat"}), absent=frozenset({"exfat"})), [], "", Word.NO_FIX_YET),
        (OPEN, HostKernel(modules=frozenset(), sealed=True), [], "6.1.9-1", Word.MITIGATED),
        (OPEN, HostKernel(modules=frozenset({"exfat"}), sealed=True), [], "6.1.9-1", Word.NEEDS_REBOOT),
        (TWO, HostKernel(modules=frozenset(), absent=frozenset({"exfat"})), [], "", Word.NO_FIX_YET),
        (TWO, HostKernel(modules=frozenset(), absent=frozenset({"exfat"}), sealed=True), [], "", Word.MITIGATED),
        (PERHAPS, HostKernel(modules=frozenset(), absent=frozenset({"exfat"})), [], "", Word.NO_FIX_YET),
        (PERHAPS, HostKernel(modules=frozenset(), sealed=True), [], "", Word.NO_FIX_YET),
        (OPEN, HostKernel(level=2, unpatched=frozenset({"exfat"})), [HERE], "", Word.BLOCKED),
        (OPEN, HostKernel(level=2, unpatched=frozenset({"ext4"})), [OF_EXFAT], "", Word.LIVE_PATCHED),
        (OPEN, HostKernel(level=2, unpatched=frozenset({"exfat"})), [OF_EXFAT, OTHER], "", Word.AVAILABLE),
        (UNKNOWN, HostKernel(), [], "", Word.UNKNOWN),
        (UNKNOWN, HostKernel(), [], "6.1.9-1", Word.NEEDS_REBOOT),
        (UNKNOWN, HostKernel(level=2), [HERE], "", Word.LIVE_PATCHED),
        (UNKNOWN, HostKernel(), [HERE], "", Word.AVAILABLE),
    ],
)
def test_the_table(found: Applicability, host: HostKernel, levels: list[Level], fixed_in: str, expected: Word) -> None:
    assert word(found, host, *levels, fixed_in=fixed_in) is expected


def test_a_module_that_is_not_loaded_is_patched_when_it_is() -> None:
    level = Level(2, frozenset({CVE}), {CVE: ("exfat",)})
    found = verdict(OPEN, HostKernel(level=2, modules=frozenset()), [level])
    assert found.word is Word.LIVE_PATCHED
    assert "is patched when it is" in found.evidence[-1]


def test_reboot_unload_and_quarantine_open_it_again() -> None:
    before = verdict(OPEN, HostKernel(level=2), [HERE])
    rebooted = verdict(OPEN, HostKernel(level=0), [HERE])
    held = verdict(OPEN, HostKernel(level=0), [Level(2, HERE.cves, blocked="in quarantine: crashed")])
    assert (before.open, rebooted.open, held.open) == (False, True, True)
    assert held.word is Word.BLOCKED


hosts = st.builds(
    HostKernel,
    level=st.integers(0, 3),
    transition=st.booleans(),
    modules=st.none() | st.frozensets(st.sampled_from(["exfat", "ext4"])),
    barred=st.frozensets(st.sampled_from(["exfat", "ext4"])),
    absent=st.frozensets(st.sampled_from(["exfat", "ext4"])),
    sealed=st.booleans(),
    unpatched=st.frozensets(st.sampled_from(["exfat", "ext4"])),
)
levels = st.lists(
    st.builds(
        Level, st.integers(1, 3), st.frozensets(st.sampled_from([CVE, "CVE-2026-9"])),
        withheld=st.sampled_from([(), ("hold",)]), blocked=st.sampled_from(["", "recalled"]),
    ),
    max_size=3, unique_by=lambda level: level.level,
)  # fmt: skip


@given(st.sampled_from([OPEN, TWO, PERHAPS, BUILT_IN, UNKNOWN]), hosts, levels, st.sampled_from(["", "6.1.9-1"]))
def test_nothing_is_closed_without_a_level_in_force_that_names_it_or_the_code_not_being_there(
    found: Applicability, host: HostKernel, published: list[Level], fixed_in: str
) -> None:
    answer = verdict(found, host, published, fixed_in=fixed_in)
    in_force = any(level.level == host.level and CVE in level.cves for level in published) and not host.transition
    patched = in_force and not host.unpatched
    there = host.modules is None or not found.complete or not set(found.objects) <= host.absent - host.modules
    assert (answer.word in CLOSED) == (patched or not there)


def test_a_kernel_that_is_installed_and_waits_for_a_restart_is_named() -> None:
    host = HostKernel(installed="6.1.9-2")
    ready = verdict(OPEN, host, [], fixed_in="6.1.9-1", ready=True)
    assert (ready.word, ready.detail) == (Word.NEEDS_REBOOT, "6.1.9-1, installed")
    assert ready.evidence[-1] == "6.1.9-1 has it mended; 6.1.9-2 is installed, and waits for a restart"
    other = verdict(OPEN, HostKernel(installed="6.1.8-1"), [], fixed_in="6.1.9-1")
    assert (other.detail, other.evidence[-1]) == (
        "6.1.9-1", "6.1.9-1 has it mended; 6.1.8-1 is the newest that is installed",
    )  # fmt: skip


@given(hosts, levels)
def test_the_order_of_levels_does_not_matter(host: HostKernel, published: list[Level]) -> None:
    assert len({verdict(OPEN, host, list(order)).word for order in itertools.permutations(published)}) == 1
