"""`python -m demo.fleet`: a fleet under patching, as a story with times; the record is judged by `demo.fleet.verdict`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from demo.fleet import badfix
from demo.fleet.console import Console
from demo.fleet.guests import Guest
from demo.fleet.record import GrantView, Moment, Record, RolloutView
from demo.fleet.verdict import FIRST, RECORD, SECOND, THIRD, judge
from demo.record import LevelRecord
from demo.scenario import FIXES, Scenario, choose
from demo.story import Story
from kmend import lab
from kmend.core import document
from kmend.core.cache import cache_root
from kmend.core.durable import write_durably
from kmend.core.errors import KmendError
from kmend.core.manifest import Manifest
from kmend.core.process import run
from kmend.factory.kernels.packages import fetch_package, kernel_packages
from kmend.factory.kernels.prepared import prepare
from kmend.server.rollouts.plan import Plan, Stage
from packager import building
from packager.offer import make_script

HERE = Path(__file__).parents[1]
FACTORY = str(Path(sys.executable).parent / "kmend-factory")
SIMULATED = {FIRST: 20, SECOND: 400, THIRD: 1580}
PLAN = Plan(
    (
        Stage(FIRST, at_once=25, soak_seconds=5, sample=5, success=1.0, silence_seconds=30),
        Stage(SECOND, at_once=250, soak_seconds=5, sample=50, success=0.98, silence_seconds=90),
        Stage(THIRD, at_once=900, soak_seconds=5, sample=100, success=0.98, silence_seconds=90),
    )
)


class FleetDemo:
    """The story's state."""

    def __init__(self, story: Story, scenario: Scenario, folder: Path) -> None:
        self.story = story
        self.scenario = scenario
        self.folder = folder
        self.console = Console(story, folder)
        self.guests: list[Guest] = []
        self.times: dict[str, float] = {}
        self.manifests: list[Manifest] = []
        fleet = {ring: count + 1 for ring, count in SIMULATED.items()}
        self.record = Record(kernel=str(scenario.kernel), build_id="", fleet=fleet, real={})

    def factory(self, *words: str) -> str:
        """Run `kmend-factory` and show the command."""
        self.story.command(["kmend-factory", *(word.replace(f"{self.folder}/", "") for word in words)])
        done = run([FACTORY, *words], cwd=HERE.parent, timeout=900)
        return done.text + done.stderr.decode(errors="replace")

    def derive(self) -> Path:
        """Cut the good fix out of the distro's newer source."""
        fix, patch = FIXES[0], self.folder / "1.patch"
        self.factory("derive", "--from", self.scenario.kernel.package or "", "--to", self.scenario.fixed_in,
                     "--file", fix.file, "--function", fix.function, "--cve", fix.cve, "-o", str(patch))  # fmt: skip
        return patch

    def build(self, level: int, patches: list[Path]) -> Path:
        """Build a level and remember what it is."""
        target = self.folder / f"level-{level}"
        base = ["--base", str(level - 1)] if level > 1 else []
        self.factory("build", "--kernel", str(self.scenario.kernel), "--level", str(level), *base, "-o", str(target),
                     *map(str, patches))  # fmt: skip
        manifest = document.decode(Manifest, (target / "manifest.json").read_bytes())
        functions = tuple(function.sysfs_name for found in manifest.objects for function in found.functions)
        built = LevelRecord(level, manifest.module.name, manifest.module.sha256, functions, manifest.cves)
        self.manifests.append(manifest)
        self.record = replace(self.record, build_id=manifest.kernel.build_id, levels=(*self.record.levels, built))
        return target

    def publish(self, *words: str) -> None:
        """Put something into the server's repository, with the offline keys."""
        where = ["--keys", str(self.console.keys), "--repository", str(self.console.repository)]
        self.factory("publish", *where, *words)

    def moment(self, name: str) -> Moment:
        """What the real hosts' kernels show, and what the server says, now."""
        self.times[name] = self.story.now
        status = self.console.ask("status")
        levels = _levels(status)
        rollouts = {row["name"]: row["status"] for row in self.console.ask("rollouts", "list")}
        views = tuple(guest.view() for guest in self.guests if guest.vm.running)
        found = Moment(name, self.story.now, views, levels, rollouts)
        self.record = replace(self.record, moments=(*self.record.moments, found))
        return found

    def rollout(self, level: int) -> dict[str, Any]:
        """The rollout of a level, as the server tells it."""
        wanted = self.record.build_id
        rows: list[dict[str, Any]] = self.console.ask("rollouts", "list")
        found = [row for row in rows if row["targets"].get(wanted) == level]
        return self.console.ask("rollouts", "show", found[0]["id"]) if found else {}

    def watch(self, level: int, until: str, seconds: float) -> dict[str, Any]:
        """Show how a rollout goes until it is where it should be."""
        shown = ""
        began = time.monotonic()
        while True:
            now = self.rollout(level)
            if now:
                stages = "   ".join(
                    f"{stage['ring']}: {stage['succeeded']} done, {stage['in_flight']} at it, {stage['failed']} failed"
                    for stage in now["stages"]
                )
                if stages != shown:
                    self.story.say(f"{self.story.now:5.0f} s  {stages}")
                    shown = stages
                if now["status"] == until:
                    return now
            if time.monotonic() - began > seconds:
                raise KmendError(f"the rollout of level {level} is not {until} after {seconds:.0f} s")
            time.sleep(2)

    def keep_rollout(self, level: int) -> None:
        """Keep a rollout with all its grants for the verdict."""
        now = self.rollout(level)
        grants = tuple(
            GrantView(
                now["name"],
                row["host"],
                row["stage"],
                row["state"],
                row["cause"],
                row["granted_at"],
                row["state_since"],
            )
            for row in self.console.ask("rollouts", "grants", now["id"])
        )
        kept = RolloutView(
            name=now["name"],
            level=level,
            state=now["state"],
            override=now["override"],
            reason=now["reason"],
            rings=tuple(stage["ring"] for stage in now["stages"]),
            at_once=tuple(stage["at_once"] for stage in now["stages"]),
            passed_at=tuple(stage["ended_at"] or 0 for stage in now["stages"]),
            grants=grants,
        )
        self.record = replace(self.record, rollouts=(*self.record.rollouts, kept))


