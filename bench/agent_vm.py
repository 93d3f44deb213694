"""How long a host takes from the command to the level in force, on a real kernel in a virtual machine with nothing else to do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from demo.serving import served
from tests.vm.published import publish

from bench.agent import Row, row
from kmend import lab
from kmend.core.cache import cache_root
from kmend.core.errors import KmendError
from kmend.core.scratch import scratch_folder

AGENT = "/opt/kmend/kmend"


def update_times(runs: int) -> list[Row]:
    """Rows for `kmend update` of a level that was just published, and for what the kernel takes of it.

    Raises:
        KmendError: kernel, build or guest cannot be had.
    """
    with _furnished("[timing]\nremove_after = 0") as vm:
        vm.wait_settled()
        return _measure(vm, runs)


def service_memory(minutes: int) -> list[Row]:
    """Rows for the memory of `kmend agent run`, over so many minutes with a look at the repository in each.

    Raises:
        KmendError: kernel, build or guest cannot be had.
    """
    with _furnished("[service]\ninterval = 60") as vm:
        return _resident(vm, minutes)


@contextmanager
def _furnished(settings: str) -> Iterator[lab.Vm]:
    """A guest with the agent, configured for a repository that is served to it."""
    with scratch_folder("bench-agent-vm", cache_root()) as folder:
        published = publish(folder)
        with (
            served(folder / "repository") as port,
            lab.boot(published.kernel, lab.Shape.FULL, network=lab.Network(to_host=(port,))) as vm,
        ):
            vm.put(published.folder / "agent", "/opt/kmend")
            vm.put(published.folder / "keys/root.json", "/etc/kmend/root.json")
            text = f'[repository]\nurl = "http://{lab.HOST_ADDRESS}:{port}"\n{settings}\n'
            vm.put_bytes(text.encode(), "/etc/kmend/agent.toml")
            vm.sh("python3 -m compileall -q /opt/kmend", timeout=300)
            yield vm


def _resident(vm: lab.Vm, minutes: int) -> list[Row]:
    vm.run([AGENT, "update"], timeout=300)
    command = vm.start_command([AGENT, "agent", "run"])
    taken: dict[str, list[float]] = {"Rss": [], "Private_Dirty": [], "Pss": []}
    for _ in range(minutes):
        vm.sh("sleep 60", timeout=120)
        text = vm.sh("cat /proc/$(pgrep -of 'kmend agent run')/smaps_rollup").text
        rows = {line.split(":")[0]: line.split()[1] for line in text.splitlines()[1:]}
        for name, values in taken.items():
            values.append(int(rows[name]) / 1000)
    spent = vm.sh("cut -d' ' -f14,15 /proc/$(pgrep -of 'kmend agent run')/stat").text.split()
    looks = vm.read("/run/kmend-agent/fetch").decode()
    command.kill()
    if '"kind":""' not in looks:
        raise KmendError(f"the service's looks fail: {looks[:300]}")
    cpu = sum(int(word) for word in spent) / 100
    return [
        row(f"kmend agent run, resident over {minutes} minutes", taken["Rss"], "MB", "25 MB"),
        row("of that, its own (private and written)", taken["Private_Dirty"], "MB"),
        row("its proportional share", taken["Pss"], "MB"),
        row("growth from the second minute to the last", [taken["Rss"][-1] - taken["Rss"][1]], "MB"),
        row(f"CPU in {minutes} minutes with its start, emulated processor", [cpu], "s"),
    ]


def _measure(vm: lab.Vm, runs: int) -> list[Row]:
    whole, kernel, checks = [], [], []
    for _ in range(runs):
        start = time.monotonic()
        document = json.loads(vm.run([AGENT, "update", "--json"], timeout=300).text)
        whole.append(time.monotonic() - start)
        kernel.append(float(document["applied"]["seconds"]))
        start = time.monotonic()
        vm.run([AGENT, "check"], timeout=300)
        checks.append(time.monotonic() - start)
        vm.run([AGENT, "unload"], timeout=300)
        vm.run([AGENT, "quarantine", "clear"], timeout=300)
    how = (
        "KVM"
        if vm.sh("grep -qw kvm /sys/devices/virtual/dmi/id/* /proc/cpuinfo", check=False).status == 0
        else "emulated"
    )
    return [
        row(f"kmend update, from the command to its end, {how} processor", whole, "s"),
        row("of that, handing over, transition and confirmation", kernel, "s"),
        row(f"kmend check with nothing new, {how} processor", checks, "s"),
    ]
