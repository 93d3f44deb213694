"""The fault matrix on a real kernel: the agent killed, and the power cut, at every journaled step; levels that panic.

The steps are enumerated from the code (`kmend.agent.states.fail_points`), so that a new one is covered, or fails
`test_every_step_is_reached`. After each fault the kernel runs the old level or the new one, and the next update works. A
seeded sample runs always, the whole with the slow tests.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from _pytest.mark.structures import ParameterSet
from tests.vm.published import Published
from tests.vm.test_agent import AGENT, CONFIG, Host

from kmend import lab
from kmend.agent.recovery import TAINT_DIE
from kmend.agent.states import fail_points

SEED = 20261124
KILLS, CUTS = 2, 1
"""How many of each are in the sample."""

SIGKILL = 137
REVERT = CONFIG + '[policy]\non_warning = "revert"\n'
QUICK_SOAK = CONFIG.replace("soak = 600", "soak = 4")
TAINT_WARN = 512
WITHOUT_SYSTEM_CALL = (
    "systemd-run --quiet --wait --collect -p SystemCallFilter=~finit_module -p SystemCallErrorNumber=ENOMEM"
)


@dataclass(frozen=True)
class Way:
    """How a step is reached.

    Attributes:
        before: shell lines that lead there; `K` is the agent.
        command: the one that dies.
        steps: changes and acts that it passes.
        configuration: of the agent.
    """

    before: str
    command: str
    steps: tuple[str, ...]
    configuration: str = CONFIG


LOAD = ("begin_loading", "begin_transition", "begin_soak", "finit", "confirmed")
COMPLAINED = f"K update --level 1; childless; echo {TAINT_WARN} > /proc/sys/kernel/tainted"
WAYS = (
    Way("K update --level 1", "K update --level 2", ("fetched", "supersede", "arm", *LOAD, "publish")),
    Way("K update --level 1", "K unload --no-wait", ("hold", "begin_disabling", "disable", "finish_disabling")),
    Way("K update --level 1", "K unload", ("remove",)),
    Way("K update --level 1; childless; sleep 5", "K check", ("settle",), QUICK_SOAK),
    Way("K update --level 1", "K internal before-removal", ("conclude_nothing",)),
    Way("K update --level 1; KMEND_FAILPOINT=arm.after K update", "K status", ("lapse",)),
    Way("K check", f"{WITHOUT_SYSTEM_CALL} -E KMEND_FAILPOINT /usr/local/bin/K update --level 1", ("refuse",)),
    Way(COMPLAINED, "K internal settle", ("begin_reverting", "reverse"), REVERT),
    Way(f"{COMPLAINED}; KMEND_FAILPOINT=reverse.before K internal settle", "K status", ("resume_transition",), REVERT),
    # A person may say for the kernel that it has oopsed.
    Way("K update --level 1; echo 128 > /proc/sys/kernel/tainted", "K status", ("condemn",)),
)
K = f'#!/bin/sh\nexec {AGENT} "$@"\n'
CHILDLESS = (
    "#!/bin/sh\nfor p in /proc/[0-9]*; do grep -qs [i]nternal.settle $p/cmdline && kill -9 ${p#/proc/}; done\ntrue\n"
)


def way_to(point: str) -> Way | None:
    """The way that passes a fail point."""
    step = point.split(".")[0]
    return next((way for way in WAYS if step in way.steps), None)


def sampled(points: tuple[str, ...], count: int, purpose: str) -> list[ParameterSet | str]:
    """All points; those outside a seeded sample are slow."""
    chosen = random.Random(f"{SEED} {purpose}").sample(points, count)
    return [point if point in chosen else pytest.param(point, marks=pytest.mark.slow) for point in points]


def test_every_step_is_reached() -> None:
    assert [point for point in fail_points() if way_to(point) is None] == []


@pytest.fixture(scope="module")
def guest(published: Published) -> Iterator[Host]:
    with lab.boot(published.kernel, lab.Shape.FULL) as vm:
        host = Host(vm, published)
        host.install()
        vm.put_bytes(K.encode(), "/usr/local/bin/K", mode=0o755)
        vm.put_bytes(CHILDLESS.encode(), "/usr/local/bin/childless", mode=0o755)
        vm.sh("sync")
        yield host


@pytest.fixture
def host(guest: Host) -> Host:
    """A guest whose kernel has never seen a livepatch or a complaint."""
    if not guest.vm.running:
        guest.vm.start()
    if int(guest.vm.read("/proc/sys/kernel/tainted")) & (TAINT_WARN | TAINT_DIE):
        guest.vm.power_off()
        guest.vm.start()
    guest.fresh()
    return guest


def lead(host: Host, way: Way) -> None:
    """Do what comes before the fault; no child is left that could do the next step first."""
    host.vm.put_bytes(way.configuration.encode(), "/etc/kmend/agent.toml")
    host.vm.sh(f"PATH=/usr/local/bin:$PATH\n{way.before}\nchildless", timeout=180)


def words(way: Way) -> list[str]:
    """The command that dies."""
    return [
        "sh",
        "-c",
        f"exec {way.command.replace('K ', '/usr/local/bin/K ', 1) if way.command.startswith('K ') else way.command}",
    ]


def goes_on(host: Host) -> None:
    """Nothing is in between, and the next update works."""
    one, two = host.published.names
    host.vm.sh(
        "for i in $(seq 300); do grep -qs 1 /sys/kernel/livepatch/*/transition || exit 0; sleep 0.2; done; exit 1"
    )
    assert host.livepatches() in ({}, {one: ("1", "0")}, {two: ("1", "0")})
    document = host.status()
    assert document["state"] not in ("armed", "loading", "transitioning", "reverting")
    host.vm.put_bytes(CONFIG.encode(), "/etc/kmend/agent.toml")
    if int(host.vm.read("/proc/sys/kernel/tainted")) & TAINT_DIE:
        assert document["state"] in ("quarantined", "dead-end")
        host.vm.power_off()
        host.vm.start()
    host.kmend("update", "--level", "2")
    assert host.livepatches() == {two: ("1", "0")}


@pytest.mark.parametrize("point", sampled(fail_points(), KILLS, "kill"))
def test_killed(host: Host, point: str) -> None:
    way = way_to(point)
    assert way is not None
    lead(host, way)
    done = host.vm.run(words(way), environment={"KMEND_FAILPOINT": point}, check=False, timeout=180)
    assert done.status == SIGKILL or (done.status and "systemd-run" in way.command), (
        way.command,
        done.status,
        done.text,
        done.stderr.decode(),
    )
    goes_on(host)


@pytest.mark.parametrize("point", sampled(fail_points(), CUTS, "power"))
def test_power_cut(host: Host, point: str) -> None:
    way = way_to(point)
    assert way is not None
    lead(host, way)
    host.vm.sh("sync")
    host.vm.start_command(words(way), environment={"KMEND_FAILPOINT": f"{point}:power"})
    host.vm.wait_end(120)
    host.vm.start()
    assert host.livepatches() == {}
    assert host.status()["state"] in ("idle", "held", "quarantined")
    goes_on(host)


def test_sample_is_the_same_everywhere() -> None:
    first, second = (sampled(fail_points(), KILLS, "kill") for _ in range(2))
    assert [str(item) for item in first] == [str(item) for item in second]
