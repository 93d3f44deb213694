"""A kernel made of files: what the agent reads of sysfs and procfs, and a loader that behaves like livepatching does.

All state is in files, so that it survives the death of the process under test.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
import uuid
from dataclasses import dataclass

from tests.unit.sample_livepatch import BUILD_ID, KERNEL

from kmend.agent.clock import Clock
from kmend.agent.paths import Paths
from kmend.core.errors import SystemProblemError
from kmend.core.manifest import sha256_hex
from kmend.trust import module_signature

EPOCH = 1_795_000_000


def notes(build_id: str) -> bytes:
    """`/sys/kernel/notes` with one GNU build ID."""
    payload = bytes.fromhex(build_id)
    return struct.pack("<III", 4, len(payload), 3) + b"GNU\0" + payload


class SimulatedKernel:
    """The kernel's files below `paths.root`, and the loader.

    Args:
        paths: an empty root.
    """

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.livepatch = paths.sys / "kernel/livepatch"
        self.knobs = paths.root / "simulation"

    def boot(self, *, build_id: str = BUILD_ID) -> None:
        """Come up: everything volatile is fresh."""
        for folder in (self.paths.sys, self.paths.proc, self.paths.run):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.livepatch, self.paths.run, self.knobs, self.paths.proc / "self/ns"):
            folder.mkdir(parents=True, exist_ok=True)
        (self.paths.sys / "kernel/notes").write_bytes(notes(build_id))
        self.write("sys/kernel/random/boot_id", str(uuid.uuid4()))
        self.write("sys/kernel/osrelease", KERNEL.release)
        self.write("sys/kernel/version", KERNEL.version)
        self.write("sys/kernel/tainted", "0")
        self.write("sys/kernel/ftrace_enabled", "1")
        self.write("sys/kernel/modules_disabled", "0")
        self.write("self/status", "Name:\tkmend\nCapEff:\t000001ffffffffff\n")
        self.write("self/mountinfo", "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n")
        self.write("modules", "ext4 1000000 1 - Live 0x0000000000000000\n")
        self.write("cmdline", "root=/dev/vda1")
        (self.paths.proc / "self/ns/pid").symlink_to("pid:[4026531836]")
        (self.paths.proc / "self/ns/user").symlink_to("user:[4026531837]")
        self.write("loadavg", "0.10 0.05 0.01 1/100 999")
        self.write("meminfo", "MemTotal: 2000000 kB\nMemAvailable:  1000000 kB")
        (self.paths.root / "dev").mkdir(exist_ok=True)
        self.paths.log.write_text("6,1,0,-;Linux version 6.1.0\n SUBSYSTEM=none\n")
        (self.knobs / "uptime").write_text("100")

    def write(self, name: str, text: str) -> None:
        """Write a file of procfs."""
        path = self.paths.proc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")

    # Knobs

    def hold_transitions(self, *, hold: bool) -> None:
        """Let transitions hang, or go on."""
        if hold:
            (self.knobs / "hold").touch()
        else:
            (self.knobs / "hold").unlink(missing_ok=True)
            self.tick()

    def refuse(self, code: int) -> None:
        """Let the next load fail; with 0 no more."""
        (self.knobs / "refuse").write_text(str(code))
        if not code:
            (self.knobs / "refuse").unlink()

    def add_foreign(self, name: str) -> None:
        """A livepatch of another tool."""
        self._create(name, {"vmlinux": ["do_fork,1"]}, transition="0")

    def add_task(self, pid: int, name: str, patch_state: int) -> None:
        """A process with one thread."""
        folder = f"{pid}/task/{pid}"
        self.write(f"{folder}/patch_state", str(patch_state))
        self.write(f"{folder}/comm", name)
        self.write(f"{folder}/stack", "[<0>] ep_poll+0x3a0/0x3f0\n[<0>] do_epoll_wait+0xc1/0xe0")

    def log(self, text: str, *, priority: int = 4) -> None:
        """A line in the kernel's log; priorities from 8 on are of programs."""
        number = len(self.paths.log.read_text().splitlines()) + 1
        with self.paths.log.open("a") as stream:
            stream.write(f"{priority},{number},0,-;{text}\n")

    # What tests look at

    def active(self) -> list[str]:
        """Livepatches, with `!` after those in transition and `-` before those being disabled."""
        shown = []
        for folder in sorted(self.livepatch.iterdir()):
            enabled = (folder / "enabled").read_text().strip() == "1"
            moving = (folder / "transition").read_text().strip() == "1"
            shown.append(("" if enabled else "-") + folder.name + ("!" if moving else ""))
        return shown

    def resident(self) -> list[str]:
        """kmend's modules in memory."""
        return [name for name in self._lines() if name.startswith("kmend_")]

    # The loader

    def load(self, module: bytes, sha256: str) -> None:
        """`finit_module`."""
        if sha256_hex(module) != sha256:
            raise SystemProblemError("the module in memory is not the one that was verified; nothing was loaded")
        if (self.knobs / "refuse").exists():
            code = int((self.knobs / "refuse").read_text())
            (self.knobs / "refuse").unlink()
            raise OSError(code, os.strerror(code))
        unsigned, message = module_signature.split(module)
        self._note("loads", f"{sha256_hex(unsigned)} {len(message)}")
        described = json.loads(unsigned.split(b"\n", 1)[1])
        if described["name"] in self._lines():
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        if any(name.endswith("!") for name in self.active()):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        self._create(described["name"], described["objects"], transition="1")
        with (self.paths.proc / "modules").open("a") as stream:
            stream.write(f"{described['name']} 16384 1 - Live 0x0000000000000000 (K)\n")
        self.tick()

    def remove(self, name: str) -> None:
        """`delete_module`."""
        if name not in self._lines():
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        if (self.livepatch / name).exists():
            raise OSError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
        self._note("removals", name)
        self._rewrite([name])

    def tick(self) -> None:
        """A moment passes: transitions that are not held come to their end."""
        held = (self.knobs / "hold").exists()
        for folder in sorted(self.livepatch.iterdir()):
            if (folder / "enabled").read_text().strip() == "0":
                leaving = self.knobs / f"leaving-{folder.name}"
                if (folder / "transition").read_text().strip() == "1" and not leaving.exists():
                    shutil.rmtree(folder)  # turned round: what held it up had not been switched
                    self._rewrite([])
                    continue
                leaving.touch()
                (folder / "transition").write_text("1\n")
        if held:
            return
        for folder in sorted(self.livepatch.iterdir()):
            if not folder.exists() or (folder / "transition").read_text().strip() != "1":
                continue
            if (folder / "enabled").read_text().strip() == "1":
                for other in self.livepatch.iterdir():
                    if other != folder:
                        shutil.rmtree(other)
                (folder / "transition").write_text("0\n")
            else:
                shutil.rmtree(folder)
        self._rewrite([])

    def noted(self, name: str) -> list[str]:
        """What was loaded or removed, in order."""
        path = self.knobs / name
        return path.read_text().splitlines() if path.exists() else []

    def _create(self, name: str, objects: dict[str, list[str]], *, transition: str) -> None:
        folder = self.livepatch / name
        for target, functions in objects.items():
            for function in functions:
                (folder / target / function).mkdir(parents=True)
            (folder / target / "patched").write_text("1\n")
        (folder / "enabled").write_text("1\n")
        (folder / "transition").write_text(transition + "\n")

    def _lines(self) -> dict[str, str]:
        lines = (self.paths.proc / "modules").read_text().splitlines()
        return {line.split()[0]: line for line in lines if line}

    def _rewrite(self, without: list[str]) -> None:
        kept = []
        for name, line in self._lines().items():
            words = line.split()
            if name.startswith("kmend_"):
                used = (self.livepatch / name).exists() or (self.knobs / "in-use").exists()
                words[2] = "1" if used else "0"
            if name not in without:
                kept.append(" ".join(words))
        (self.paths.proc / "modules").write_text("\n".join(kept) + "\n")

    def _note(self, name: str, line: str) -> None:
        with (self.knobs / name).open("a") as stream:
            stream.write(line + "\n")


@dataclass
class SimulatedClock(Clock):
    """Time that passes only when somebody sleeps; kept in a file like everything else."""

    kernel: SimulatedKernel

    def now(self) -> int:
        return EPOCH + int(self.uptime())

    def uptime(self) -> float:
        return float((self.kernel.knobs / "uptime").read_text())

    def sleep(self, seconds: float) -> None:
        (self.kernel.knobs / "uptime").write_text(str(self.uptime() + seconds))
        self.kernel.tick()
