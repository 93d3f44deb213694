"""The guest that faults strike: ways into every journaled step, commands that stand still, and what must hold afterwards."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.unit.trust.loopback import Loopback, Request, Script, Step, reply
from tests.vm.published import Published
from tests.vm.test_agent import AGENT, CONFIG, END_CHILDREN, REPOSITORY, Host

from kmend import lab
from kmend.agent import failpoint
from kmend.agent.recovery import TAINT_DIE
from kmend.agent.states import CHANGES

SEED = 20261124
TAINT_WARN = 512
UNDECIDED = ("armed", "loading", "transitioning", "reverting")
QUICK_SOAK = CONFIG.replace("soak = 600", "soak = 4")
REVERT = CONFIG + '[policy]\non_warning = "revert"\n'
WITHOUT_SYSTEM_CALL = (
    "systemd-run --quiet --wait --collect -p SystemCallFilter=~finit_module -p SystemCallErrorNumber=ENOMEM "
    "-E KMEND_FAILPOINT"
)
K = f'#!/bin/sh\nexec {AGENT} "$@"\n'
CHILDLESS = f"#!/bin/sh\n{END_CHILDREN}\n"
OFF = """#!/bin/sh
# Takes every livepatch of kmend's off and out, behind the agent's back.
cd /sys/kernel/livepatch || exit 1
for p in kmend_*; do [ -d "$p" ] && echo 0 >"$p/enabled"; while [ -d "$p" ]; do sleep 0.1; done; done
for m in $(grep -o '^kmend_[^ ]*' /proc/modules); do rmmod "$m"; done
"""


@dataclass(frozen=True)
class Way:
    """A command on its way through steps.

    Attributes:
        before: shell lines that lead there; `K` is the agent.
        command: the one that is struck.
        steps: changes of the journal, and acts, that it passes, as a traced run shows.
        old: levels in force before; new: afterwards; between: of a command that loads after it has taken off.
        hold: the cause of the entry in quarantine that belongs to the new state, and not to the old one.
    """

    before: str
    command: str
    steps: tuple[str, ...]
    old: int = 1
    new: int = 1
    between: int | None = None
    hold: str = ""
    configuration: str = CONFIG

    @property
    def points(self) -> tuple[str, ...]:
        """The fail points of its steps."""
        found: list[str] = []
        for step in self.steps:
            moments = ("before", "written", "after") if step in CHANGES else ()
            found += [f"{step}.{moment}" for moment in moments]
            found += [act for act in failpoint.ACTS if step in (act, act.split(".")[0])]
        return tuple(found)

    @property
    def levels(self) -> set[int]:
        """The levels that may be in force whenever it was struck; 0 for none."""
        return {self.old, self.new} | ({self.between} if self.between is not None else set())


LOAD = ("arm", "begin_loading", "finit", "begin_transition", "confirmed", "begin_soak")
TAKE_OFF = ("supersede", "arm", "hold", "begin_disabling", "disable", "finish_disabling")
COMPLAINED = f"K update --level 1; childless; echo {TAINT_WARN} > /proc/sys/kernel/tainted"
WAYS = {
    "first-update": Way("K check", "K update --level 1", ("fetched", *LOAD, "publish"), old=0),
    "update": Way("K update --level 1", "K update --level 2", ("fetched", "supersede", *LOAD, "publish"), new=2),
    "rollback": Way(
        "K update --level 1; K update --level 2",
        "K rollback",
        ("remove", "supersede", *LOAD, "hold", "publish"),
        old=2,
        hold="rolled-back",
    ),
    "rollback-with-gap": Way(
        "K update --level 2",
        "K rollback --to 1 --unload-first",
        (*TAKE_OFF, *LOAD[1:], "publish"),
        old=2,
        between=0,
        hold="rolled-back",
    ),
    "unload": Way("K update --level 1", "K unload", (*TAKE_OFF, "remove", "publish"), new=0, hold="unloaded"),
    "boot": Way(
        "K update --level 1; childless; sleep 5; K check; off",
        "K boot",
        (*LOAD, "publish"),
        0,
        1,
        configuration=QUICK_SOAK,
    ),
    "settle": Way("K update --level 1; childless; sleep 5", "K check", ("settle", "publish"), configuration=QUICK_SOAK),
    "quarantine-clear": Way("K update --level 1; K unload", "K quarantine clear", ("clear", "publish"), 0, 0),
    "shutdown": Way("K update --level 1", "K internal note-shutdown", ("note",)),
    "removal": Way("K update --level 1", "K internal before-removal", ("conclude_nothing",)),
    "after-a-kill": Way("K update --level 1; KMEND_FAILPOINT=arm.after K update", "K status", ("lapse", "publish")),
    "refused": Way(
        "K check",
        f"{WITHOUT_SYSTEM_CALL} /usr/local/bin/K update --level 1",
        ("fetched", "arm", "begin_loading", "finit.before", "refuse", "publish"),
        old=0,
        new=0,
    ),
    "reverted": Way(
        COMPLAINED, "K internal settle", ("begin_reverting", "reverse", "finish_disabling"), new=0, configuration=REVERT
    ),
    "not-reverted": Way(
        f"{COMPLAINED}; KMEND_FAILPOINT=reverse.before K internal settle",
        "K status",
        ("resume_transition", "begin_soak", "confirmed", "publish"),
        configuration=REVERT,
    ),
    # A person may say for the kernel that it has oopsed.
    "oopsed": Way("K update --level 1; echo 128 > /proc/sys/kernel/tainted", "K status", ("condemn", "publish")),
}


def cells(ways: Sequence[str] = tuple(WAYS)) -> list[tuple[str, str]]:
    """Every step of every command: way and fail point."""
    return [(name, point) for name in ways for point in WAYS[name].points]


def sample(purpose: str, count: int, among: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """A seeded choice."""
    return set(random.Random(f"{SEED} {purpose}").sample(sorted(among), count))


class Front:
    """What guests reach as a repository over HTTP: a server on the host's loopback whose script a test chooses.

    Args:
        server: that `script` of this front answers for.
    """

    def __init__(self, server: Loopback) -> None:
        self.port = server.port
        self.url = f"http://{lab.HOST_ADDRESS}:{server.port}"

    _script: Script | None = None

    def answer_by(self, script: Script) -> None:
        """From now on."""
        type(self)._script = staticmethod(script)

    @classmethod
    def script(cls, request: Request) -> Sequence[Step] | bytes:
        """What the server runs."""
        steps = cls._script(request) if cls._script is not None else reply(503)
        return steps if isinstance(steps, bytes) else list(steps)


class Struck(Host):
    """A guest with the agent, for faults."""

    def __init__(self, vm: lab.Vm, published: Published, front: Front) -> None:
        super().__init__(vm, published)
        self.front = front

    def install(self) -> None:
        super().install()
        for name, text in {"K": K, "childless": CHILDLESS, "off": OFF}.items():
            self.vm.put_bytes(text.encode(), f"/usr/local/bin/{name}", mode=0o755)
        self.vm.sh("python3 -m compileall -q /opt/kmend; sync", timeout=240)

    def configure(self, text: str = CONFIG) -> None:
        """Write agent.toml."""
        self.vm.put_bytes(text.encode(), "/etc/kmend/agent.toml")

    def over_http(self, more: str = "") -> None:
        """Let the agent use the front."""
        self.configure(CONFIG.replace(f"file://{REPOSITORY}", self.front.url) + more)

    def level(self) -> int:
        """The level in force, 0 for none; fails while anything is in between."""
        self.vm.sh(
            "for i in $(seq 600); do grep -qs 1 /sys/kernel/livepatch/*/transition || exit 0; sleep 0.2; done; exit 1",
            timeout=180,
        )
        found = self.livepatches()
        assert set(found.values()) <= {("1", "0")}, found
        assert len(found) <= 1, found
        return int(next(iter(found)).split("_")[1]) if found else 0

    def lead(self, way: Way) -> None:
        """Do what comes before the fault; no child is left that could do the next step first."""
        self.configure(way.configuration)
        self.vm.sh(f"{way.before}\nchildless", timeout=240, check=False)
        assert self.level() == way.old

    def words(self, way: Way) -> list[str]:
        """The command that is struck, as one process."""
        return ["sh", "-c", f"exec {way.command}"]

    def agrees(self, way: Way) -> None:
        """The same boot goes on: old or new, and what the agent says is what the kernel does."""
        level = self.level()
        assert level in way.levels
        self.vm.sh("childless")  # which may be at work, and then status does not wait for it
        document = self.status()
        assert document["state"] not in UNDECIDED
        shown = document["livepatch"]
        assert (shown["level"] if shown is not None else 0) == level
        if way.hold:
            causes = {entry["cause"] for entry in document["quarantine"]}
            assert (way.hold in causes) == (level != way.old), (level, document["quarantine"])

    def goes_on(self) -> None:
        """The next update works; a kernel that is said to have oopsed has to be restarted first."""
        self.configure()
        if self.tainted() & TAINT_DIE:
            assert self.status()["state"] in ("quarantined", "dead-end")
            self.vm.power_off()
            self.vm.start()
        self.kmend("update", "--level", "2")
        assert self.level() == 2

    def tainted(self) -> int:
        """The kernel's taint flags."""
        return int(self.vm.read("/proc/sys/kernel/tainted"))

    @contextlib.contextmanager
    def stopped(self, point: str, words: Sequence[str], *, status: tuple[int, ...] = (0,)) -> Iterator[lab.Command]:
        """A command that stands still at a fail point while the block runs, and then goes on to its end."""
        command = self.vm.start_command(list(words), environment={"KMEND_FAILPOINT": f"{point}:stop"})
        still = "grep -qs '^State:.T' $p/status && grep -qs kmend $p/cmdline"
        find = f"for p in /proc/[0-9]*; do {still} && echo ${{p#/proc/}}; done; true"
        deadline = time.monotonic() + 120
        while not (found := self.vm.sh(find).text.split()):
            assert time.monotonic() < deadline, f"{words} does not come to {point}"
            time.sleep(0.1)
        try:
            yield command
        finally:
            self.vm.sh(f"kill -CONT {' '.join(found)}")
        done = command.wait(180, check=False)
        assert done.status in status, (words, done.status, done.text, done.stderr.decode())
        self.told = done.stderr.decode()

    told: str = ""
