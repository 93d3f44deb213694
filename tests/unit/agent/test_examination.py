"""Preflight names the culprits: tracers, module files, confinement, memory and disk, all at once."""

from __future__ import annotations

import gzip
import lzma
import struct
from pathlib import Path

import pytest
from tests.unit.agent.conftest import Machine

from kmend.agent import confinement, examination, modulefiles, tracers
from kmend.agent.modulefiles import ModuleFile
from kmend.agent.paths import Paths
from kmend.core.errors import MalformedError

ENABLED = """\
unix_ioctl (1) R I     \ttramp: 0xffffffffc0a00000 (klp_ftrace_handler+0x0/0x1c0) ->ftrace_ops_assist_func+0x0/0xf0
tcp_ack (1)            \ttramp: 0xffffffffc0a01000 (function_trace_call+0x0/0x180)
do_fork (1)   D        \tdirect-->bpf_trampoline_6442522412+0x0/0xf0
do_exit [ext4] (2) R I M
"""
PROBES = """\
ffffffff81a3c000  k  unix_ioctl+0x0    [FTRACE]
ffffffff81a3c044  k  tcp_ack+0x44
ffffffff81a3d000  r  do_fork+0x0    [DISABLED][FTRACE]
ffffffff81a3e000  r  schedule+0x0    [FTRACE]
"""


