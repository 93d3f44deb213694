"""What the agent promises of a real kernel: load, replace, go back, unload; refuse; and survive kills and power cuts.

Two levels are derived and built from the distro's own packages, published, and put into a full guest as plain files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from demo.scenario import FIXES
from tests.vm.published import Published

from kmend import lab
from kmend.agent.states import fail_points

ROOT = Path(__file__).parents[2]
AGENT = "/opt/kmend/kmend"
REPOSITORY = "/srv/repository"
CONFIG = f'[repository]\nurl = "file://{REPOSITORY}"\n[timing]\nremove_after = 3\nsoak = 600\n'
# Words of a command line end in NUL there; a shell whose script holds the word is not meant.
END_CHILDREN = (
    "for p in $(grep -lsxz settle /proc/[0-9]*/cmdline); do "
    "p=${p#/proc/}; kill -9 ${p%/cmdline} 2>/dev/null; done; true"
)


class Host:
    """A guest with the agent installed."""

    def __init__(self, vm: lab.Vm, published: Published) -> None:
        self.vm = vm
        self.published = published

    def install(self) -> None:
        """Put agent, trust root, configuration and repository onto the disk."""
        self.vm.put(self.published.folder / "agent", "/opt/kmend")
        self.vm.put(self.published.folder / "keys/root.json", "/etc/kmend/root.json")
        self.vm.put(self.published.folder / "repository", REPOSITORY)
        self.vm.put_bytes(CONFIG.encode(), "/etc/kmend/agent.toml")
        self.vm.run(["sync"])

    def kmend(self, *words: str, failpoint: str = "", status: int = 0) -> lab.Result:
        """Run the agent and check its exit status."""
        environment = {"KMEND_FAILPOINT": failpoint} if failpoint else {}
        done = self.vm.run([AGENT, *words], environment=environment, check=False, timeout=120)
        assert done.status == status, (words, done.status, done.text, done.stderr.decode())
        return done

    def status(self) -> Any:
        """The status document."""
        return json.loads(self.kmend("status", "--json").text)

    def livepatches(self) -> dict[str, tuple[str, str]]:
        """The kernel's own word: name to (enabled, transition)."""
        script = "cd /sys/kernel/livepatch && for p in *; do [ -d $p ] && echo $p $(cat $p/enabled $p/transition); done; true"
        rows = (line.split() for line in self.vm.sh(script).text.splitlines())
        return {name: (enabled, transition) for name, enabled, transition in rows}

    def modules(self) -> set[str]:
        """kmend's resident modules."""
        return set(re.findall(r"^(kmend_\S+)", self.vm.read("/proc/modules").decode(), re.MULTILINE))

    def hole(self) -> str:
        """What an unprivileged program sees of the first fix's hole."""
        probe = (ROOT / "demo/guest" / FIXES[0].probe).read_bytes()
        self.vm.put_bytes(probe, "/opt/probe.py", mode=0o755)
        words = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "python3", "/opt/probe.py"]
        found = dict(line.split("=", 1) for line in self.vm.run(words, check=False).text.splitlines() if "=" in line)
        return found["datagram"]

    def fresh(self) -> None:
        """No livepatch, no state: as right after installing."""
        self.vm.sh(
            f"{END_CHILDREN}\n"
            "cd /sys/kernel/livepatch\n"
            "for p in kmend_*; do [ -d $p ] && echo 0 > $p/enabled; while [ -d $p ]; do sleep 0.1; done; done\n"
            "for m in $(grep -o '^kmend_[^ ]*' /proc/modules); do rmmod $m; done\n"
            "rm -rf /var/lib/kmend /run/kmend"
        )


@pytest.fixture(scope="module")
def guest(published: Published) -> Iterator[Host]:
    with lab.boot(published.kernel, lab.Shape.FULL) as vm:
        host = Host(vm, published)
        host.install()
        yield host


@pytest.fixture
def host(guest: Host) -> Host:
    if not guest.vm.running:
        guest.vm.start()
    guest.fresh()
    return guest