def _levels(status: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Ring -> level -> hosts."""
    return {ring: dict(counts) for ring, counts in status["rings"].items()}


def main() -> int:
    """Play the story; 0 if the record bears every statement out."""
    story = Story()
    try:
        with tempfile.TemporaryDirectory(prefix="kmend-fleet-", dir=cache_root()) as name:
            demo = FleetDemo(story, choose(), Path(name))
            try:
                _play(demo)
            finally:
                for guest in demo.guests:
                    guest.vm.close()
                demo.console.close()
    except KmendError as problem:
        sys.stderr.write(f"\nthe demonstration stopped: {problem.diagnosis()}\n")
        return 1
    write_durably(RECORD, document.encode(demo.record))
    with story.act("The verdict, from the record alone"):
        findings = list(judge(demo.record))
        for finding in findings:
            story.verdict(finding.good, finding.text)
        story.say(f"the record is {RECORD.relative_to(HERE.parent)}; python -m demo.fleet.verdict reads it again")
    good = all(finding.good for finding in findings)
    print(f"\n{'Every step was as told.' if good else 'Some steps were NOT as told.'} {story.now:.0f} s in all.")
    return 0 if good else 1


def _play(demo: FleetDemo) -> None:
    story, console, scenario = demo.story, demo.console, demo.scenario
    print(f"kmend patches a fleet: {sum(demo.record.fleet.values())} hosts, kernel {scenario.kernel}")
    with story.act(f"The livepatch for {FIXES[0].cve}, and the agent's package"):
        demo.factory("kernel", "prepare", str(scenario.kernel))
        patch = demo.derive()
        level_1 = demo.build(1, [patch])
        made = building.build(demo.folder / "packages", ("deb",))
        packages = (*made, make_script(demo.folder / "packages", made))
    with story.act("A server, with the trust root made on this one box"):
        console.found()
        demo.publish(*(word for path in packages for word in ("--agent-package", str(path))))
        console.start()
    with story.act("Three rings, a plan for new levels, and whom to tell"):
        keys = _set_up(demo)
    with story.act("Three real hosts: bare Debians in virtual machines, taken in by one line each"):
        _boot(demo, keys)
    with story.act(
        f"And {sum(SIMULATED.values())} simulated ones, which speak to the server with the agent's own code"
    ):
        fleet = _simulate(demo, keys)
    try:
        _roll(demo, level_1, patch)
    finally:
        fleet.terminate()
        fleet.wait(30)
    demo.record = replace(
        demo.record,
        times=demo.times,
        log={guest.name: guest.last_words() for guest in demo.guests},
        notices=tuple(console.webhook.notices),
    )


def _roll(demo: FleetDemo, level_1: Path, patch: Path) -> None:
    story, console = demo.story, demo.console
    demo.moment("enrolled")
    with story.act("Level 1 is published; it rolls through the rings by itself"):
        demo.publish(str(level_1))
        demo.watch(1, "finished", 300)
        console.wait("level 1 everywhere", lambda: _everywhere(demo, "1"), 120)
        demo.moment("rolled")
        demo.keep_rollout(1)
        console.tell("status")
    with story.act("Level 2 adds a fix that looks harmless. It panics the kernel some seconds after it was loaded"):
        prepared = prepare(demo.scenario.kernel)
        bad = badfix.write(prepared.tree.path, demo.folder / "2.patch")
        demo.publish(str(demo.build(2, [patch, bad])))
        canary = next(guest for guest in demo.guests if guest.ring == FIRST)
        console.wait("the canary's panic", canary.panicked, 120)
        demo.times["panicked"] = story.now
        story.say(f"{story.now:5.0f} s  {canary.name} has panicked: {_panic_line(canary)}")
        now = demo.watch(2, "halted", 180)
        demo.moment("halted")
    with story.act("It has halted by itself, in the first ring. Why?"):
        console.tell("rollouts", "show", now["id"])
        console.wait("the webhook", lambda: any("rollout.halted" in text for text in console.webhook.notices), 60)
        story.say(f"the webhook was told: {console.webhook.notices[-1][:300]}")
    with story.act(f"{canary.name} starts again: its own guard keeps level 2 out, and level 1 comes back"):
        canary.vm.start()
        console.wait("level 1 on the canary", lambda: canary.has(demo.manifests[0].module.name), 90)
        story.command(["kmend", "quarantine"], where=canary.name)
        story.say(canary.vm.run(["kmend", "quarantine"]).text)
        demo.moment("rebooted")
        demo.keep_rollout(2)
        console.tell("rollouts", "abort", now["id"], "--reason", "level 2 panics")
    with story.act("The publisher recalls the fix of level 1, with a key that is not on the server: hosts take it off"):
        digest = demo.manifests[0].fixes[0].digest
        where = ["--keys", str(console.keys), "--repository", str(console.repository)]
        demo.times["recall"] = story.now
        demo.factory("recall", *where, "--fix", digest, "--reason", "a demonstration")
        console.wait(
            "the recall on the real hosts", lambda: not any(guest.view().livepatches for guest in demo.guests), 120
        )
        demo.moment("recalled")
        story.say(f"off every real host {demo.times['recalled'] - demo.times['recall']:.1f} s after it was signed")
    with story.act("An account of everything"):
        export = demo.folder / "audit.ndjson"
        console.run("audit", "export", "-o", str(export))
        status = console.status_of("audit", "verify", str(export))
        console.tell("audit", "verify", str(export))
        demo.record = replace(demo.record, audit=export.read_text(), audit_verified=status)


def _set_up(demo: FleetDemo) -> dict[str, dict[str, Any]]:
    """Rings, plan, webhook; ring -> its enrolment key with the line."""
    console = demo.console
    for position, ring in enumerate((FIRST, SECOND, THIRD), start=1):
        console.run("rings", "set", ring, "--position", str(position))
    plan = demo.folder / "plan.json"
    plan.write_bytes(document.encode(PLAN))
    console.run("plans", "put", "usual", str(plan), "--automatic")
    console.run("channels", "create", "webhook", console.webhook.url)
    keys = {ring: console.ask("keys", "create", "--ring", ring, "--expires", "1h") for ring in (FIRST, SECOND, THIRD)}
    demo.story.say("the line for the first ring, to be run as root on a host:")
    demo.story.say(keys[FIRST]["line"])
    return keys


def _boot(demo: FleetDemo, keys: dict[str, dict[str, Any]]) -> None:
    image = fetch_package(kernel_packages(demo.scenario.kernel).image, demo.scenario.kernel.package or "")
    network = lab.Network(to_host=(demo.console.port,))
    failures: list[KmendError] = []
    threads: list[threading.Thread] = []

    def install(guest: Guest) -> None:
        try:
            guest.install(keys[guest.ring]["line"])
        except KmendError as problem:
            failures.append(problem)

    for ring in (FIRST, SECOND, THIRD):
        # Here, and not in a thread of its own: a guest ends with the thread that started it.
        guest = Guest(f"{ring}-real", ring, lab.boot(image.path, lab.Shape.FULL, network=network))
        demo.guests.append(guest)
        demo.story.say(f"{demo.story.now:5.0f} s  {guest.name} is up, and is being taken in")
        threads.append(threading.Thread(target=install, args=(guest,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    demo.record = replace(demo.record, real={guest.name: guest.id for guest in demo.guests})
    demo.console.tell("hosts", "list")


def _simulate(demo: FleetDemo, keys: dict[str, dict[str, Any]]) -> subprocess.Popen[str]:
    """Start the simulated hosts, and wait until all are enrolled."""
    console = demo.console
    kernel = demo.folder / "kernel.json"
    kernel.write_bytes(document.encode(demo.manifests[0].kernel))
    words = [sys.executable, "-m", "bench.fleet", "--url", console.url, "--ca", str(console.authority)]
    words += [
        "--repository",
        f"{console.url}/repository",
        "--root",
        str(console.data / "root.json"),
        "--kernel",
        str(kernel),
    ]
    words += ["--state", str(demo.folder / "fleet-state"), "--seconds", "0", "--soak", "5", "--transition", "1"]
    for ring, count in SIMULATED.items():
        file = demo.folder / f"{ring}.key"
        file.write_text(keys[ring]["secret"])
        words += ["--group", f"{ring}-sim={count}={file}"]
    environment = os.environ | {"PYTHONPATH": f"{HERE.parent}/src:{HERE.parent}"}
    with (demo.folder / "fleet.log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, text=True, env=environment, cwd=HERE.parent)
    total = sum(demo.record.fleet.values())
    console.wait("the simulated hosts' enrolment", lambda: _enrolled(console) >= total, 240)
    demo.story.say(f"{demo.story.now:5.0f} s  {total} hosts are enrolled and have reported")
    return process


def _enrolled(console: Console) -> int:
    return sum(sum(counts.values()) for counts in _levels(console.ask("status")).values())


def _everywhere(demo: FleetDemo, level: str) -> bool:
    found = _levels(demo.console.ask("status"))
    return all(found.get(ring, {}).get(level, 0) == count for ring, count in demo.record.fleet.items())


def _panic_line(guest: Guest) -> str:
    lines = [line for line in guest.log.splitlines() if "Kernel panic" in line]
    return lines[-1].split("] ", 1)[-1].strip() if lines else "(no line)"


if __name__ == "__main__":
    sys.exit(main())
