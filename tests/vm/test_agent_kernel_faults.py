"""The kernel refuses, hangs, or is in other hands; the agent dies inside its system call; two agents come at once."""

from __future__ import annotations

import datetime
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from demo.scenario import FIXES
from tests.fixmaker import Edit, FixMaker
from tests.unit.trust.loopback import folder
from tests.vm.faulted import Struck
from tests.vm.livepatched import compiled
from tests.vm.published import publish_third
from tests.vm.relevelled import key_folder, missing_symbol, other_form, other_kernel, relevelled

from kmend.trust.signing.publishing import BuildOutput, Publisher, read_build

HERE = Path(__file__).parent
CLONE = Edit(
    "kernel/fork.c", "\tnr = pid_vnr(pid);\n", "\tnr = READ_ONCE(p->exit_code) == 0x7777 ? -1 : pid_vnr(pid);\n"
)
SLOW_LOAD = Edit(
    "fs/pipe.c",
    "",
    """
#include <linux/livepatch.h>
#include <linux/delay.h>

static int __used kmend_pre_patch(struct klp_object *object)
{
	msleep(8000);
	return 0;
}
""",
)
FUNCTION = FIXES[0].function
MINUTES = 2.5


def publish(struck: Struck, repository: Path, *builds: BuildOutput) -> None:
    """Add levels, and let the agent see them."""
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    Publisher(repository, key_folder(struck.published.folder / "keys"), now=now).publish(builds)
    struck.front.answer_by(folder(repository))


def killed(word: str) -> str:
    """A shell line that kills every process with that word on its command line."""
    return f"for p in $({holders(word)}); do p=${{p#/proc/}}; kill -9 ${{p%/cmdline}}; done"


def holders(word: str) -> str:
    """A shell command that lists them; not itself."""
    return f"grep -lsxz '{word[:-1]}[{word[-1]}]' /proc/[0-9]*/cmdline"


# A module that the kernel does not take


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [(other_kernel, "ENOEXEC"), (other_form, "ENOEXEC"), (missing_symbol, "ENOENT")],
)
def test_kernel_refuses_the_module(struck: Struck, tmp_path: Path, change: Callable[..., bytes], words: str) -> None:
    shutil.copytree(struck.published.folder / "repository", tmp_path / "repository")

    def changed(module: bytes) -> bytes:
        return change(module, tmp_path / "module.ko") if change is missing_symbol else change(module)

    bad = relevelled(read_build(struck.published.folder / "level-2"), 3, base=2, change=changed)
    publish(struck, tmp_path / "repository", bad)
    struck.over_http()
    struck.kmend("update", "--level", "1")
    told = struck.kmend("update", status=1).stderr.decode()
    assert "level 3 was not loaded" in told
    assert words in told
    assert struck.level() == 1
    document = struck.status()
    assert document["state"] not in ("armed", "loading")
    assert document["quarantine"] == []
    struck.kmend("update", "--level", "2")
    assert struck.level() == 2


# Killed inside the system call


