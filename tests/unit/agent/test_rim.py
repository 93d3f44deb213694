"""The rim: the sealed memory file, the lock, the configuration, the settling child, and start-up cost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.agent.conftest import Machine

from kmend.agent import lock, syscalls
from kmend.agent.clock import Clock
from kmend.agent.configfiles import read_config
from kmend.agent.errors import BusyError, ConfigError
from kmend.agent.livekernel import LiveKernel
from kmend.agent.main import main
from kmend.agent.paths import Paths
from kmend.core.errors import SystemProblemError
from kmend.core.manifest import sha256_hex


def test_sealed_copy_can_only_be_read() -> None:
    content = os.urandom(3_000_000)
    descriptor = syscalls.sealed_copy(content)
    try:
        assert syscalls.hash_of(descriptor) == sha256_hex(content)
        assert os.pread(descriptor, 100, 0) == content[:100]
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(descriptor, b"x")
        with pytest.raises(PermissionError):
            os.ftruncate(os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR), 0)
    finally:
        os.close(descriptor)


def test_loader_refuses_other_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = syscalls.SystemCalls()
    monkeypatch.setattr(calls, "_call", lambda *arguments: pytest.fail("the kernel was called"))
    with pytest.raises(SystemProblemError, match="not the one that was verified"):
        calls.load(b"module", sha256_hex(b"other"))


def test_kernels_errno_comes_through() -> None:
    calls = syscalls.SystemCalls()
    # The read-only system call `close` of a descriptor that is not open stands in for one that changes the kernel.
    with pytest.raises(OSError, match="Bad file") as caught:
        calls._call(3 if os.uname().machine == "x86_64" else 57, -1)
    assert caught.value.errno == errno.EBADF


def test_second_kmend_gets_a_clear_message(machine: Machine) -> None:
    with lock.held(machine.paths.run / "lock", "update", Clock()):
        assert machine.run("check") == 75
        assert f"another kmend is at work: update (process {os.getpid()})" in machine.err
        assert machine.run("status") == 0
        assert "another kmend is at work" in machine.err
    machine.must("check")


def test_lock_waits_a_little(tmp_path: Path) -> None:
    with (
        lock.held(tmp_path / "lock", "one", Clock()),
        pytest.raises(BusyError),
        lock.held(tmp_path / "lock", "two", Clock(), wait=0.2),
    ):
        raise AssertionError


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_drop_ins_win_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path, "agent.toml", '[repository]\nurl = "https://a.example"\n[timing]\nsoak = 10\n')
    write(tmp_path, "agent.toml.d/20.toml", "[timing]\nsoak = 30\n")
    write(tmp_path, "agent.toml.d/10.toml", "[timing]\nsoak = 20\ntransition = 7\n")
    config = read_config(tmp_path)
    assert (config.repository.url, config.timing.soak, config.timing.transition) == ("https://a.example", 30, 7)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[repo]\n", "no section [repo]"),
        ("[timing]\nsoaking = 1\n", "no member soaking"),
        ("[timing]\nsoak = 1.5\n", "int is expected"),
        ("[timing]\nsoak = -1\n", "soak must be"),
        ("[timing]\nsoak = 99999999999\n", "soak must be"),
        ('[repository]\nurl = "gopher://x"\n', "scheme 'gopher'"),
        ('[repository]\nroot = "root.json"\n', "absolute"),
        ('[repository]\nurl = "http://[::1"\n', "url"),
        ("timing = 3\n", "must be a section"),
        ("[[[", "not valid TOML"),
        ("\x00", "not valid TOML"),
        ("# " + "x" * 300_000, "larger than"),
    ],
)
def test_wrong_configuration_is_named(tmp_path: Path, text: str, words: str) -> None:
    write(tmp_path, "agent.toml", text)
    with pytest.raises(ConfigError) as caught:
        read_config(tmp_path)
    assert words in caught.value.message


def test_no_configuration_is_all_defaults(tmp_path: Path) -> None:
    assert read_config(tmp_path / "none").repository.url == ""


def test_settling_child_ends_the_soak_and_removes_modules(machine: Machine) -> None:
    machine.must("update", "--level", "1")
    machine.must("update", "--level", "2")
    before = machine.clock.uptime()
    assert main(["internal", "settle"], host=machine.host) == 0
    assert 299 <= machine.clock.uptime() - before <= 320
    assert len(machine.kernel.resident()) == 1
    assert machine.json("status")["state"] == "steady"


def test_settling_child_gives_up_on_a_module_that_stays_in_use(machine: Machine) -> None:
    machine.must("update", "--level", "1")
    machine.must("update", "--level", "2")
    (machine.kernel.knobs / "in-use").touch()
    assert main(["internal", "settle"], host=machine.host) == 0
    assert len(machine.kernel.resident()) == 2


def test_help_and_status_import_no_tuf() -> None:
    script = (
        "import sys\nfrom kmend.agent.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('tuf', 'urllib3', 'securesystemslib', 'cryptography') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "exit codes of status --exit-code" in done.stdout


def test_real_sysctl_files_can_be_read() -> None:
    """They refuse reads as large as the largest allocation; seen on a real kernel, where boot IDs came out empty."""
    kernel = LiveKernel(Paths())
    assert kernel.setting("ostype") == "Linux"
    assert kernel.boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_kernel_without_a_boot_id_is_an_error(machine: Machine) -> None:
    machine.kernel.write("sys/kernel/random/boot_id", "")
    assert machine.run("update") == 1
    assert "boot ID" in machine.err