@pytest.mark.slow
def test_what_only_looks_needs_no_privilege(host: Host) -> None:
    """A monitoring system's account sees what root sees, and `verify` holds on a real kernel."""

    def nobody(*words: str, status: int = 0) -> str:
        line = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", AGENT, *words]
        done = host.vm.run(line, check=False, timeout=60)
        assert done.status == status, (words, done.status, done.text, done.stderr.decode())
        return done.text

    nobody("nagios", status=3)
    host.kmend("update")
    verified = json.loads(host.kmend("verify", "--json").text)
    assert verified["intact"], verified
    found = {item["check"]: item["holds"] for item in verified["checks"]}
    names = ("kernel", "enabled", "functions", "module-file", "module-signature", "resident", "signatures")
    assert [found[name] for name in names] == [True] * len(names)
    assert nobody("nagios").startswith("KMEND OK - level 2 in force")
    assert "everything is as it was signed" in nobody("verify")
    assert nobody("uname").strip().endswith("+0kmend2")
    assert nobody("cves", *(fix.cve for fix in FIXES)).count("live-patched") == len(FIXES)
    assert "kmend_level 2" in nobody("metrics")
    assert host.published.names[1] in nobody("patches")
    nobody("reboot-needed", status=1)
    host.vm.sh("echo linux-image-6.1.0-99 > /run/reboot-required.pkgs; touch /run/reboot-required")
    assert "not needed" in nobody("status")
    host.kmend("doctor", "-o", "/root/bundle.tar.gz")
    listed = host.vm.sh("tar -tzf /root/bundle.tar.gz").text.split()
    assert {"kmend-doctor/status.json", "kmend-doctor/sysfs-livepatch.txt", "kmend-doctor/redactions.json"} <= set(
        listed
    )
    assert "vmlinux" in host.vm.sh("tar -xzOf /root/bundle.tar.gz kmend-doctor/sysfs-livepatch.txt").text
    host.vm.sh("rm -f /root/bundle.tar.gz /run/reboot-required*")


def test_the_whole_way_and_back(host: Host) -> None:
    one, two = host.published.names
    assert host.hole() == "answered"
    host.kmend("status", "--exit-code", status=60)
    host.kmend("check")
    assert host.kmend("status", "--exit-code", status=10).text
    host.kmend("update", "--level", "1")
    assert host.livepatches() == {one: ("1", "0")}
    assert host.hole() == "EOPNOTSUPP"
    host.kmend("update")
    assert host.livepatches() == {two: ("1", "0")}
    assert host.hole() == "EOPNOTSUPP"
    document = host.status()
    assert document["summary"] == "current"
    assert {item["verdict"] for item in document["cves"]} == {"live-patched"}
    assert host.vm.read("/run/kmend/cvelist").decode().split() == sorted(fix.cve for fix in FIXES)
    host.kmend("rollback")
    assert host.livepatches() == {one: ("1", "0")}
    host.kmend("update", status=30)
    host.kmend("unload")
    assert host.livepatches() == {}
    assert host.hole() == "answered"
    host.kmend("quarantine", "clear")
    host.kmend("update")
    assert host.livepatches() == {two: ("1", "0")}
    log = host.vm.kernel_log()
    assert "WARNING" not in log
    assert "BUG" not in log


def test_rollback_with_a_gap(host: Host) -> None:
    one, _ = host.published.names
    host.kmend("update")
    document = json.loads(host.kmend("rollback", "--to", "1", "--unload-first", "--json").text)
    assert document["way"] == "unload-then-load"
    assert document["unprotected_seconds"] > 0
    assert host.livepatches() == {one: ("1", "0")}


def test_replaced_module_is_removed_by_the_child(host: Host) -> None:
    host.vm.put_bytes(b"[timing]\nsoak = 4\n", "/etc/kmend/agent.toml.d/soak.toml")
    host.kmend("update", "--level", "1")
    host.kmend("update")
    assert host.modules() == set(host.published.names)
    host.vm.sh(
        f"for i in $(seq 200); do grep -q '^{host.published.names[0]} ' /proc/modules || exit 0; sleep 0.1; done; exit 1"
    )
    host.vm.sh("for i in $(seq 100); do grep -q settle /var/lib/kmend/history.jsonl && exit 0; sleep 0.1; done; exit 1")
    assert host.status()["state"] == "steady"
    host.vm.sh("rm /etc/kmend/agent.toml.d/soak.toml")


def test_tampered_module_never_reaches_the_kernel(host: Host) -> None:
    digest = host.published.levels[1].module.sha256
    path = f"{REPOSITORY}/files/{digest[:2]}/{digest}"
    whole = host.vm.read(path)
    host.vm.put_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:], path)
    try:
        done = host.kmend("update", status=1)
        assert "other content" in done.stderr.decode()
        assert host.livepatches() == {}
        assert host.modules() == set()
    finally:
        host.vm.put_bytes(whole, path)


def test_transition_that_is_left_to_the_kernel_is_adopted(host: Host) -> None:
    """With no patience at all the agent may leave before the kernel is through; the next command goes on from there."""
    host.vm.put_bytes(CONFIG.replace("[timing]", "[timing]\ntransition = 0").encode(), "/etc/kmend/agent.toml")
    try:
        done = host.vm.run([AGENT, "update"], check=False, timeout=120)
        assert done.status in (0, 20)
        if done.status == 20:
            assert "held up by" in done.stderr.decode()
    finally:
        host.vm.put_bytes(CONFIG.encode(), "/etc/kmend/agent.toml")
    host.kmend("update")
    assert host.livepatches() == {host.published.names[1]: ("1", "0")}


