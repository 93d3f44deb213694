"""`python -m demo`: the whole way of a fix on a real kernel, as a story with times."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from demo.heartbeat import Heartbeat
from demo.record import LevelRecord, Record, Snapshot, Step
from demo.scenario import FIXES, DemoFix, Scenario, choose
from demo.serving import served
from demo.story import Story
from demo.verdict import RECORD, gaps, judge
from kmend import lab
from kmend.core import document
from kmend.core.cache import cache_root
from kmend.core.durable import write_durably
from kmend.core.errors import KmendError
from kmend.core.manifest import Manifest
from kmend.core.process import run
from kmend.factory.kernels.packages import fetch_package, kernel_packages

HERE = Path(__file__).parent
FACTORY = str(Path(sys.executable).parent / "kmend-factory")
ECHO_PORT = 7000
AGENT = "/opt/kmend"
REPOSITORY_PORT_IN_GUEST = 8000
_SNAPSHOT = """
import json, os, pathlib
top = pathlib.Path("/sys/kernel/livepatch")
tree = {}
for path in sorted(top.rglob("*")) if top.exists() else ():
    try:
        tree[str(path.relative_to(top))] = path.read_text().strip() if path.is_file() else ""
    except OSError:
        tree[str(path.relative_to(top))] = ""
echo = ""
for entry in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        if b"/opt/demo/echo.py" in (entry / "cmdline").read_bytes().split(b"\\0"):
            echo = entry.name + " " + (entry / "stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        pass
# Only what a livepatch could change: names and sizes, not the counters of users, which come and go.
modules = "\\n".join(sorted(" ".join(line.split()[:2]) for line in open("/proc/modules")))
print(json.dumps({"boot_id": open("/proc/sys/kernel/random/boot_id").read().strip(), "modules": modules,
                  "livepatch": tree, "echo": echo}))
"""


class Demo:
    """The story's state: where things are, the guest, and the record under way."""

    def __init__(self, story: Story, scenario: Scenario, folder: Path) -> None:
        self.story = story
        self.scenario = scenario
        self.folder = folder
        self.repository = folder / "repository"
        self.record = Record(kernel=str(scenario.kernel), build_id="")

    def factory(self, *words: str) -> str:
        """Run `kmend-factory` and show the command."""
        self.story.command(["kmend-factory", *(word.replace(f"{self.folder}/", "") for word in words)])
        done = run([FACTORY, *words], cwd=HERE.parent, timeout=900)
        return done.text + done.stderr.decode(errors="replace")

    def derive(self, fix: DemoFix) -> Path:
        """Cut one fix out of the distro's own sources."""
        patch = self.folder / f"{fix.cve}.patch"
        self.factory("derive", "--from", self.scenario.kernel.package or "", "--to", self.scenario.fixed_in,
                     "--file", fix.file, "--function", fix.function, "--cve", fix.cve, "-o", str(patch))  # fmt: skip
        body = patch.read_text().split("\n---\n", 1)[-1]
        self.story.say("\n".join(line for line in body.splitlines() if line.startswith(("+", "-", "@@"))))
        return patch

    def build(self, level: int, patches: Sequence[Path]) -> Path:
        """Build a level and remember what it is."""
        target = self.folder / f"level-{level}"
        words = ["build", "--kernel", str(self.scenario.kernel), "--level", str(level)]
        words += ["--base", str(level - 1)] if level > 1 else []
        output = self.factory(*words, *map(str, patches), "-o", str(target), "--explain")
        self.story.say("\n".join(line for line in output.splitlines() if "replaced" in line or "CPU seconds" in line))
        manifest = document.decode(Manifest, (target / "manifest.json").read_bytes())
        functions = tuple(function.sysfs_name for found in manifest.objects for function in found.functions)
        built = LevelRecord(level, manifest.module.name, manifest.module.sha256, functions, manifest.cves)
        self.record = replace(self.record, build_id=manifest.kernel.build_id, levels=(*self.record.levels, built))
        return target

    def publish(self, build: Path) -> None:
        """Put a level into the repository."""
        output = self.factory(
            "publish", "--keys", str(self.folder / "keys"), "--repository", str(self.repository), str(build)
        )
        self.story.say("\n".join(line for line in output.splitlines() if "published" in line))

    def snapshot(self, vm: lab.Vm) -> Snapshot:
        """Look at the guest, probes included."""
        found = json.loads(vm.run(["python3", "-c", _SNAPSHOT]).text)
        probes = {}
        for fix in FIXES:
            lines = self._probe(vm, fix).splitlines()
            probes[fix.probe] = dict(line.split("=", 1) for line in lines if "=" in line)
        return Snapshot(seconds=self.story.now, probes=probes, **found)

    def _probe(self, vm: lab.Vm, fix: DemoFix) -> str:
        return vm.run(_as(fix.user, ["python3", f"/opt/demo/{fix.probe}"]), check=False).text

    def probe(self, vm: lab.Vm, fix: DemoFix) -> None:
        """Show what a program sees of a hole."""
        self.story.command(_as(fix.user, ["python3", fix.probe]), where="guest")
        self.story.say(self._probe(vm, fix))

    def step(self, vm: lab.Vm, name: str, words: Sequence[str] = ()) -> Step:
        """Run the agent in the guest, show what it says, and keep what it did to the kernel."""
        began = time.monotonic()
        status, output = 0, ""
        if words:
            self.story.command(words, where="guest")
            done = vm.run(["python3", f"{AGENT}/kmend", *words[1:]], check=False, timeout=300)
            status, output = done.status, done.stderr.decode(errors="replace") + done.text
            self.story.say(output + (f"(exit status {status})" if status else ""))
        seconds = time.monotonic() - began
        after = replace(self.snapshot(vm), seconds=began - self.story.start + seconds)
        step = Step(name, " ".join(words), status, output, seconds, after)
        self.record = replace(self.record, steps=(*self.record.steps, step))
        return step


def _as(user: str, words: list[str]) -> list[str]:
    return words if user == "root" else ["setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups", *words]


def main() -> int:
    """Play the story; 0 if the record bears every step out."""
    story = Story()
    try:
        with tempfile.TemporaryDirectory(prefix="kmend-demo-", dir=cache_root()) as name:
            record = _play(story, Path(name))
    except KmendError as problem:
        print(f"\nthe demonstration stopped: {problem.diagnosis()}", file=sys.stderr)
        return 1
    write_durably(RECORD, document.encode(record))
    with story.act("The verdict, from the record alone"):
        findings = list(judge(record))
        for finding in findings:
            story.verdict(finding.good, finding.text)
        pauses = gaps(record)
        story.say(
            "longest pause between two answers: "
            + ", ".join(f"{name} {value:.1f} ms" for name, value in pauses.items())
        )
        story.say(f"the record is {RECORD.relative_to(HERE.parent)}; python -m demo.verdict reads it again")
    good = all(finding.good for finding in findings)
    print(f"\n{'Every step was as told.' if good else 'Some steps were NOT as told.'} {story.now:.0f} s in all.")
    return 0 if good else 1


def _play(story: Story, folder: Path) -> Record:
    scenario = choose()
    demo = Demo(story, scenario, folder)
    first = FIXES[0]
    print(f"kmend mends a running kernel: {scenario.kernel}, fixes from {scenario.fixed_in}")
    with story.act(f"Prepare the kernel: {scenario.kernel.release}, exactly as the distro built it"):
        demo.factory("kernel", "prepare", str(scenario.kernel))
    with story.act(f"Cut the fix for {first.cve} out of the distro's own newer source"):
        patches = [demo.derive(first)]
    with story.act("Build the livepatch, and prove its originals equal to the shipped kernel"):
        level_1 = demo.build(1, patches)
    with story.act("Make keys and publish"):
        demo.factory("keys", "init", str(folder / "keys"))
        demo.publish(level_1)
    with served(demo.repository) as port:
        image = fetch_package(kernel_packages(scenario.kernel).image, scenario.kernel.package or "")
        agent = folder / "agent"
        run([str(HERE.parent / "scripts/agent-tree"), str(agent)], timeout=300)
        network = lab.Network(to_host=(port,), to_guest=(ECHO_PORT,))
        with story.act("Boot that kernel with a full Debian userland and the agent"):
            vm = lab.boot(image.path, lab.Shape.FULL, network=network)
        with vm:
            return _mend(demo, vm, port, patches)


def _mend(demo: Demo, vm: lab.Vm, port: int, patches: list[Path]) -> Record:
    story, (first, second) = demo.story, FIXES
    vm.wait_settled()
    _install(demo, vm, port)
    service = vm.start_command(["python3", "/opt/demo/echo.py", str(ECHO_PORT)])
    service.wait_for(b"ready\n", timeout=30)
    heartbeat = Heartbeat(vm.host_port(ECHO_PORT), story.start)
    with story.act(f"The hole: an unprivileged program uses {first.cve}"):
        demo.probe(vm, first)
        story.say("meanwhile the host and a service in the guest exchange a message every 10 ms on one TCP connection")
        time.sleep(5)
        demo.step(vm, "start")
    with story.act("A livepatch with one changed byte is offered"), _tampered(demo):
        demo.step(vm, "tampered", ["kmend", "update"])
    with story.act("A repository signed by a stranger is offered"), _forged(demo):
        demo.step(vm, "forged", ["kmend", "update"])
    with story.act("The true livepatch is offered"):
        demo.step(vm, "update-1", ["kmend", "update"])
        demo.probe(vm, first)
        time.sleep(5)
    with story.act(f"One more fix, in another file: {second.cve}"):
        demo.probe(vm, second)
        patches.append(demo.derive(second))
        demo.publish(demo.build(2, patches))
    with story.act("Level 2 replaces level 1, atomically"):
        demo.step(vm, "update-2", ["kmend", "update"])
        demo.probe(vm, second)
    with story.act("And back"):
        demo.step(vm, "rollback", ["kmend", "rollback"])
        demo.probe(vm, second)
    with story.act("What the host says"):
        demo.step(vm, "status", ["kmend", "status"])
    exchange = heartbeat.stop()
    service.kill()
    return replace(demo.record, exchange=exchange, kernel_log=vm.kernel_log(), status=demo.record.steps[-1].output)


def _install(demo: Demo, vm: lab.Vm, port: int) -> None:
    vm.put(demo.folder / "agent", AGENT)
    vm.put(HERE / "guest", "/opt/demo")
    vm.put(demo.folder / "keys/root.json", "/etc/kmend/root.json")
    vm.put_bytes(f'[repository]\nurl = "http://{lab.HOST_ADDRESS}:{port}"\n'.encode(), "/etc/kmend/agent.toml")


@contextmanager
def _tampered(demo: Demo) -> Iterator[None]:
    """Let the repository serve the livepatch's module with one byte changed."""
    digest = demo.record.levels[0].sha256
    path = demo.repository / "files" / digest[:2] / digest
    whole = path.read_bytes()
    middle = len(whole) // 2
    demo.story.say(f"byte {middle} of the module in the repository is changed")
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    try:
        yield
    finally:
        path.write_bytes(whole)


@contextmanager
def _forged(demo: Demo) -> Iterator[None]:
    """Let a repository made with other keys stand in the place of the true one."""
    keys, forged, aside = (demo.folder / name for name in ("stranger", "forged", "aside"))
    demo.factory("keys", "init", str(keys))
    demo.factory("publish", "--keys", str(keys), "--repository", str(forged), str(demo.folder / "level-1"))
    demo.repository.rename(aside)
    forged.rename(demo.repository)
    try:
        yield
    finally:
        demo.repository.rename(forged)
        aside.rename(demo.repository)


if __name__ == "__main__":
    sys.exit(main())
