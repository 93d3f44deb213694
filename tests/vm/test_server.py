"""The five minutes of docs/operators.md, as written there, on a bare Debian 12 with systemd: server and host on one machine."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.vm.published import ROOT, Published

from kmend import lab
from kmend.core.cache import cache_root
from kmend.core.process import run
from packager import building
from packager.offer import make_script

PUBLIC = "kmend.example"
PACKAGES = ("python3-venv", "python3-pip")
ELSEWHERE = {"apt-get install", "make packages"}
"""The guest reaches no archive and has no packaging tools: what these fetch or make is put there before."""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip would fetch; kept in the cache."""
    kept = cache_root() / "wheels"
    words = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "-d", str(kept)]
    subprocess.run(
        [*words, "--only-binary", ":all:", "-c", "constraints.txt", "hatchling>=1.27", ".[server,factory]"],
        cwd=ROOT, check=True, timeout=600,
    )  # fmt: skip
    return kept


@pytest.fixture(scope="module")
def machine(published: Published, wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[lab.Vm]:
    """A guest with a checkout, which can be reached by its name."""
    folder = tmp_path_factory.mktemp("checkout")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout.decode()
    names = [name for name in tracked.split("\0") if name and not name.startswith(("tests/", "bench/", "demo/"))]
    archive = folder / "checkout.tar"
    run(["tar", "-C", ROOT, "-cf", archive, *names])
    make_script(folder / "dist", building.build(folder / "dist", ("deb", "rpm")))
    definition = lab.Definition(published.kernel, lab.Shape.FULL, memory_mib=3072, packages=PACKAGES)
    with lab.Vm(definition) as vm:
        vm.start()
        vm.wait_settled()
        vm.put(archive, "/root/checkout.tar")
        vm.sh("mkdir -p /root/kmend && tar -C /root/kmend -xf /root/checkout.tar && rm /root/checkout.tar", timeout=120)
        vm.put(folder / "dist", "/root/kmend/dist")
        vm.put(wheels, "/root/wheels", timeout=600)
        vm.sh(f"hostname kmend; echo '127.0.0.1 {PUBLIC}' >> /etc/hosts")
        yield vm


def blocks() -> list[str]:
    """The commands of the chapter, block by block."""
    chapter = (ROOT / "docs/operators.md").read_text().split("## Five minutes\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^```\n(.*?)^```$", chapter, re.MULTILINE | re.DOTALL)


def typed(vm: lab.Vm, block: str, *, timeout: float = 900) -> str:
    """Type a block into a root shell in the checkout, where pip finds what it wants in a folder."""
    lines = [line for line in block.splitlines() if not any(line.startswith(word) for word in ELSEWHERE)]
    surroundings = "export PIP_NO_INDEX=1 PIP_FIND_LINKS=/root/wheels HOME=/root; cd /root/kmend; "
    token = "export KMEND_SERVER_TOKEN_FILE=/root/kmend.token; set -e\n"
    done = vm.sh(surroundings + token + "\n".join(lines), timeout=timeout, check=False)
    assert done.status == 0, (block, done.text, done.stderr.decode())
    return done.text


def until(vm: lab.Vm, script: str, seconds: int) -> None:
    """Until a script succeeds."""
    done = vm.sh(
        f"for i in $(seq {seconds}); do {script} && exit 0; sleep 1; done; exit 1", timeout=seconds + 60, check=False
    )
    log = "journalctl -b --no-pager -u kmend-server -u kmend-agent -u kmend-loader | tail -60"
    assert done.status == 0, (script, vm.sh(log, check=False).text)


@pytest.mark.slow
def test_the_five_minutes_as_written(machine: lab.Vm, published: Published) -> None:
    one, _ = published.names
    install, look, plan, packages, roll = blocks()
    begun = time.monotonic()
    said = typed(machine, install)
    sys.stdout.write(f"server installed and started after {time.monotonic() - begun:.0f} s, emulated\n{said}")
    assert machine.sh("systemctl show -p ActiveState,SubState --value kmend-server").text.split() == [
        "active",
        "running",
    ]
    assert "0 hosts" in typed(machine, look)
    typed(machine, plan)
    line = typed(machine, packages).strip().splitlines()[-1]
    assert line.startswith(f"u=https://{PUBLIC}:"), line

    machine.sh("mkdir -p /etc/kmend/agent.toml.d")
    machine.put_bytes(b"[timing]\nsoak = 20\nremove_after = 3\n", "/etc/kmend/agent.toml.d/20-test.toml")
    machine.sh(f"cd /root && {line}", timeout=300)
    assert "kmend " in machine.sh("kmend --version").text
    first, *rest = roll.splitlines()
    assert first == "kmend-server hosts list"
    assert "canary" in typed(machine, first)

    machine.put(published.folder / "level-1", "/root/kmend/BUILD")
    # The machine's own publisher signs; the level is what the factory has built elsewhere.
    typed(machine, "R=/var/lib/kmend-server\n" + rest[0])
    begun = time.monotonic()
    until(
        machine,
        f"grep -qs 1 /sys/kernel/livepatch/{one}/enabled && grep -qs 0 /sys/kernel/livepatch/{one}/transition",
        240,
    )
    sys.stdout.write(f"in force {time.monotonic() - begun:.0f} s after it was published\n")
    rollouts = typed(machine, rest[1])
    assert "running" in rollouts
    until(machine, "kmend status --json | grep -q '\"steady\"'", 120)
    until(
        machine,
        "KMEND_SERVER_TOKEN_FILE=/root/kmend.token kmend-server hosts list --json | grep -q '\"level\": *1'",
        60,
    )


@pytest.mark.slow
def test_the_unit_confines_the_server_and_brings_it_back(machine: lab.Vm) -> None:
    main = machine.sh("systemctl show -p MainPID --value kmend-server").text.strip()
    status = machine.read(f"/proc/{main}/status").decode()
    rows = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    assert int(rows["CapEff"], 16) == int(rows["CapBnd"], 16) == 0
    assert set(rows["Uid"].split()) == {machine.sh("id -u kmend-server").text.strip()}
    assert rows["NoNewPrivs"].strip() == "1"
    machine.sh(f"kill -KILL {main}")
    now = "$(systemctl show -p MainPID --value kmend-server)"
    until(machine, f"test {now} -gt 0 && test {now} != {main} && systemctl is-active -q kmend-server", 90)
    assert "1 host" in typed(machine, "kmend-server status")
    begun = time.monotonic()
    machine.sh("systemctl stop kmend-server", timeout=90)
    assert time.monotonic() - begun < 60
    assert machine.sh("systemctl show -p Result --value kmend-server").text.strip() == "success"
    machine.sh("systemctl start kmend-server", timeout=90)
    sys.stdout.write(machine.sh("systemd-analyze security --no-pager kmend-server | tail -1", check=False).text)


@pytest.mark.slow
def test_a_recall_takes_it_off(machine: lab.Vm, published: Published) -> None:
    one, _ = published.names
    where = "--keys /var/lib/kmend-server/keys --repository /var/lib/kmend-server/repository"
    typed(machine, f"kmend-factory recall {where} --fix {published.levels[0].fixes[0].digest} --reason 'a test'")
    until(machine, f"! test -e /sys/kernel/livepatch/{one}", 180)
