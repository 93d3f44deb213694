"""The packages' scripts never fail and never wait without a limit, whatever the host is like."""

from __future__ import annotations

import fcntl
import itertools
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from packager import definition
from packager.staging import LaidOut

CALLS = [
    ("deb.postinst", ("configure", "")),
    ("deb.postinst", ("configure", "0.0.9")),
    ("deb.postinst", ("abort-upgrade", "0.2")),
    ("deb.postinst", ("abort-remove",)),
    ("deb.postinst", ("triggered", "x")),
    ("deb.prerm", ("remove",)),
    ("deb.prerm", ("upgrade", "0.2")),
    ("deb.prerm", ("failed-upgrade", "0.1")),
    ("deb.postrm", ("remove",)),
    ("deb.postrm", ("purge",)),
    ("deb.postrm", ("upgrade", "0.2")),
    ("deb.postrm", ("disappear", "x")),
    ("rpm.pre", ("1",)),
    ("rpm.pre", ("2",)),
    ("rpm.post", ("1",)),
    ("rpm.post", ("2",)),
    ("rpm.preun", ("0",)),
    ("rpm.preun", ("1",)),
    ("rpm.postun", ("0",)),
]
TOOLS = (
    "getent",
    "systemctl",
    "deb-systemd-helper",
    "systemd-run",
    "systemd-detect-virt",
    "rmmod",
    "python3",
    "policy-rc.d",
)


