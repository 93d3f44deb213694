"""QEMU's command line, and what is said when QEMU itself fails."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kmend.lab.errors import PortTakenError, QemuError
from kmend.lab.qemu import Disk, Flash, Forward, Machine, Process, free_port, terminal_console


def machine(accelerator: str = "tcg", network: tuple[int, ...] | None = None) -> Machine:
    return Machine(
        accelerator=accelerator,
        cpus=2,
        memory_mib=512,
        kernel=Path("/k"),
        initramfs=Path("/i"),
        command_line="console=ttyS0 panic=-1",
        disks=(Disk(Path("/a,b"), "root", "qcow2", False), Disk(Path("/m"), "modules", "raw", True)),
        network=network,
        forwards=(Forward(22, 2222),),
    )


def test_command_line() -> None:
    words = machine(network=(80, 81)).arguments("socket,fd=5", 4)
    line = " ".join(words)
    assert words[0] == "qemu-system-x86_64"
    assert "-no-reboot" in words
    assert "-accel tcg,thread=multi" in line
    assert "node-name=root,read-only=off" in line
    assert "file.filename=/a,,b" in line
    assert "node-name=modules,read-only=on" in line
    (netdev,) = [word for word in words if word.startswith("user,")]
    assert "restrict=on" in netdev
    assert "guestfwd=tcp:10.0.2.4:80-cmd:busybox nc 127.0.0.1 80" in netdev
    assert "hostfwd=tcp:127.0.0.1:2222-:22" in netdev
    assert "socket,fd=5,id=console" in line


def test_without_a_network_there_is_no_card() -> None:
    assert not [word for word in machine().arguments("socket,fd=5", 4) if "net" in word]


def test_kvm() -> None:
    assert "-accel kvm -cpu host" in " ".join(machine("kvm").arguments("socket,fd=5", 4))


def test_terminal() -> None:
    assert terminal_console(Path("/x,y")) == "stdio,signal=off,logfile=/x,,y,logappend=on"


def test_free_port() -> None:
    assert 0 < free_port() < 65536


def ended(tmp_path: Path, script: str) -> Process:
    process = Process(["sh", "-c", script], (), tmp_path / "errors", terminal=False)
    assert process.wait(10)
    return process


def test_qemu_is_missing(tmp_path: Path) -> None:
    process = Process(["/nonexistent/qemu-system-x86_64"], (), tmp_path / "errors", terminal=False)
    assert process.wait(10)
    failure = process.failure()
    assert "not installed" in failure.message
    assert "qemu-system-x86" in failure.hint


def test_qemu_fails(tmp_path: Path) -> None:
    failure = ended(tmp_path, "echo could not load the kernel >&2; exit 1").failure()
    assert "status 1: could not load the kernel" in failure.message
    assert type(failure) is QemuError


def test_a_port_was_taken(tmp_path: Path) -> None:
    script = "echo \"qemu: -netdev: Could not set up host forwarding rule 'tcp:127.0.0.1:1-:2'\" >&2; exit 1"
    assert isinstance(ended(tmp_path, script).failure(), PortTakenError)


def test_setpriv_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(QemuError, match="setpriv is not installed"):
        Process(["true"], (), tmp_path / "errors", terminal=False)


def test_it_is_killed(tmp_path: Path) -> None:
    process = Process(["sleep", "100"], (), tmp_path / "errors", terminal=False)
    assert process.status is None
    process.kill()
    assert process.status == -9


def test_firmware() -> None:
    words = dataclasses.replace(machine(), flash=Flash(Path("/code"), Path("/v,w"))).arguments("socket,fd=5", 4)
    assert "if=pflash,unit=0,format=raw,readonly=on,file=/code" in words
    assert "if=pflash,unit=1,format=raw,file=/v,,w" in words
    assert "-kernel" in words
    assert not [word for word in machine().arguments("socket,fd=5", 4) if "pflash" in word]