@pytest.fixture(scope="module")
def slow_load(struck_guest: Struck, maker: FixMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A level 3 that takes its time inside finit_module."""
    return publish_third(struck_guest.published, maker, tmp_path_factory.mktemp("slow-load") / "slow", SLOW_LOAD)


def inside(struck: Struck, repository: Path) -> None:
    """Level 1 is in force; an update to level 3 is inside the system call."""
    struck.kmend("update", "--level", "1")
    struck.front.answer_by(folder(repository))
    struck.over_http()
    struck.vm.sh("childless; sync")
    struck.vm.start_command(["K", "update"])
    struck.vm.sh(
        "for i in $(seq 600); do grep -q '^kmend_3_.* Loading ' /proc/modules && exit 0; sleep 0.1; done; exit 1",
        timeout=120,
    )


@pytest.mark.slow
def test_killed_inside_the_system_call(struck: Struck, slow_load: Path) -> None:
    """The kernel brings it to its end; what sysfs shows then is adopted."""
    inside(struck, slow_load)
    struck.vm.sh(killed("update"))
    assert "Loading" in struck.vm.read("/proc/modules").decode(), "it was killed inside"
    struck.vm.sh(f"for i in $(seq 300); do {holders('update')} || exit 0; sleep 0.2; done; exit 1", timeout=120)
    document = struck.status()
    assert struck.level() == 3
    assert any(
        "level 3 was loaded by a command that was then killed" in note["message"] for note in document["notes"]
    ) or any("level 3 came into force after its command had ended" in note["message"] for note in document["notes"]), (
        document["notes"]
    )
    assert struck.status()["state"] == "soaking"
    struck.kmend("update")
    struck.kmend("rollback", "--to", "2")
    assert struck.level() == 2


@pytest.mark.slow
def test_power_cut_inside_the_system_call(struck: Struck, slow_load: Path) -> None:
    inside(struck, slow_load)
    struck.vm.power_cut()
    struck.vm.start()
    document = struck.status()
    assert [(entry["level"], entry["cause"]) for entry in document["quarantine"]] == [(3, "crashed")]
    struck.kmend("update")
    assert struck.level() == 1, "which had run well before"
    struck.kmend("update", "--level", "2")
    assert struck.level() == 2


# A task that blocks the transition


@pytest.fixture(scope="module")
def blocked(struck_guest: Struck, maker: FixMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose level 3 replaces a function that a task may sleep in for good."""
    scratch = tmp_path_factory.mktemp("blocked")
    publish_third(struck_guest.published, maker, scratch / "blocked", CLONE)
    return scratch / "blocked"


@pytest.mark.slow
def test_task_that_blocks_the_transition_for_minutes(struck: Struck, blocked: Path, tmp_path: Path) -> None:
    """It is named; turned round on request; a newer level takes the place of the one that hangs; in force when it is gone."""
    shutil.copytree(blocked / "repository", tmp_path / "repository")
    struck.vm.put(compiled(HERE / "blocker.c", tmp_path / "blocker"), "/opt/blocker")
    struck.front.answer_by(folder(tmp_path / "repository"))
    struck.over_http("transition = 3\n")
    struck.kmend("update", "--level", "2")
    struck.vm.start_command(["/opt/blocker"])
    try:
        told = struck.kmend("update", status=20).stderr.decode()
        assert "blocker" in told
        begin = time.monotonic()
        while True:
            document = struck.status()
            assert document["state"] == "transitioning"
            shown = document["livepatch"]
            assert (shown["level"], shown["state"]) == (3, "coming")
            tasks = {task["name"]: task for task in shown["blocking"]}
            assert any("kernel_clone" in line for line in tasks["blocker"]["stack"]), tasks
            if shown["moving_seconds"] >= 60 * MINUTES:
                break
            assert time.monotonic() - begin < 1800
            struck.vm.run(["sleep", "20"])
        struck.kmend("update", status=20)
        assert json.loads(struck.kmend("rollback", "--json").text)["way"] == "reverse"
        assert struck.level() == 2
        struck.kmend("quarantine", "clear")
        struck.kmend("update", status=20)
        newer = relevelled(read_build(blocked / "level-3"), 4, base=3)
        publish(struck, tmp_path / "repository", newer)
        told = struck.kmend("update", status=20).stderr.decode()
        assert "it is taken off again, then level 4 is loaded" in told
        found = struck.livepatches()
        assert found[newer.manifest.module.name] == ("1", "1")
        assert len(found) == 2, "level 2 is still in force"
    finally:
        struck.vm.sh(killed("/opt/blocker"))
    struck.kmend("update")
    assert struck.level() == 4
    assert struck.status()["summary"] == "current"


# Other hands on the function


@pytest.fixture
def tracing(struck: Struck) -> Iterator[Struck]:
    """Whatever a test sets up in tracefs goes away again."""
    yield struck
    struck.vm.sh(
        "cd /sys/kernel/tracing; echo nop > current_tracer; echo > set_ftrace_filter; "
        f"echo 0 > events/enable; echo > kprobe_events; {killed('/opt/fentry.py')}; rm -f /run/fentry; true"
    )


# By its address: by name the kernel knows two of it once a livepatch has one too.
PROBE = (
    f"at=0x$(awk 'NF == 3 && $3 == \"{FUNCTION}\" {{print $1}}' /proc/kallsyms); cd /sys/kernel/tracing; "
    'echo "{kind}:mine $at" > kprobe_events; echo 1 > events/kprobes/mine/enable'
)
ATTACH = (
    f"setsid python3 /opt/fentry.py {FUNCTION} >/run/fentry.log 2>&1 & "
    "for i in $(seq 600); do test -s /run/fentry && exit 0; sleep 0.1; done; cat /run/fentry.log; exit 1"
)
HANDS = {
    "ftrace": (
        f"cd /sys/kernel/tracing; echo {FUNCTION} > set_ftrace_filter; echo function > current_tracer",
        f"{FUNCTION} is being traced",
    ),
    "kprobe": (PROBE.replace("{kind}", "p"), f"a kprobe is at the entry of {FUNCTION}"),
    "kretprobe": (PROBE.replace("{kind}", "r"), f"probe is at the entry of {FUNCTION}"),
    "bpf": (ATTACH, f"a BPF program is attached to {FUNCTION}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("hand", HANDS)
@pytest.mark.parametrize("first", [True, False], ids=["before-the-load", "after-the-load"])
def test_function_in_other_hands(tracing: Struck, hand: str, first: bool) -> None:
    """Preflight names it; the level goes in all the same, does its work, is replaced and taken off."""
    script, words = HANDS[hand]
    tracing.vm.put(HERE / "fentry.py", "/opt/fentry.py")
    tracing.kmend("check")
    if first:
        tracing.vm.sh(script, timeout=120)
        found = json.loads(tracing.kmend("preflight", "--json").text)
        assert found["fit"]
        assert any(words in finding["message"] for finding in found["findings"]), found["findings"]
    told = tracing.kmend("update", "--level", "1").stderr.decode()
    assert (words in told) == first, told
    if not first:
        tracing.vm.sh(script, timeout=120)
    assert tracing.level() == 1
    assert tracing.hole() == "EOPNOTSUPP"
    tracing.kmend("update")
    assert tracing.level() == 2
    assert tracing.hole() == "EOPNOTSUPP"
    tracing.kmend("unload")
    assert tracing.level() == 0
    assert tracing.hole() == "answered"
    log = tracing.vm.kernel_log()
    assert "WARNING" not in log
    assert "BUG" not in log


@pytest.mark.slow
def test_livepatch_of_another_tool(struck: Struck) -> None:
    """It is named and left alone, unless policy lets kmend take it off; with its own hand on the function."""
    name = struck.published.names[0]
    other = name.replace("kmend", "other")
    module = read_build(struck.published.folder / "level-1").module.replace(name.encode(), other.encode())
    struck.vm.put_bytes(module, f"/root/{other}.ko")
    struck.vm.sh(f"insmod /root/{other}.ko")
    struck.vm.sh(
        f"for i in $(seq 300); do grep -q 0 /sys/kernel/livepatch/{other}/transition && exit 0; sleep 0.2; done; exit 1"
    )
    told = struck.kmend("update", status=3).stderr.decode()
    assert other in told
    assert struck.livepatches() == {other: ("1", "0")}
    struck.vm.put_bytes(b"[policy]\nreplace_foreign = true\n", "/etc/kmend/agent.toml.d/foreign.toml")
    try:
        struck.kmend("update")
        assert struck.livepatches() == {struck.published.names[1]: ("1", "0")}
    finally:
        struck.vm.sh(f"rm /etc/kmend/agent.toml.d/foreign.toml; rmmod {other}")


# Two agents


def test_second_agent_waits_outside(struck: Struck) -> None:
    """While one stands still right behind the system call, the others say so, and status works."""
    struck.kmend("update", "--level", "1")
    struck.vm.sh("childless")
    with struck.stopped("finit.after", ["K", "update"]):
        assert "another kmend is at work: update" in struck.kmend("update", status=75).stderr.decode()
        document = struck.status()
        assert document["livepatch"]["level"] in (1, 2)
    assert struck.level() == 2
    assert struck.status()["state"] == "soaking"


@pytest.mark.slow
def test_many_agents_at_once(struck: Struck) -> None:
    """Eight loops get in each other's way for a while; each command does its work, or says why not."""
    commands = (
        "update --level 1",
        "update --level 2",
        "update",
        "rollback",
        "unload --no-wait",
        "quarantine clear",
        "check",
        "status",
    )
    loops = "\n".join(
        f"( for i in 1 2 3 4 5 6; do K {words} >/dev/null 2>>/run/many.err; echo $? >>/run/many.{number}; done ) &"
        for number, words in enumerate(commands)
    )
    struck.vm.sh(f"rm -f /run/many.*\n{loops}\nwait", timeout=900)
    found = {
        words: {int(line) for line in struck.vm.read(f"/run/many.{number}").decode().split()}
        for number, words in enumerate(commands)
    }
    told = struck.vm.read("/run/many.err").decode()
    assert "Traceback" not in told, told[-3000:]
    assert all(statuses <= {0, 3, 20, 30, 75} for statuses in found.values()), (found, told[-3000:])
    assert 0 in set().union(*found.values())
    assert struck.level() in (0, 1, 2)
    document = struck.status()
    shown = document["livepatch"]
    assert (shown["level"] if shown is not None else 0) == struck.level()
    struck.kmend("quarantine", "clear")
    struck.goes_on()
