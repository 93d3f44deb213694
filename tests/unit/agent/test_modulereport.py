"""What a host says of its modules: what it looks at, what it leaves out because it is not known, and when it says it."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.agent.conftest import Machine, Published
from tests.unit.sample_livepatch import KERNEL

from kmend.agent import modulereport
from kmend.agent.configfiles import read_config
from kmend.agent.livekernel import Module, Patch, View
from kmend.agent.modulereport import AGAIN_SECONDS, MAX_BYTES, OnDisk, Told, compose, settle
from kmend.agent.session import Session
from kmend.core.document import encode
from kmend.core.wire import MAX_ABSENT, MAX_BARRED, MAX_LOADED, MAX_REQUEST_BYTES, ModuleReport

BOOT = "00000000-0000-4000-8000-000000000001"
NOTHING = OnDisk((), (), "")
BEFORE = ModuleReport(("ext4", "virtio_net"), ("dccp",), ("exfat",))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def tree(machine: Machine) -> Path:
    """The running kernel's folder of modules: of three that were built, `dccp` is not there."""
    folder = machine.paths.modules / KERNEL.release
    write(folder / "modules.order", "kernel/fs/ext4/ext4.ko\nkernel/net/sctp/sctp.ko\nkernel/net/dccp/dccp.ko\n")
    write(folder / "modules.builtin", "kernel/net/unix/unix.ko\n")
    write(folder / "modules.dep", "kernel/fs/ext4/ext4.ko.xz:\nkernel/net/sctp/sctp.ko.xz:\n")
    return folder


def session(machine: Machine) -> Session:
    return Session(machine.host, read_config(machine.paths.config), lambda line: None)


def seen(machine: Machine) -> ModuleReport:
    found = modulereport.look(session(machine))
    assert found is not None
    return found


def view(*names: str, patches: tuple[Patch, ...] = ()) -> View:
    return View(BOOT, patches, tuple(Module(name, 1, "Live") for name in names))


def test_what_is_loaded_without_our_own(machine: Machine) -> None:
    machine.must("update")
    assert any(name.startswith("kmend_") for name in machine.kernel.resident())
    assert seen(machine) == ModuleReport(("ext4",))
    machine.kernel.write("sys/kernel/modules_disabled", "1")
    assert seen(machine).sealed


def test_a_module_that_was_built_and_is_not_there(machine: Machine) -> None:
    folder = tree(machine)
    assert seen(machine).absent == ("dccp",)
    # A package brings it, and depmod has not run yet.
    write(folder / "kernel/net/dccp/dccp.ko.zst", "")
    os.utime(folder, ns=(1, 1))
    assert seen(machine).absent == ()


@pytest.mark.parametrize("name", ["modules.order", "modules.dep"])
def test_without_one_of_the_lists_nothing_is_absent(machine: Machine, name: str) -> None:
    (tree(machine) / name).unlink()
    assert seen(machine).absent == ()


def test_without_the_kernels_folder_nothing_is_absent(machine: Machine) -> None:
    assert not machine.paths.modules.exists()
    assert seen(machine) == ModuleReport(("ext4",))