LOADING = [
    point
    for point in fail_points()
    if point.split(".", maxsplit=1)[0] in ("arm", "begin_loading", "begin_transition", "begin_soak", "supersede")
] + ["fetched", "finit.before", "finit.after", "confirmed", "publish.before"]


TOLD = ("begin_loading.written", "finit.after", "begin_transition.after")
QUICK = "finit.after"
SLOW = [pytest.param(point, marks=pytest.mark.slow) for point in LOADING if point != QUICK]


@pytest.mark.parametrize("point", [QUICK, *SLOW])
def test_killed_in_the_middle_of_update(host: Host, point: str) -> None:
    """Level 1 is in force; the update to level 2 is killed; the host tells what happened and can update."""
    one, two = host.published.names
    host.kmend("update", "--level", "1")
    host.kmend("update", failpoint=point, status=137)
    document = host.status()
    assert document["boot_id"] == host.vm.boot_id
    assert document["state"] in ("idle", "transitioning", "soaking")
    assert host.livepatches().keys() <= {one, two}
    if point in TOLD:
        assert "level 2" in document["notes"][0]["message"]
    host.kmend("update", "--level", "2")
    assert host.livepatches() == {two: ("1", "0")}


POWER = [
    "finit.after",
    *(
        pytest.param(point, marks=pytest.mark.slow)
        for point in ("arm.after", "begin_loading.written", "begin_transition.after", "begin_soak.written")
    ),
]


@pytest.mark.parametrize("point", POWER)
def test_power_cut_in_the_middle_of_update(host: Host, point: str) -> None:
    host.vm.sh("sync")
    host.vm.start_command([AGENT, "update"], environment={"KMEND_FAILPOINT": f"{point}:power"})
    host.vm.wait_end(60)
    host.vm.start()
    assert host.livepatches() == {}
    document = host.status()
    (note,) = document["notes"]
    assert "level 2" in note["message"]
    assert [entry["level"] for entry in document["quarantine"]] == ([] if point == "arm.after" else [2]), note
    host.kmend("update", "--level", "2")
    assert host.livepatches() == {host.published.names[1]: ("1", "0")}


@pytest.mark.slow
def test_power_cut_from_outside(host: Host) -> None:
    """The cut comes at a moment that nobody chose, while a loop updates and goes back again and again."""
    loop = f"while true; do {AGENT} update --level 1; {AGENT} update --level 2; {AGENT} unload; done"
    host.vm.start_command(["sh", "-c", loop])
    host.vm.sh("sleep 8")
    host.vm.power_cut()
    host.vm.start()
    assert host.livepatches() == {}
    assert host.status()["state"] == "idle"
    host.kmend("update", "--level", "2")
    assert host.livepatches() == {host.published.names[1]: ("1", "0")}


@pytest.mark.slow
def test_clean_reboot_while_soaking(host: Host) -> None:
    unit = (ROOT / "packaging/systemd/kmend-shutdown.service").read_text().replace("exec kmend", f"exec {AGENT}")
    host.vm.put_bytes(unit.encode(), "/etc/systemd/system/kmend-shutdown.service")
    host.vm.wait_settled()
    host.vm.sh("systemctl daemon-reload && systemctl enable --now kmend-shutdown.service")
    host.kmend("update")
    host.vm.sh("systemctl restart kmend-shutdown.service && ! test -e /var/lib/kmend/shutdown.json")
    host.vm.power_off()
    host.vm.start()
    document = host.status()
    assert document["quarantine"] == []
    assert "that proves nothing" in document["notes"][0]["message"], document["notes"]
    host.kmend("update")


def test_enforced_signatures_refuse_a_key_that_is_not_enrolled(published: Published) -> None:
    """The kernel reads our detached signature, finds no key for it, and says so; the agent explains it."""
    with lab.boot(published.kernel, lab.Shape.FULL, command_line="module.sig_enforce=1") as vm:
        host = Host(vm, published)
        host.install()
        done = host.kmend("update", status=1)
        assert "signature" in done.stderr.decode()
        assert "Loading of module with unavailable key is rejected" in vm.kernel_log()
        assert host.livepatches() == {}
        assert host.status()["state"] == "idle"
        vm.sh(f"rm -rf {REPOSITORY}/signatures")
        done = host.kmend("update", status=3)
        assert "only signed modules" in done.stderr.decode()