def put(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def elf(build_id: str, *, order: str = "<") -> bytes:
    """A 64-bit ELF file with nothing but a build ID."""
    payload = bytes.fromhex(build_id)
    note = struct.pack("<III", 4, len(payload), 3) + b"GNU\0" + payload
    head = b"\x7fELF\x02" + bytes([1 if order == "<" else 2, 1]) + bytes(9)
    head += struct.pack(f"{order}HHIQQQIHHHHHH", 1, 62, 1, 0, 0, 64 + len(note), 0, 64, 0, 0, 64, 2, 0)
    sections = bytes(64) + struct.pack(f"{order}IIQQQQIIQQ", 0, 7, 0, 0, 64, len(note), 0, 0, 4, 0)
    return head + note + sections


ID, OTHER = "ab" * 20, "cd" * 20


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    put(tmp_path / "sys/kernel/tracing/enabled_functions", ENABLED)
    put(tmp_path / "sys/kernel/debug/kprobes/list", PROBES)
    return Paths(tmp_path)


def test_tracers_by_name(paths: Paths) -> None:
    found = tracers.tracers(paths, {"unix_ioctl", "tcp_ack", "do_fork", "do_exit"}, {"unix_ioctl"})
    assert found.unknown == ()
    assert [(item.function, item.exclusive) for item in found.found] == [
        *(("tcp_ack", False), ("do_fork", False), ("do_exit", True)),
        *(("unix_ioctl", False), ("tcp_ack", False)),
    ]
    texts = [item.what for item in found.found]
    assert "function_trace_call" in texts[0]
    assert "BPF" in texts[1]
    assert "at the entry" in texts[3]
    assert "does not fire any more" in texts[4]


def test_livepatch_of_another_holds_the_function(paths: Paths) -> None:
    (found,) = tracers.tracers(paths, {"unix_ioctl"}, set()).found[:1]
    assert (found.exclusive, "klp_ftrace_handler" in found.what) == (True, True)


def test_absent_lists_are_said_to_be_unknown(tmp_path: Path) -> None:
    found = tracers.tracers(Paths(tmp_path), {"unix_ioctl"}, set())
    assert (found.found, len(found.unknown)) == ((), 2)


@pytest.mark.parametrize("pack", [("", bytes), (".xz", lzma.compress), (".gz", gzip.compress)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_file_that_depmod_chose(tmp_path: Path, pack: tuple[str, type], order: str) -> None:
    suffix, compress = pack
    name = f"updates/dkms/af-packet.ko{suffix}"
    put(tmp_path / name, compress(elf(ID, order=order)))
    put(tmp_path / "modules.dep", f"kernel/fs/ext4.ko: kernel/x.ko\n{name}:\nkernel/other.ko{suffix}:\n")
    assert modulefiles.chosen(tmp_path, "af_packet") == ModuleFile(tmp_path / name, ID)
    gone = modulefiles.chosen(tmp_path, "other")
    assert gone is not None
    assert "cannot be read" in gone.why
    assert modulefiles.chosen(tmp_path, "packet") is None
    assert modulefiles.chosen(tmp_path / "none", "af_packet") is None


@pytest.mark.parametrize(
    "content",
    [b"", b"MZ" * 100, elf(ID)[:70], elf(ID)[:40] + b"\xff" * 8 + elf(ID)[48:], b"\x7fELF\x01" + bytes(100)],
)
def test_damaged_module_file(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(MalformedError):
        modulefiles.build_id_of(content)
    put(tmp_path / "a.ko.xz", content)
    put(tmp_path / "b.ko.zst", content)
    put(tmp_path / "modules.dep", "a.ko.xz:\nb.ko.zst:\n")
    for name in "ab":
        file = modulefiles.chosen(tmp_path, name)
        assert file is not None
        assert (file.build_id, "cannot be read" in file.why) == (None, True)


def test_confinement(tmp_path: Path) -> None:
    nothing = confinement.confinement(Paths(tmp_path))
    assert (nothing.lockdown, nothing.ima_appraise, nothing.selinux, nothing.selinux_confined) == ("", False, "", False)
    put(tmp_path / "sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
    put(tmp_path / "sys/fs/selinux/enforce", "1")
    put(tmp_path / "sys/fs/selinux/class/system/perms/module_load", "5")
    put(tmp_path / "proc/self/attr/current", "system_u:system_r:kmend_t:s0\0")
    put(
        tmp_path / "sys/kernel/security/ima/policy",
        "measure func=BPRM_CHECK\nappraise func=MODULE_CHECK appraise_type=imasig\n",
    )
    found = confinement.confinement(Paths(tmp_path))
    assert (found.lockdown, found.selinux_domain, found.selinux_confined) == ("integrity", "kmend_t", True)
    assert (found.ima_appraise, found.ima_appended) == (True, False)
    codes = {item.code: item.fatal for item in examination._confined(found)}
    assert codes == {"ima-appraise": True, "selinux": False}
    put(tmp_path / "sys/kernel/security/ima/policy", "appraise func=MODULE_CHECK appraise_type=imasig|modsig\n")
    put(tmp_path / "proc/self/attr/current", "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023\0")
    assert examination._confined(confinement.confinement(Paths(tmp_path))) == []
    put(tmp_path / "sys/kernel/security/ima/policy", "")
    assert confinement.confinement(Paths(tmp_path)).ima_appraise is None
    put(tmp_path / "proc/cmdline", "ima_policy=tcb|secure_boot")
    assert confinement.confinement(Paths(tmp_path)).ima_appraise is True


@pytest.mark.parametrize(
    ("pin", "file", "code"),
    [
        (ID, ModuleFile(Path("/m.ko"), ID), ""),
        (ID, ModuleFile(Path("/m.ko"), OTHER), "other-module-file"),
        (ID, ModuleFile(Path("/m.ko"), None, "has no build ID"), "module-file-unknown"),
        (ID, None, ""),
        (None, ModuleFile(Path("/m.ko"), OTHER), ""),
    ],
)
def test_module_that_comes_later(pin: str | None, file: ModuleFile | None, code: str) -> None:
    assert [item.code for item in examination._later("m", pin, file)] == ([code] if code else [])


def test_everything_is_found_at_once(machine: Machine) -> None:
    machine.must("check")
    put(machine.paths.sys / "kernel/tracing/enabled_functions", ENABLED.replace("unix_ioctl (1)", "unix_ioctl (2)"))
    put(machine.paths.sys / "kernel/debug/kprobes/list", PROBES)
    machine.kernel.write("sys/kernel/modules_disabled", "1")
    machine.kernel.write("sys/kernel/ftrace_enabled", "0")
    machine.kernel.write("meminfo", "MemAvailable: 1000 kB")
    machine.kernel.add_foreign("kpatch_old")
    put(machine.paths.root / "run/systemd/container", "lxc\n")
    (machine.paths.config / "no-apply").touch()
    document = machine.json("preflight")
    assert (machine.status, document["fit"], document["level"]) == (3, False, 3)
    fatal = [item["code"] for item in document["findings"] if item["fatal"]]
    assert set(fatal) >= {
        "modules-disabled",
        "ftrace-off",
        "memory",
        "foreign-livepatch",
        "container-manager",
        "stopped",
        "function-taken",
    }
    assert "function-traced" in [item["code"] for item in document["findings"] if not item["fatal"]]
    machine.run("preflight")
    assert "kpatch_old" in machine.out
    assert "cannot be loaded now" in machine.out
    assert machine.run("update") == 30
    assert machine.kernel.noted("loads") == []


def test_fit_host(machine: Machine) -> None:
    assert "no level is waiting" in machine.must("preflight")
    machine.must("check")
    document = machine.json("preflight")
    assert (document["fit"], document["level"]) == (True, 3)
    assert {item["code"] for item in document["findings"]} == {"tracers-unknown"}
    assert machine.run("preflight", "--level", "9") == 3
    assert "not known on this host" in machine.err
    machine.must("update")
    assert "already" not in machine.err


def test_tracer_is_told_and_a_taken_function_refused(machine: Machine) -> None:
    put(
        machine.paths.sys / "kernel/tracing/enabled_functions",
        "unix_ioctl (1)    D   direct-->bpf_trampoline_1+0x0/0x1\n",
    )
    put(machine.paths.sys / "kernel/debug/kprobes/list", "")
    machine.must("update", "--level", "1")
    assert "a BPF program is attached to unix_ioctl" in machine.err
    put(machine.paths.sys / "kernel/tracing/enabled_functions", "tcp_ack (1) R I\n")
    assert machine.run("update", "--level", "2") == 3
    assert "tcp_ack is redirected already" in machine.err


def test_disk_is_full(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        f_bavail, f_frsize = 3, 4096

    monkeypatch.setattr("os.statvfs", lambda path: Full())
    assert machine.run("update") == 3
    assert "0 MiB are free for /var/lib/kmend" in machine.err