@pytest.mark.parametrize("name", ["modules.order", "modules.builtin", "modules.dep"])
def test_with_a_list_that_is_too_large_nothing_is_absent(
    machine: Machine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tree(machine)
    monkeypatch.setattr(modulereport, "_MAX_LIST_BYTES", 1000)
    with (folder / name).open("a") as stream:
        stream.write("kernel/x.ko\n" * 100)
    assert seen(machine).absent == ()


def test_of_many_that_are_not_there_nothing_is_said(machine: Machine) -> None:
    folder = tree(machine)
    with (folder / "modules.order").open("a") as stream:
        stream.writelines(f"kernel/m{number}.ko\n" for number in range(MAX_ABSENT))
    assert seen(machine).absent == ()


def test_modprobes_configuration_and_what_the_kernel_refuses(machine: Machine) -> None:
    tree(machine)
    root = machine.paths.root
    write(root / "usr/lib/modprobe.d/cis.conf", "install sctp /bin/true\ninstall cramfs /bin/false\n")
    machine.kernel.write("cmdline", "root=/dev/vda1 module_blacklist=dccp")
    assert seen(machine).barred == ("cramfs", "dccp", "sctp")
    # The administrator's file of that name takes its place.
    write(root / "etc/modprobe.d/cis.conf", "blacklist sctp\n")
    assert seen(machine).barred == ("dccp",)
    write(root / "etc/modprobe.d/zz.conf", "install sctp /bin/true\n")
    assert seen(machine).barred == ("dccp", "sctp")


def test_what_cannot_be_read_may_let_in_what_the_rest_bars(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = machine.paths.root / "etc/modprobe.d"
    write(folder / "cis.conf", "install sctp /bin/true\n")
    assert seen(machine).barred == ("sctp",)
    # A link to itself cannot be opened, by whomever.
    (folder / "loop.conf").symlink_to("loop.conf")
    assert seen(machine).barred == ()
    (folder / "loop.conf").unlink()
    assert seen(machine).barred == ("sctp",)
    monkeypatch.setattr(modulereport, "_MAX_CONFIG_BYTES", 40)
    write(folder / "more.conf", "# no more than that can be read\n")
    assert seen(machine).barred == ()


def test_a_folder_that_cannot_be_listed_may_let_it_in_too(machine: Machine) -> None:
    write(machine.paths.root / "usr/lib/modprobe.d/cis.conf", "install sctp /bin/true\n")
    assert seen(machine).barred == ("sctp",)
    (machine.paths.root / "run/modprobe.d").symlink_to("modprobe.d")
    assert seen(machine).barred == ()


def test_more_files_than_anybody_has(machine: Machine) -> None:
    folder = machine.paths.root / "etc/modprobe.d"
    write(folder / "cis.conf", "install sctp /bin/true\n")
    for number in range(500):
        (folder / f"m{number}.conf").touch()
    assert seen(machine).barred == ()


def test_what_is_no_file_is_passed_over_as_kmod_does_and_holds_nothing_up(machine: Machine) -> None:
    folder = machine.paths.root / "etc/modprobe.d"
    write(folder / "cis.conf", "install sctp /bin/true\n")
    (folder / "folder.conf").mkdir()
    (folder / "gone.conf").symlink_to("nowhere")
    (folder / "nothing.conf").symlink_to("/dev/null")
    os.mkfifo(folder / "pipe.conf")
    (folder / "binary.conf").write_bytes(b"\xff\xfeinstall\0")
    assert seen(machine).barred == ("sctp",)


def test_the_newest_kernel(machine: Machine) -> None:
    status = machine.paths.root / "var/lib/dpkg/status"
    entry = "Package: linux-image-6.1.0-{0}-amd64\nStatus: install ok installed\nVersion: 6.1.{1}-1\n\n"
    write(status, entry.format(50, 176) + entry.format(56, 190))
    assert seen(machine).installed == ""
    write(machine.paths.root / "boot/vmlinuz-6.1.0-50-amd64", "")
    assert seen(machine).installed == "6.1.176-1"
    (machine.paths.modules / "6.1.0-56-amd64").mkdir(parents=True)
    assert seen(machine).installed == "6.1.190-1"


def test_a_kernel_that_does_not_show_its_modules_says_nothing(machine: Machine) -> None:
    modules = machine.paths.proc / "modules"
    modules.write_text("")
    assert seen(machine) == ModuleReport(())
    modules.write_text("what no kernel says\n")
    assert modulereport.look(session(machine)) is None
    modules.unlink()
    assert modulereport.look(session(machine)) is None


def test_objects_that_the_level_in_force_has_not_patched() -> None:
    name = "kmend_2_0123abcd"
    patch = Patch(name, True, False, frozenset(), frozenset({"exfat"}))
    told = compose(view("exfat", name, patches=(patch,)), NOTHING, sealed=False)
    assert told == ModuleReport(("exfat",), unpatched=("exfat",))
    for other in (replace(patch, transition=True), replace(patch, enabled=False)):
        told = compose(view("exfat", patches=(other,)), NOTHING, sealed=False)
        assert told == ModuleReport(("exfat",))


def test_the_report_is_bounded_and_what_matters_least_is_left_out() -> None:
    long = tuple(f"{number:050d}" for number in range(400))
    everything = OnDisk(long[:300], long, "6.1.190-1")
    told = compose(view(*long[:100]), everything, sealed=False)
    assert told is not None
    assert (told.absent, len(told.barred)) == ((), 300)
    told = compose(view(*long), everything, sealed=True)
    assert told is not None
    assert (told.absent, told.barred, len(told.loaded), told.sealed) == ((), (), 400, True)
    assert len(encode(told)) <= MAX_BYTES <= MAX_REQUEST_BYTES // 2
    assert compose(view(*(f"{number:060d}" for number in range(1000))), NOTHING, sealed=False) is None
    assert compose(view(*(f"m{number}" for number in range(MAX_LOADED + 1))), NOTHING, sealed=False) is None
    many = tuple(f"m{number}" for number in range(MAX_BARRED + 5))
    told = compose(view("ext4"), OnDisk((*many, "", "x" * 65, "a\nb"), (), "a\nb"), sealed=False)
    assert told is not None
    assert (told.barred, told.installed) == (many[:MAX_BARRED], "")


def settled(before: Told | None, report: ModuleReport, uptime: int, *watched: str, boot: str = BOOT) -> Told:
    return settle(before, report, frozenset(watched), boot, uptime)


def test_a_module_that_comes_or_goes_waits_six_hours() -> None:
    told = settled(None, BEFORE, 100)
    assert told == Told(BOOT, 100, BEFORE)
    more = replace(BEFORE, loaded=("ext4", "nls_ascii", "virtio_net"))
    assert settled(told, more, 100 + AGAIN_SECONDS - 1) == told
    assert settled(told, more, 100 + AGAIN_SECONDS) == Told(BOOT, 100 + AGAIN_SECONDS, more)
    # What is told again and again does not grow old.
    assert settled(told, BEFORE, 100 + 2 * AGAIN_SECONDS) == told


@pytest.mark.parametrize(
    "now",
    [
        replace(BEFORE, barred=()),
        replace(BEFORE, absent=()),
        replace(BEFORE, sealed=True),
        replace(BEFORE, unpatched=("ext4",)),
        replace(BEFORE, installed="6.1.190-1"),
        replace(BEFORE, loaded=("dccp", "ext4", "virtio_net")),
        replace(BEFORE, loaded=("exfat", "ext4", "virtio_net")),
        replace(BEFORE, loaded=("ext4", "unix", "virtio_net")),
        replace(BEFORE, loaded=("ext4",)),
    ],
    ids=(
        "barred",
        "absent",
        "sealed",
        "unpatched",
        "installed",
        "barred-loaded",
        "absent-loaded",
        "patched",
        "unloaded",
    ),
)
def test_what_a_verdict_may_turn_on_is_told_at_once(now: ModuleReport) -> None:
    told = settled(None, BEFORE, 100)
    assert settled(told, now, 101, "unix", "virtio_net") == Told(BOOT, 101, now)


def test_after_a_restart_or_a_time_that_cannot_be_it_is_told_at_once() -> None:
    told = settled(None, BEFORE, 1000)
    more = replace(BEFORE, loaded=())
    assert settled(told, more, 1001, boot=BOOT.replace("1", "2")).report == more
    assert settled(told, more, 999).report == more


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 3600))
def test_one_that_comes_and_goes_costs_a_report_in_six_hours_at_most(there: list[bool], step: int) -> None:
    told: Told | None = None
    tellings = []
    for number, loaded in enumerate(there):
        report = replace(BEFORE, loaded=("ext4", "nls_ascii", "virtio_net")) if loaded else BEFORE
        now = settled(told, report, number * step)
        if now != told:
            tellings.append(number * step)
        told = now
    assert all(later - earlier >= AGAIN_SECONDS for earlier, later in itertools.pairwise(tellings))


def test_what_was_told_is_kept_and_what_levels_patch_is_watched(machine: Machine, published: Published) -> None:
    def loaded() -> tuple[str, ...]:
        told = modulereport.report(session(machine))
        assert told is not None
        return told.loaded

    assert loaded() == ("ext4",)
    with (machine.paths.proc / "modules").open("a") as stream:
        stream.write("nls_ascii 1 0 - Live 0x0\n")
    assert loaded() == ("ext4",)
    machine.clock.sleep(AGAIN_SECONDS)
    assert loaded() == ("ext4", "nls_ascii")
    machine.must("update")
    patched = {target.name for manifest in published.levels.values() for target in manifest.objects} - {"vmlinux"}
    for number, name in enumerate(sorted(patched)):
        with (machine.paths.proc / "modules").open("a") as stream:
            stream.write(f"{name} 1 0 - Live 0x0\n")
        assert len(loaded()) == 3 + number


def test_a_place_that_cannot_be_written_is_no_reason_to_say_nothing(machine: Machine) -> None:
    write(machine.paths.fetched.parent / "x", "")
    machine.paths.fetched.symlink_to("/dev/null")
    assert modulereport.report(session(machine)) == ModuleReport(("ext4",))
