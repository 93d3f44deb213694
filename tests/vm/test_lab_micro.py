"""Micro guests: what the lab promises of a guest that lives in memory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmend import lab
from kmend.core.cache import cache_root


@pytest.fixture(scope="module")
def guest(kernel: lab.UnpackedKernel) -> Iterator[lab.Vm]:
    with lab.boot(kernel, modules=["tls"], network=lab.Network(to_guest=(7000,))) as vm:
        yield vm


def test_it_runs_that_kernel(guest: lab.Vm, kernel: lab.UnpackedKernel) -> None:
    assert guest.run(["uname", "-r"]).text.strip() == kernel.release
    assert guest.read("/proc/sys/kernel/random/boot_id").decode().strip() == guest.boot_id


def test_modules_are_loaded_with_what_they_need(guest: lab.Vm) -> None:
    loaded = {line.split()[0] for line in guest.read("/proc/modules").decode().splitlines()}
    assert {"tls", "virtio_net", "net_failover"} <= loaded


def test_files_go_in_and_out_unchanged(guest: lab.Vm, tmp_path: Path) -> None:
    content = os.urandom(5_000_000)
    (tmp_path / "there").write_bytes(content)
    (tmp_path / "there").chmod(0o751)
    guest.put(tmp_path / "there", "/deep/folder/file")
    assert guest.run(["stat", "-c", "%a %u %s", "/deep/folder/file"]).text == f"751 0 {len(content)}\n"
    guest.get("/deep/folder/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


def test_copies_that_cannot_be(guest: lab.Vm, tmp_path: Path) -> None:
    with pytest.raises(lab.CopyError, match="No such file"):
        guest.read("/nonexistent")
    with pytest.raises(lab.CopyError, match="/proc/nonsense"):
        guest.put_bytes(b"", "/proc/nonsense")
    guest.sh("mkdir -p /small && mount -t tmpfs -o size=64k none /small")
    with pytest.raises(lab.CopyError, match="No space left") as caught:
        guest.put_bytes(bytes(200_000), "/small/file")
    assert "full" in caught.value.hint


def test_a_time_limit_leaves_the_guest_usable(guest: lab.Vm) -> None:
    with pytest.raises(lab.TimeLimitError) as caught:
        guest.sh("echo begun; sleep 1000", timeout=1)
    assert caught.value.stdout == b"begun\n"
    assert guest.sh("echo still here").text == "still here\n"


def test_the_host_reaches_the_guest(guest: lab.Vm) -> None:
    listener = guest.start_command(["nc", "-l", "-p", "7000", "-e", "cat"])
    deadline = time.monotonic() + 20
    while True:  # the forwarded port accepts before anybody listens behind it
        with socket.create_connection(("127.0.0.1", guest.host_port(7000)), 10) as connection:
            connection.settimeout(10)
            try:
                connection.sendall(b"echo this")
                answer = connection.recv(100)
            except ConnectionError:
                answer = b""
        if answer or time.monotonic() > deadline:
            break
    listener.kill()
    assert answer == b"echo this"
    with pytest.raises(lab.LabError, match="port 22 of the guest is not forwarded"):
        guest.host_port(22)


def test_it_cannot_be_started_twice(guest: lab.Vm) -> None:
    with pytest.raises(lab.LabError, match="runs already"):
        guest.start()
    assert guest.running


def test_a_panic_is_its_own_error_and_the_machine_boots_again(kernel: lab.UnpackedKernel) -> None:
    with lab.boot(kernel) as vm:
        first = vm.boot_id
        with pytest.raises(lab.PanicError) as caught:
            vm.sh("echo c > /proc/sysrq-trigger")
        assert caught.value.reason == "sysrq triggered crash"
        assert "Call Trace" in caught.value.serial_tail
        assert not vm.running
        with pytest.raises(lab.PanicError):
            vm.run(["true"])
        vm.start()
        assert vm.boot_id != first
        vm.power_off()
        assert not vm.running
        with pytest.raises(lab.GuestLostError, match="not running"):
            vm.run(["true"])


def test_a_panic_while_a_background_command_runs(kernel: lab.UnpackedKernel) -> None:
    with lab.boot(kernel) as vm:
        background = vm.start_command(["sleep", "1000"])
        vm.start_command(["sh", "-c", "sleep 0.3; kill -9 1; echo c > /proc/sysrq-trigger"])
        with pytest.raises(lab.PanicError):
            background.wait(30)
        with pytest.raises(lab.PanicError):
            vm.wait_end(10)


def test_a_panic_during_boot(kernel: lab.UnpackedKernel) -> None:
    with pytest.raises(lab.PanicError, match=r"Requested init /nonexistent failed|Unable to mount root fs"):
        lab.boot(kernel, command_line="rdinit=/nonexistent init=/nonexistent")


def test_a_guest_that_does_not_come_up(kernel: lab.UnpackedKernel) -> None:
    with pytest.raises(lab.BootTimeoutError, match=r"within 0\.2 s"):
        lab.boot(kernel, timeout=0.2)


def test_a_guest_that_leaves_by_itself(kernel: lab.UnpackedKernel) -> None:
    with lab.boot(kernel) as vm:
        with pytest.raises(lab.GuestLostError, match="powered off or reset itself"):
            vm.run(["reboot", "-f"])
        vm.start()
        vm.start_command(["poweroff", "-f"])
        vm.wait_end(20)


def test_a_module_that_is_not_there(kernel: lab.UnpackedKernel) -> None:
    with pytest.raises(lab.KernelPackageError, match="no module nonsense"):
        lab.boot(kernel, modules=["nonsense"])


def test_qemu_ends_with_its_owner(kernel: lab.UnpackedKernel) -> None:
    script = (
        "import sys, pathlib; from kmend import lab; vm = lab.boot(pathlib.Path(sys.argv[1]))\n"
        "print(vm.run(['uname']).text.strip(), vm.pid, flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script, _package_of(kernel)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert owner.stdout is not None
    assert owner.stdin is not None
    word, pid = owner.stdout.readline().decode().split()
    assert word == "Linux"
    os.kill(int(pid), 0)
    owner.send_signal(signal.SIGKILL)
    owner.communicate(timeout=10)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/cmdline").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}/cmdline").exists()


def _package_of(kernel: lab.UnpackedKernel) -> str:
    (path,) = (cache_root() / "packages").glob(f"linux-image-{kernel.release}-unsigned_*.deb")
    return str(path)