class HostTree:
    """A host's folders below a temporary one; programs are stand-ins that write down how they were called."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls = root / "calls"
        for name in ("lib", "state/levels", "patches", "module", "run", "etc/agent.toml.d", "systemd", "bin"):
            (root / name).mkdir(parents=True)
        self.stand_in("kmend", "lib")
        for tool in TOOLS:
            self.stand_in(tool)

    def stand_in(self, name: str, folder: str = "bin", *, does: str = "exit 0") -> None:
        """A program that notes its call, and then does what it is told."""
        path = self.root / folder / name
        path.write_text(f'#!/bin/sh\necho {name} "$@" >> {self.calls}\n{does}\n')
        path.chmod(0o755)

    def run(self, script: str, *arguments: str, seconds: str = "1") -> subprocess.CompletedProcess[str]:
        laid_out = LaidOut(definition.read(), self.root, (), ("a.service", "b.timer"), ("a.service",))
        text = laid_out.script(script)
        for old, new in {
            "TREE=/usr/lib/kmend": f"TREE={self.root}/lib",
            "STATE=/var/lib/kmend\n": f"STATE={self.root}/state\n",
            "FETCHED=/var/lib/kmend-fetch": f"FETCHED={self.root}/fetched",
            "PATCHES=/sys/kernel/livepatch": f"PATCHES={self.root}/patches",
            "POLICY=/usr/sbin/policy-rc.d": f"POLICY={self.root}/bin/policy-rc.d",
            "/sys/module/": f"{self.root}/module/",
            "/run/kmend /run/kmend-agent /etc/kmend": f"{self.root}/run {self.root}/run-agent {self.root}/etc",
            "/run/kmend/lock": f"{self.root}/run/lock",
            "/run/systemd/system": f"{self.root}/systemd",
            "/proc/1/root/.": "/",  # this very test may run in a chroot
        }.items():
            text = text.replace(old, new)
        assert "/var/lib/kmend" not in text
        assert "/etc/kmend" not in text
        path = self.root / "script"
        path.write_text(text)
        return subprocess.run(
            ["sh", path, *arguments],
            env={
                "PATH": f"{self.root}/bin:/usr/bin:/bin",
                "KMEND_PURGE_SECONDS": seconds,
                "KMEND_LOCK_SECONDS": seconds,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def called(self) -> str:
        return self.calls.read_text() if self.calls.exists() else ""

    def load(self, name: str, *, pinned: str = "[]") -> Path:
        """A livepatch in force that this installation has loaded."""
        patch = self.root / "patches" / name
        patch.mkdir()
        (patch / "enabled").write_text("1\n")
        (self.root / "module" / name).mkdir()
        (self.root / "state/levels" / f"{name}.json").write_text(f'{{"level":1,"pinned":{pinned}}}')
        return patch


@pytest.fixture
def tree(tmp_path: Path) -> HostTree:
    # This very test may run in a container, which the scripts would notice.
    tree = HostTree(tmp_path / "host")
    tree.stand_in("systemd-detect-virt", does="exit 1")
    return tree


@pytest.mark.parametrize(("script", "arguments"), CALLS)
@pytest.mark.parametrize("manner", ["well", "failing", "missing"])
def test_no_script_ever_fails(tree: HostTree, script: str, arguments: tuple[str, ...], manner: str) -> None:
    for tool in TOOLS:
        if manner == "failing":
            tree.stand_in(tool, does="echo no >&2; exit 7")
        elif manner == "missing":
            (tree.root / "bin" / tool).unlink()
    if manner != "well":
        tree.stand_in("kmend", "lib", does="exit 1")
    done = tree.run(script, *arguments)
    assert done.returncode == 0, done.stderr


def test_a_hanging_systemd_does_not_hold_dpkg_up(tree: HostTree) -> None:
    """Every wait is under `timeout`; here it is made short."""
    tree.stand_in("timeout", does='shift 3; exec /usr/bin/timeout -k 1 0.2 "$@"')
    for tool in ("systemctl", "python3"):
        tree.stand_in(tool, does="sleep 100")
    tree.stand_in("kmend", "lib", does="sleep 100")
    for script, argument in (("deb.postinst", "configure"), ("deb.prerm", "remove"), ("deb.postrm", "remove")):
        start = time.monotonic()
        assert tree.run(script, argument).returncode == 0
        assert time.monotonic() - start < 55  # far from what hangs: 100 s for each of many calls


def test_upgrade_touches_no_livepatch(tree: HostTree) -> None:
    patch = tree.load("kmend_1_0123abcd")
    for script, *arguments in (
        ("deb.prerm", "upgrade", "0.2"),
        ("deb.postrm", "upgrade", "0.2"),
        ("deb.postinst", "configure", "0.1"),
        ("rpm.preun", "1"),
        ("rpm.post", "2"),
    ):
        assert tree.run(script, *arguments).returncode == 0
    assert (patch / "enabled").read_text() == "1\n"
    assert (tree.root / "state/levels/kmend_1_0123abcd.json").exists()
    assert "stop" not in tree.called()
    assert "before-removal" not in tree.called()
    assert "try-restart a.service" in tree.called()


@pytest.mark.parametrize(("script", "arguments"), [("deb.prerm", ("upgrade", "0.2")), ("rpm.pre", ("2",))])
def test_upgrade_waits_for_a_command_that_is_at_work_but_not_for_ever(
    tree: HostTree, script: str, arguments: tuple[str, ...]
) -> None:
    with (tree.root / "run/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        start = time.monotonic()
        assert tree.run(script, *arguments, seconds="1").returncode == 0
        assert time.monotonic() - start >= 1
        release = threading.Timer(0.3, fcntl.flock, (lock, fcntl.LOCK_UN))
        release.start()
        assert tree.run(script, *arguments, seconds="50").returncode == 0
        release.join()


def test_removal_leaves_the_livepatch_and_says_so(tree: HostTree) -> None:
    patch = tree.load("kmend_1_0123abcd")
    done = tree.run("deb.prerm", "remove")
    assert "kmend_1_0123abcd stays in force until the next restart" in done.stderr
    assert "apt-get purge kmend" in done.stderr
    assert tree.run("deb.postrm", "remove").returncode == 0
    assert (patch / "enabled").read_text() == "1\n"
    assert (tree.root / "state/levels").exists()
    assert "kmend internal before-removal" in tree.called()
    assert "apt-get" not in tree.run("rpm.preun", "0").stderr


class Kernel(threading.Thread):
    """Lets go of a livepatch a moment after it was disabled, as the kernel does."""

    def __init__(self, patch: Path) -> None:
        super().__init__(daemon=True)
        self._patch = patch

    def run(self) -> None:
        for _ in itertools.repeat(None, 500):
            time.sleep(0.01)
            if (self._patch / "enabled").read_text() == "0\n":
                shutil.rmtree(self._patch)
                return


def test_purge_takes_the_livepatch_off_and_forgets_everything(tree: HostTree) -> None:
    patch = tree.load("kmend_1_0123abcd")
    kernel = Kernel(patch)
    kernel.start()
    done = tree.run("deb.postrm", "purge", seconds="10")
    kernel.join()
    assert "kmend_1_0123abcd is off" in done.stderr
    assert not patch.exists()
    assert [path for path in ("state", "run", "etc") if (tree.root / path).exists()] == []
    assert "rmmod kmend_1_0123abcd" in tree.called()
    assert "deb-systemd-helper purge a.service" in tree.called()


def test_purge_never_removes_a_pinned_module(tree: HostTree) -> None:
    patch = tree.load("kmend_1_0123abcd", pinned='["changes do_exit"]')
    kernel = Kernel(patch)
    kernel.start()
    tree.run("deb.postrm", "purge", seconds="10")
    kernel.join()
    assert not patch.exists()
    assert "rmmod" not in tree.called()


def test_purge_waits_only_for_a_while(tree: HostTree) -> None:
    patch = tree.load("kmend_1_0123abcd")
    done = tree.run("deb.postrm", "purge", seconds="1")
    assert done.returncode == 0
    assert "is not off after 1 s; the kernel goes on with it" in done.stderr
    assert (patch / "enabled").read_text() == "0\n"
    assert not (tree.root / "state").exists()
    assert "rmmod" not in tree.called()


def test_purge_leaves_what_another_installation_has_loaded(tree: HostTree) -> None:
    patch = tree.load("kmend_1_0123abcd")
    (tree.root / "state/levels/kmend_1_0123abcd.json").unlink()
    done = tree.run("deb.postrm", "purge")
    assert "was not loaded by this installation" in done.stderr
    assert (patch / "enabled").read_text() == "1\n"


def test_purge_in_a_container_leaves_the_hosts_kernel_alone(tree: HostTree) -> None:
    tree.stand_in("systemd-detect-virt", does="exit 0")
    patch = tree.load("kmend_1_0123abcd")
    assert tree.run("deb.postrm", "purge").returncode == 0
    assert (patch / "enabled").read_text() == "1\n"
    assert not (tree.root / "state").exists()


def test_installed_again_after_removal_starts_what_removal_stopped(tmp_path: Path) -> None:
    """dpkg calls it with the version before, as in an upgrade; an upgrade starts nothing that was stopped."""
    host = HostTree(tmp_path)
    start = "systemctl --no-block start a.service"
    host.run("deb.postinst", "configure", "0.0.9")
    assert start not in host.calls.read_text()
    host.run("deb.prerm", "remove")
    host.run("deb.postinst", "configure", "0.0.9")
    assert start in host.calls.read_text()
    host.calls.unlink()
    host.run("deb.postinst", "configure", "0.0.9")
    assert start not in host.calls.read_text()
