"""`kmend-factory try` on the real kernel: a fix that mends, and each way in which one does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.fixmaker import Edit, FixMaker

from kmend import lab
from kmend.core.kernel import KernelRef
from kmend.factory.build import Built, build
from kmend.factory.desk import Behaviour, Settings, Trial, TrialError, Verdict, hold_trial
from kmend.factory.kernels.packages import fetch_package, kernel_packages
from kmend.factory.kernels.prepared import Kernel
from kmend.factory.main import cli

STATE = Edit("drivers/block/zram/zram_drv.c", "\tval = init_done(zram);\n", "\tval = init_done(zram) + 40;\n")
PRINTED = '\t\tseq_printf(m, "%s\\t%s\\n",'
WARNS = Edit("fs/filesystems.c", PRINTED, f"\t\tWARN_ON_ONCE(!tmp->name[0] || tmp->name[0] == 's');\n{PRINTED}")


@pytest.fixture(scope="module")
def image(prepared: Kernel) -> lab.UnpackedKernel:
    ref = KernelRef.parse(prepared.identity.ref)
    return lab.unpack(fetch_package(kernel_packages(ref).image, prepared.record.package).path)


@pytest.fixture(scope="module")
def warning(prepared: Kernel, maker: FixMaker) -> Built:
    """A livepatch that makes the kernel complain when /proc/filesystems is read."""
    return build(prepared, [maker.fix(WARNS)])


def trial(image: lab.UnpackedKernel, built: Built, probe: str, seconds: float = 60) -> Trial:
    return hold_trial(image, built, Settings(probe.encode(), probe_seconds=seconds))


def test_a_fix_of_a_module_that_mends(prepared: Kernel, maker: FixMaker, tmp_path: Path) -> None:
    (tmp_path / "fix.patch").write_text(maker.patch([STATE]))
    (tmp_path / "probe.sh").write_text(
        'echo "it is $1"; cat wanted >&2; grep -q "$(cat wanted)" /sys/block/zram0/initstate\n'
    )
    (tmp_path / "wanted").write_text("40\n")
    words = ["try", "--json", "--kernel", prepared.identity.ref, "--test", str(tmp_path / "probe.sh"),
             "--copy", f"{tmp_path / 'wanted'}:/trial/wanted", "--keep", str(tmp_path / "kept"),
             str(tmp_path / "fix.patch")]  # fmt: skip
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    assert result.exception is None, result.output
    assert result.return_value == 0
    report = json.loads(result.stdout)
    assert (report["verdict"], report["problem"], report["complaints"], report["notes"]) == ("mended", "", [], [])
    before, after = report["before"], report["after"]
    assert (before["behaviour"], before["status"], before["stdout"], before["stderr"]) == (
        "bad",
        1,
        "it is before\n",
        "40\n",
    )
    assert (after["behaviour"], after["status"], after["stdout"]) == ("good", 0, "it is after\n")
    kept = tmp_path / "kept"
    assert json.loads((kept / "trial.json").read_text())["verdict"] == "mended"
    assert (kept / "before.stdout").read_text() == "it is before\n"
    assert "patching complete" in (kept / "kernel.log").read_text()
    assert list((kept / "build/debug").glob("*.ko.debug"))


@pytest.mark.slow
def test_a_probe_that_brings_the_kernel_down_and_a_livepatch_that_complains(
    image: lab.UnpackedKernel, warning: Built
) -> None:
    probe = "if [ $1 = before ]; then echo c > /proc/sysrq-trigger; fi\ncat /proc/filesystems\n"
    found = trial(image, warning, probe)
    assert (found.before.behaviour, found.before.status) == (Behaviour.BAD, None)
    assert "panicked" in found.before.reason
    assert found.after is not None
    assert (found.after.behaviour, found.after.status) == (Behaviour.GOOD, 0)
    assert "a fresh one got the livepatch" in found.notes[0]
    assert found.verdict is Verdict.COMPLAINT
    assert "filesystems_proc_show+" in found.complaints[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("probe", "verdict"),
    [
        ("exit 1", Verdict.NO_EFFECT),
        ("exit 0", Verdict.NOT_SHOWN),
        ("exit 125", Verdict.UNDECIDED),
        ("[ $1 = before ]", Verdict.BROKEN),
        ("[ $1 = after ] || kill -9 $$", Verdict.MENDED),
    ],
)
def test_each_verdict(image: lab.UnpackedKernel, warning: Built, probe: str, verdict: Verdict) -> None:
    found = trial(image, warning, probe)
    assert found.verdict is verdict
    assert found.complaints == ()
    assert found.problem == ""


@pytest.mark.slow
def test_a_probe_that_hangs(image: lab.UnpackedKernel, warning: Built) -> None:
    found = trial(image, warning, "echo begun; [ $1 = after ] || sleep 1000", 5)
    assert (found.before.behaviour, found.before.status, found.before.stdout) == (Behaviour.BAD, None, "begun\n")
    assert found.before.reason == "not at its end after 5 s"
    assert found.verdict is Verdict.MENDED


@pytest.mark.slow
def test_a_livepatch_that_the_kernel_refuses_or_that_ends_the_guest(image: lab.UnpackedKernel, warning: Built) -> None:
    probe = "insmod /trial/*.ko 2>/dev/null; [ $1 = after ] || exit 1; echo c > /proc/sysrq-trigger"
    found = trial(image, warning, probe)
    assert found.after is not None
    assert (found.after.behaviour, found.verdict) == (Behaviour.BAD, Verdict.NO_EFFECT)
    assert "panicked" in found.after.reason
    blocked = "echo 1 > /proc/sys/kernel/modules_disabled; exit 1"
    found = trial(image, warning, blocked)
    assert (found.verdict, found.after) == (Verdict.NOT_LOADED, None)
    assert "the kernel refuses it" in found.problem


@pytest.mark.slow
@pytest.mark.parametrize("probe", ["#!/usr/bin/python3\n", "\x7fELF nonsense", "no-such-program"])
def test_a_probe_that_cannot_be_run(image: lab.UnpackedKernel, warning: Built, probe: str) -> None:
    with pytest.raises(TrialError, match="cannot be run in the guest") as caught:
        trial(image, warning, probe)
    assert caught.value.hint
