"""A disk that is full, or read-only, at every step of a command; `/run` likewise.

The command stands still at a fail point, its state folder (a small file system of its own) fills up or becomes read-only, and
it goes on. The kernel runs the old or the new level then, `status` still tells, and once there is room again an update works.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.vm.faulted import WAYS, Struck, cells, sample

STATE = "/var/lib/kmend"
IMAGE = "/srv/state.img"
MIB = 24
FILL = (
    f"dd if=/dev/zero of={STATE}/filler bs=64k 2>/dev/null; dd if=/dev/zero of={STATE}/rest bs=512 2>/dev/null; "
    f"! echo more > {STATE}/more"
)
EMPTY = f"rm -f {STATE}/filler {STATE}/rest {STATE}/more"
READ_ONLY = f"mount -o remount,ro {STATE}"
WRITABLE = f"mount -o remount,rw {STATE}"
FULL_AT = cells(("update", "rollback", "unload"))
QUICK_FULL = 1
READ_ONLY_AT = [cell for cell in cells(("update",)) if cell[1].endswith((".before", "fetched"))]


@pytest.fixture
def small(struck: Struck) -> Iterator[Struck]:
    """The state folder is a file system that a few MiB fill."""
    vm = struck.vm
    vm.sh(f"mkdir -p {STATE} && truncate -s {MIB}M {IMAGE} && mkfs.ext4 -qF {IMAGE} && mount -o loop {IMAGE} {STATE}")
    yield struck
    vm.sh(f"childless; for i in $(seq 50); do umount {STATE} && exit 0; sleep 0.2; done; exit 1")


def through(struck: Struck, name: str, point: str, begin: str, end: str) -> None:
    """Run a command, change the disk at a point, let it go on; then look, and go on."""
    way = WAYS[name]
    struck.lead(way)
    with struck.stopped(point, struck.words(way), status=(0, 1, 3)):
        struck.vm.sh(begin)
    assert "Traceback" not in struck.told
    assert struck.level() in way.levels
    document = struck.status()
    shown = document["livepatch"]
    assert (shown["level"] if shown is not None else 0) in way.levels
    struck.vm.sh(end)
    struck.agrees(way)
    struck.goes_on()


@pytest.mark.parametrize(
    ("name", "point"),
    [
        pytest.param(*cell, marks=[] if cell in sample("full", QUICK_FULL, FULL_AT) else [pytest.mark.slow])
        for cell in FULL_AT
    ],
)
def test_disk_is_full_from_a_step_on(small: Struck, name: str, point: str) -> None:
    through(small, name, point, FILL, EMPTY)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "point"), READ_ONLY_AT)
def test_disk_is_read_only_from_a_step_on(small: Struck, name: str, point: str) -> None:
    through(small, name, point, READ_ONLY, WRITABLE)


def refuses_everything(struck: Struck, words: str) -> None:
    """Level 1 stays in force, every command says what is wrong, and status works."""
    for command in (("update",), ("rollback",), ("unload",), ("boot",), ("check",)):
        done = struck.vm.run(["K", *command], check=False, timeout=120)
        told = done.stderr.decode()
        assert done.status != 0 or command == ("boot",), (command, told)
        assert "Traceback" not in told
        assert command == ("boot",) or words in told or "no level before" in told, (command, told)
        assert struck.level() == 1
    assert struck.status()["livepatch"]["level"] == 1


@pytest.mark.slow
def test_full_disk_from_the_beginning(small: Struck) -> None:
    small.kmend("update", "--level", "1")
    small.vm.sh(f"childless; {FILL}")
    refuses_everything(small, "No space left on device")
    small.vm.sh(EMPTY)
    small.goes_on()


@pytest.mark.slow
def test_read_only_disk_from_the_beginning(small: Struck) -> None:
    small.kmend("update", "--level", "1")
    small.vm.sh(f"childless; {READ_ONLY}")
    refuses_everything(small, "Read-only file system")
    small.vm.sh(WRITABLE)
    small.goes_on()


@pytest.mark.slow
def test_first_update_ever_on_a_full_disk(small: Struck) -> None:
    small.vm.sh(FILL)
    assert "No space left on device" in small.kmend("update", status=1).stderr.decode()
    assert small.level() == 0
    small.vm.sh(EMPTY)
    small.goes_on()


@pytest.fixture
def small_run(struck: Struck) -> Iterator[Struck]:
    """`/run/kmend` is a file system of a few pages."""
    struck.vm.sh("mkdir -p /run/kmend && mount -t tmpfs -o size=16k small /run/kmend")
    yield struck
    struck.vm.sh("childless; for i in $(seq 50); do umount /run/kmend && exit 0; sleep 0.2; done; exit 1")


@pytest.mark.slow
def test_run_folder_is_full(small_run: Struck) -> None:
    """Only what is published there suffers."""
    small_run.vm.sh("dd if=/dev/zero of=/run/kmend/filler bs=4k 2>/dev/null; ! echo more > /run/kmend/more")
    told = small_run.kmend("update", "--level", "1").stderr.decode()
    assert "cannot publish the state" in told
    assert "Traceback" not in told
    assert small_run.level() == 1
    assert small_run.status()["livepatch"]["level"] == 1
    small_run.kmend("update", "--level", "2")
    small_run.vm.sh("rm /run/kmend/filler /run/kmend/more")
    small_run.kmend("rollback")
    assert small_run.level() == 1
    small_run.goes_on()


@pytest.mark.slow
def test_run_folder_is_read_only(small_run: Struck) -> None:
    """Without the lock nothing is done; status tells."""
    small_run.kmend("update", "--level", "1")
    small_run.vm.sh("childless; mount -o remount,ro /run/kmend")
    for command in ("update", "rollback", "unload"):
        told = small_run.kmend(command, status=1).stderr.decode()
        assert "Read-only file system" in told
        assert "Traceback" not in told
        assert small_run.level() == 1
    assert small_run.status()["livepatch"]["level"] == 1
    small_run.vm.sh("mount -o remount,rw /run/kmend")
    small_run.goes_on()
