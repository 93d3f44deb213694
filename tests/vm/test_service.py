"""The service on a bare Debian 12, from its package: patches by itself, without privilege; and the timer instead of it."""

from __future__ import annotations

import json
import sys
import time

import pytest
from tests.vm.test_packages import PackagedHost, bare, offered

__all__ = ["bare", "offered"]

ALLOWED = {"cap_dac_read_search", "cap_sys_module", "cap_sys_ptrace", "cap_sys_admin", "cap_syslog"}
CAPABILITIES = {
    2: "cap_dac_read_search",
    16: "cap_sys_module",
    19: "cap_sys_ptrace",
    21: "cap_sys_admin",
    34: "cap_syslog",
}


def _wait(host: PackagedHost, script: str, seconds: int = 180) -> str:
    done = host.vm.sh(
        f"for i in $(seq {seconds * 2}); do {script} && exit 0; sleep 0.5; done; exit 1",
        timeout=seconds + 60,
        check=False,
    )
    if done.status:
        raise AssertionError((script, host.vm.sh("journalctl -b --no-pager -u 'kmend*' | tail -60", check=False).text))
    return done.text


def _property(host: PackagedHost, unit: str, name: str) -> str:
    return host.vm.sh(f"systemctl show --property={name} --value {unit}").text.strip()


def _status(host: PackagedHost, unit: str, name: str) -> str:
    """A line of /proc/PID/status of a unit's main process."""
    pid = _property(host, unit, "MainPID")
    lines = host.vm.read(f"/proc/{pid}/status").decode().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{name}:"))


def _loaded(name: str) -> str:
    return f"grep -qs 1 /sys/kernel/livepatch/{name}/enabled && grep -qs 0 /sys/kernel/livepatch/{name}/transition"


def _configure(host: PackagedHost, text: str) -> None:
    host.vm.put_bytes(text.encode(), "/etc/kmend/agent.toml.d/20-test.toml")


@pytest.mark.slow
def test_the_service_patches_by_itself_without_privilege(bare: PackagedHost) -> None:
    one, two = bare.published.names
    bare.vm.sh("mkdir -p /etc/kmend/agent.toml.d")
    _configure(bare, "[apply]\npin_level = 1\n[service]\ninterval = 60\n[timing]\nsoak = 20\nremove_after = 3\n")
    start = time.monotonic()
    bare.vm.sh(f"cd /root && {bare.line} --no-update", timeout=300)
    _wait(bare, _loaded(one))
    sys.stdout.write(f"installed and patched by the service after {time.monotonic() - start:.1f} s\n")

    assert _property(bare, "kmend-agent", "ActiveState") == "active"
    assert _status(bare, "kmend-agent", "CapEff") == _status(bare, "kmend-agent", "CapPrm") == "0" * 16
    assert set(_status(bare, "kmend-agent", "Uid").split()) == {bare.vm.sh("id -u kmend").text.strip()}
    effective = int(_status(bare, "kmend-loader", "CapEff"), 16)
    assert {CAPABILITIES.get(bit, str(bit)) for bit in range(64) if effective >> bit & 1} == ALLOWED
    assert (
        bare.vm.sh("nsenter -t $(systemctl show -p MainPID --value kmend-loader) -n cat /proc/net/route | wc -l").text
        == "1\n"
    )

    # Soaked, settled, and the loader has ended.
    _wait(bare, "test $(systemctl is-active kmend-loader) = inactive")
    assert json.loads(bare.command("status", "--json"))["state"] in ("steady", "held")
    assert "soaked without trouble" in bare.command("history")
    memory = bare.vm.sh("cat /proc/$(systemctl show -p MainPID --value kmend-agent)/smaps_rollup").text
    rows = {line.split()[0]: int(line.split()[1]) for line in memory.splitlines()[1:]}
    private = rows["Private_Clean:"] + rows["Private_Dirty:"]
    sys.stdout.write(f"the service's memory: {rows['Rss:']} kB resident, {private} kB of it private\n")

    # A new configuration is taken; a broken one is said and leaves the other in force.
    _configure(bare, "[apply]\npin_level = oops\n")
    bare.vm.sh("systemctl reload kmend-agent")
    _wait(bare, "systemctl show -p StatusText kmend-agent | grep -q 'stays in force'")
    assert _property(bare, "kmend-agent", "ActiveState") == "active"
    _configure(bare, "[service]\ninterval = 60\n[timing]\nsoak = 20\nremove_after = 3\n")
    bare.vm.sh("systemctl reload kmend-agent")
    _wait(bare, _loaded(two))
    _wait(bare, f"! grep -q ^{one} /proc/modules")

    # Stopping it is quick and takes nothing off; neither does killing it.
    before = time.monotonic()
    bare.vm.sh("systemctl stop kmend-agent", timeout=60)
    assert time.monotonic() - before < 20
    assert _property(bare, "kmend-agent", "Result") == "success"
    bare.vm.sh("systemctl start kmend-agent && systemctl kill -s KILL kmend-agent")
    assert bare.livepatches() == {two: ("1", "0")}
    bare.install_newer()
    _wait(bare, "test $(systemctl is-active kmend-agent) = active")
    assert bare.livepatches() == {two: ("1", "0")}
    sys.stdout.write(
        bare.vm.sh("systemd-analyze security --no-pager kmend-agent kmend-loader | grep Overall", check=False).text
    )
    sys.stdout.write(bare.vm.sh("systemd-analyze security --no-pager kmend-agent.service | tail -2", check=False).text)

    # What the service's account may write, and what not.
    for place in ("/var/lib/kmend/x", "/run/kmend/x", "/etc/kmend/x"):
        assert bare.vm.sh(f"setpriv --reuid=kmend --regid=kmend --clear-groups touch {place}", check=False).status
    assert bare.vm.sh("dmesg | grep -E 'WARNING|BUG|Oops'", check=False).text == ""


@pytest.mark.slow
def test_the_timer_instead(bare: PackagedHost) -> None:
    bare.vm.sh("mkdir -p /etc/kmend/agent.toml.d")
    _configure(bare, "[timing]\nsoak = 5\nremove_after = 3\n")
    bare.vm.sh("systemctl mask kmend-agent.service 2>&1; true")
    bare.vm.sh(f"cd /root && {bare.line} --no-update", timeout=300)
    bare.vm.sh("systemctl enable --now kmend-fetch.timer")
    assert bare.livepatches() == {}
    bare.vm.sh("systemctl start kmend-fetch.service", timeout=120)
    _wait(bare, _loaded(bare.published.names[-1]))
    _wait(bare, "test $(systemctl is-active kmend-loader) = inactive")
    assert bare.vm.sh("systemctl is-active kmend-fetch.timer").text == "active\n"
    assert bare.vm.sh("systemctl is-active kmend-agent", check=False).text != "active\n"
    assert bare.vm.sh("pgrep -f '[/]usr/lib/kmend'", check=False).text == ""
