"""The package's whole life while its service is at work: nothing but `purge` takes a livepatch off, and nothing is left then."""

from __future__ import annotations

import json
import time

import pytest
from tests.vm.test_packages import PackagedHost, bare, offered

__all__ = ["bare", "offered"]

QUICK = "[service]\ninterval = 60\n[timing]\nsoak = 15\nremove_after = 3\n"
PLACES = "/etc/kmend /var/lib/kmend /var/lib/kmend-fetch /run/kmend /run/kmend-agent /usr/lib/kmend /usr/bin/kmend"
SECONDS = 300


def _until(host: PackagedHost, condition: str) -> None:
    """Wait for a condition of the shell's."""
    script = f"for i in $(seq {SECONDS * 2}); do {condition} && exit 0; sleep 0.5; done; exit 1"
    if host.vm.sh(script, timeout=SECONDS * 2, check=False).status:
        log = host.vm.sh("journalctl -b --no-pager -u 'kmend*' | tail -60", check=False).text
        raise AssertionError((condition, log))


def _until_settled(host: PackagedHost) -> None:
    """Wait until the level has soaked and the loader has ended."""
    deadline = time.monotonic() + SECONDS
    while (state := json.loads(host.command("status", "--json"))["state"]) not in ("steady", "held"):
        assert time.monotonic() < deadline, state
        time.sleep(1)
    _until(host, "! systemctl -q is-active kmend-loader.service")


def _in_force(name: str) -> str:
    return f"grep -qs 1 /sys/kernel/livepatch/{name}/enabled && grep -qs 0 /sys/kernel/livepatch/{name}/transition"


def _configure(host: PackagedHost, text: str) -> None:
    host.vm.sh("mkdir -p /etc/kmend/agent.toml.d")
    host.vm.put_bytes(text.encode(), "/etc/kmend/agent.toml.d/20-test.toml")


def _processes(host: PackagedHost) -> str:
    return host.vm.sh("pgrep -u kmend; pgrep -f '[/]usr/lib/kmend'", check=False).text


def _nothing_has_failed(host: PackagedHost) -> None:
    assert host.vm.sh("systemctl list-units --failed --no-legend --plain 'kmend*'").text == ""


def _install(host: PackagedHost) -> None:
    host.vm.sh(f"cd /root && {host.line}", timeout=SECONDS)


def _restart(host: PackagedHost) -> None:
    host.vm.power_off()
    host.vm.start()


@pytest.mark.slow
def test_the_whole_life_with_the_service(bare: PackagedHost) -> None:
    one, two = bare.published.names
    _configure(bare, "[apply]\npin_level = 1\n" + QUICK)
    bare.vm.sh(f"cd /root && {bare.line} --no-update", timeout=SECONDS)
    _until(bare, _in_force(one))
    _until(bare, "systemctl -q is-active kmend-agent.service")
    assert bare.vm.sh("systemctl is-active kmend-loader.path").text == "active\n"
    assert _processes(bare)

    # The service loads the next level; the upgrade comes while it is being tried.
    _configure(bare, QUICK)
    bare.vm.sh("systemctl reload kmend-agent")
    _until(bare, _in_force(two))
    boot = bare.vm.boot_id
    bare.install_newer()
    assert bare.command("--version") == "kmend 99.0\n"
    assert bare.livepatches() == {two: ("1", "0")}
    _until(bare, "systemctl -q is-active kmend-agent.service")
    _until_settled(bare)
    assert bare.livepatches() == {two: ("1", "0")}
    assert bare.vm.boot_id == boot
    _nothing_has_failed(bare)

    # What ran well comes back at boot; the line once more goes back to its own version and touches nothing.
    _restart(bare)
    _until(bare, _in_force(two))
    _until(bare, "systemctl -q is-active kmend-boot.service")  # it ends a moment after the level is in force
    _until_settled(bare)
    _install(bare)
    assert bare.command("--version") != "kmend 99.0\n"
    assert bare.livepatches() == {two: ("1", "0")}
    _until(bare, "systemctl -q is-active kmend-agent.service")
    _nothing_has_failed(bare)

    # Removed, it leaves the livepatch and nothing that runs; after a restart there is neither.
    said = bare.apt("remove", "kmend")
    assert f"{two} stays in force until the next restart of this host" in said
    assert bare.livepatches() == {two: ("1", "0")}
    assert _processes(bare) == ""
    _nothing_has_failed(bare)
    _restart(bare)
    assert bare.livepatches() == {}
    assert bare.hole() == "answered"
    _nothing_has_failed(bare)

    # Installed again it goes on from where it was.
    _install(bare)
    assert bare.livepatches() == {two: ("1", "0")}
    assert json.loads(bare.command("quarantine", "--json"))["entries"] == []
    _until(bare, "systemctl -q is-active kmend-agent.service")

    # Purged at once, with service and loader at work.
    said = bare.apt("purge", "kmend", environment="KMEND_PURGE_REMOVE_AFTER=3")
    assert f"{two} is off" in said
    assert bare.livepatches() == {}
    assert _processes(bare) == ""
    assert bare.vm.sh(f"ls -d {PLACES} 2>/dev/null", check=False).text == ""
    _until(bare, "! grep -q ^kmend_ /proc/modules")
    _nothing_has_failed(bare)
    _restart(bare)
    assert bare.livepatches() == {}
    assert bare.vm.sh(f"ls -d {PLACES} 2>/dev/null", check=False).text == ""
    _nothing_has_failed(bare)
    assert bare.vm.sh("dmesg | grep -E 'WARNING|BUG|Oops'", check=False).text == ""


@pytest.mark.slow
def test_removed_while_the_loader_is_at_work(bare: PackagedHost) -> None:
    """dpkg waits for nobody: the level is being tried, and then no service is there that would end the trial."""
    two = bare.published.names[-1]
    _configure(bare, "[service]\ninterval = 60\n")
    bare.vm.sh(f"cd /root && {bare.line} --no-update", timeout=SECONDS)
    _until(bare, _in_force(two))
    _until(bare, "systemctl -q is-active kmend-loader.service")
    bare.apt("remove", "kmend")
    assert bare.livepatches() == {two: ("1", "0")}
    assert _processes(bare) == ""
    _nothing_has_failed(bare)

    # The livepatch is still in force when the package comes again: nothing is loaded twice, and nothing is under suspicion.
    _install(bare)
    assert bare.livepatches() == {two: ("1", "0")}
    assert json.loads(bare.command("quarantine", "--json"))["entries"] == []
    _until(bare, "systemctl -q is-active kmend-agent.service")
    assert bare.command("status", "--exit-code")
