"""dpkg waits for no transition: upgrade, removal and purge end while a task holds the kernel's transition up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from demo.serving import served
from tests.fixmaker import FixMaker
from tests.vm.livepatched import compiled
from tests.vm.published import Published, publish_third
from tests.vm.relevelled import manifest_of
from tests.vm.test_agent_kernel_faults import CLONE, killed
from tests.vm.test_packages import PackagedHost, offered

from kmend import lab
from packager.offer import offer

__all__ = ["offered"]

BLOCKER = "/opt/blocker"
SECONDS = 300


@pytest.fixture
def blocked(
    published: Published, offered: tuple[int, str, Path], maker: FixMaker, tmp_path: Path
) -> Iterator[tuple[PackagedHost, str]]:
    """A bare Debian, and the newest level's module: it replaces a function that a task may sleep in for good."""
    newer = offered[2]
    (package,) = newer.parents[1].glob("*.deb")
    repository = publish_third(published, maker, tmp_path / "blocked", CLONE)
    name = manifest_of(tmp_path / "blocked/level-3").module.name
    program = compiled(Path(__file__).with_name("blocker.c"), tmp_path / "blocker")
    with served(repository) as port:
        line = offer(repository, f"http://{lab.HOST_ADDRESS}:{port}", published.folder / "keys/root.json", [package])
        with lab.boot(published.kernel, lab.Shape.FULL, network=lab.Network(to_host=(port,))) as vm:
            vm.put(program, BLOCKER)
            yield PackagedHost(vm, published, line, newer), name


def _until(host: PackagedHost, condition: str) -> None:
    """Wait for a condition of the shell's."""
    script = f"for i in $(seq {SECONDS * 2}); do {condition} && exit 0; sleep 0.5; done; exit 1"
    if host.vm.sh(script, timeout=SECONDS * 2, check=False).status:
        log = host.vm.sh("journalctl -b --no-pager -u 'kmend*' | tail -60", check=False).text
        raise AssertionError((condition, log))


@pytest.mark.slow
def test_dpkg_waits_for_no_transition(blocked: tuple[PackagedHost, str]) -> None:
    host, name = blocked
    transition = f"/sys/kernel/livepatch/{name}/transition"
    host.vm.start_command([BLOCKER])
    host.vm.sh(f"cd /root && {host.line} --no-update", timeout=SECONDS)
    _until(host, f"grep -qs 1 {transition}")
    host.install_newer()
    assert host.livepatches() == {name: ("1", "1")}
    host.apt("remove", "kmend")
    assert host.livepatches() == {name: ("1", "1")}
    # What was never in force is turned round: the task is still where it was.
    said = host.apt("purge", "kmend", environment="KMEND_PURGE_REMOVE_AFTER=3")
    assert f"{name} is off" in said
    assert host.livepatches() == {}
    host.vm.sh(killed(BLOCKER))
    _until(host, "! grep -q ^kmend_ /proc/modules")

    # Now the task sleeps in the new function, and keeps it from being taken off.
    host.vm.sh(f"cd /root && {host.line} --no-update", timeout=SECONDS)
    _until(host, f"grep -qs 0 {transition}")
    host.vm.start_command([BLOCKER])
    _until(host, f"grep -lsxz '{BLOCKER[:-1]}[{BLOCKER[-1]}]' /proc/[0-9]*/cmdline >/dev/null")
    said = host.apt("purge", "kmend", environment="KMEND_PURGE_SECONDS=3")
    assert f"{name} is not off after 3 s; the kernel goes on with it" in said
    assert host.livepatches() == {name: ("0", "1")}
    assert host.vm.sh("ls -d /etc/kmend /var/lib/kmend /run/kmend 2>/dev/null", check=False).text == ""
    host.vm.sh(killed(BLOCKER))
    _until(host, f"! test -e {transition}")
    assert host.vm.sh("dmesg | grep -E 'WARNING|BUG|Oops'", check=False).text == ""
