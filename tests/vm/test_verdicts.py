"""What the server says of CVEs on a real kernel: before a livepatch, while it is in force, once it is off, after a restart.

OpenSCAP from the archive, in the guest, finds the same by the level's OVAL.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from demo.scenario import FIXES, choose
from tests.e2e.served import Served
from tests.unit.intel.conftest import DATA
from tests.vm.published import FACTORY, Published
from tests.vm.test_agent import CONFIG, REPOSITORY, Host

from kmend import lab
from kmend.core.process import run

CVE = FIXES[0].cve
NAME = "kmend.example"
RECORDS = re.compile(r"cve/published/2026/CVE-2026-(529[0-4][0-9]|68386)\.(json|dyad)")
"""A few dozen, with both that the levels close."""
OVAL = "/root/level.oval.xml"
CHANGELOG = """linux ({fixed}) bookworm-security; urgency=high

  * New upstream stable update:
    - af_unix: Reject SIOCATMARK on non-stream sockets (CVE-2026-52928)

 -- Somebody <somebody@example.org>  Sat, 01 Aug 2026 10:00:00 +0200

linux ({running}) bookworm-security; urgency=high

  * New upstream stable update:

 -- Somebody <somebody@example.org>  Mon, 01 Jun 2026 10:00:00 +0200
"""


def informed(served: Served, published: Published, folder: Path) -> None:
    """Tell a server what its verdicts rest on, and publish level 1 there."""
    scenario = choose()
    records = folder / "vulns.tar"
    with tarfile.open(DATA / "vulns-2026-08-21.tar.xz", "r|xz") as source, tarfile.open(records, "w") as target:
        for member in source:
            if RECORDS.fullmatch(member.name):
                target.addfile(member, source.extractfile(member))
    changelog = folder / "changelog"
    changelog.write_text(CHANGELOG.format(fixed=scenario.fixed_in, running=scenario.kernel.package))
    facts = folder / "facts.json"
    run([FACTORY, "kernel", "facts", str(scenario.kernel), "-o", facts], timeout=900)
    for feed, place in (("cna", records), ("debian", changelog), ("facts", facts)):
        served.command("feeds", "import", feed, str(place), "--config", str(served.config), "--json")
    keys = served.data / "keys"
    run([FACTORY, "publish", "--keys", keys, "--repository", served.repository, published.folder / "level-1"])
    served.wait_for_level(1)


class Judged(Host):
    """A guest that a server judges."""

    def __init__(self, vm: lab.Vm, published: Published, served: Served) -> None:
        super().__init__(vm, published)
        self.served = served
        self.id = ""

    def install(self) -> None:
        """Put the agent there, with the server's repository, and enrol it."""
        self.vm.put(self.published.folder / "agent", "/opt/kmend")
        self.vm.put(self.served.data / "root.json", "/etc/kmend/root.json")
        self.vm.put(self.served.repository, REPOSITORY)
        self.vm.put_bytes(CONFIG.encode(), "/etc/kmend/agent.toml")
        self.vm.sh(f"echo '{lab.HOST_ADDRESS} {NAME}' >> /etc/hosts")
        key = self.served.command("keys", "create", "--ring", "default", "--expires", "1h", "--json")
        url = f"https://{NAME}:{self.served.port}"
        words = ["enrol", "--server", url, "--pin", self.served.made["pin"], "--key", key["secret"], "--json"]
        self.id = json.loads(self.kmend(*words).text)["host"]
        self.vm.put_bytes(b"[server]\nnews = false\n", "/etc/kmend/agent.toml.d/30-test.toml")
        self.vm.run(["sync"])

    def counts(self) -> dict[str, int]:
        """Check in; how many CVEs there are of each verdict."""
        self.kmend("agent", "once")
        found: dict[str, int] = self.served.command("explain", self.id, "--json")["counts"]
        return {word: count for word, count in found.items() if count}

    def verdict(self) -> str:
        """Of the CVE that level 1 closes."""
        return str(self.served.command("explain", self.id, CVE, "--json")["verdict"])

    def said_to_scanners(self) -> set[str]:
        """Statuses of the CVE in the host's OpenVEX, which is valid."""
        document: Any = self.served.command("documents", "openvex", self.id)
        schema = json.loads((DATA / "schemas/openvex.schema.json").read_text())
        jsonschema_rs.validator_for(schema).validate(document)
        return {
            item["status"]
            for item in document["statements"]
            if item["vulnerability"]["name"] == CVE and "linux-image" in item["products"][0]["@id"]
        }

    def put_oval(self) -> str:
        """Put level 1's OVAL there; returns what it is."""
        document = self.served.folder / "level.oval.xml"
        release = self.published.levels[0].kernel.release
        done = self.served.run("documents", "oval", release, "1", "-o", str(document))
        assert done.returncode == 0, done.stderr
        self.vm.put(document, OVAL)
        return document.read_text()

    def evaluated(self) -> dict[str, bool]:
        """What OpenSCAP finds in the guest: the number in a definition's ID -> whether it is true."""
        said = self.vm.run(["oscap", "oval", "eval", OVAL], timeout=120)
        found = dict(re.findall(r"^Definition oval:kmend\.[0-9a-f]{12}:def:([0-9]+): (\w+)$", said.text, re.MULTILINE))
        assert set(found.values()) <= {"true", "false"}, (said.text, said.stderr.decode())
        return {number: result == "true" for number, result in found.items()}


@pytest.fixture(scope="module")
def judged(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    folder = tmp_path_factory.mktemp("verdicts")
    served = Served(folder / "server", names=(NAME,))
    served.start()
    try:
        informed(served, published, folder)
        network = lab.Network(to_host=(served.port,))
        with lab.boot(published.kernel, lab.Shape.FULL, network=network, packages=("openscap-scanner",)) as vm:
            host = Judged(vm, published, served)
            host.install()
            yield host
    finally:
        served.stop()


@pytest.mark.slow
def test_a_verdict_follows_what_is_in_force(judged: Judged) -> None:
    before = judged.counts()
    word = judged.verdict()
    assert sum(before.values()) >= 5, before
    assert word not in ("live-patched", "fixed by the kernel", "not affected")
    assert "live-patched" not in before
    assert judged.said_to_scanners() == {"affected"}
    assert judged.hole() == "answered"

    judged.kmend("update", "--level", "1")
    during = judged.counts()
    assert judged.verdict() == "live-patched"
    assert during["live-patched"] >= 1
    assert before[word] - during.get(word, 0) == during["live-patched"]
    assert judged.said_to_scanners() == {"fixed"}
    assert judged.hole() == "EOPNOTSUPP"

    judged.kmend("unload")
    after = judged.counts()
    assert "live-patched" not in after
    assert sum(after.values()) == sum(during.values()) == sum(before.values())
    assert judged.said_to_scanners() == {"affected"}
    assert judged.hole() == "answered"

    # In force once more, and then lost with a restart after which nothing loads it again.
    judged.kmend("quarantine", "clear")
    judged.kmend("update", "--level", "1")
    assert judged.counts() == during
    judged.vm.power_off()
    judged.vm.start()
    assert judged.livepatches() == {}
    restarted = judged.counts()
    assert "live-patched" not in restarted
    assert judged.verdict() not in ("live-patched", "fixed by the kernel", "not affected")
    assert judged.said_to_scanners() == {"affected"}


@pytest.mark.slow
def test_openscap_sees_what_the_kernel_shows(judged: Judged) -> None:
    """By `uname`, and by the files of `/proc`, `/sys` and `/run` as they are."""
    judged.vm.power_off()
    judged.vm.start()
    assert "unix:uname_test" in judged.put_oval()
    judged.vm.run(["oscap", "oval", "validate", OVAL], timeout=120)
    cves = {"".join(cve.split("-")[1:]) for cve in judged.published.levels[0].cves}
    vulnerable = dict.fromkeys(cves | {"1"}, True)
    safe = dict.fromkeys(vulnerable, False)
    assert judged.evaluated() == vulnerable, "nothing was loaded on this boot"

    judged.kmend("quarantine", "clear")
    judged.kmend("update", "--level", "1")
    assert judged.evaluated() == safe
    judged.kmend("unload")
    assert judged.evaluated() == vulnerable

    judged.kmend("quarantine", "clear")
    judged.kmend("update", "--level", "1")
    assert judged.evaluated() == safe
    # Somebody else than the agent takes it off: its files still say that it is in force.
    folder = f"/sys/kernel/livepatch/{judged.published.names[0]}"
    judged.vm.sh(f"echo 0 > {folder}/enabled; while [ -d {folder} ]; do sleep 0.1; done")
    assert CVE in judged.vm.read("/run/kmend/cvelist").decode()
    assert judged.evaluated() == vulnerable

    judged.vm.power_off()
    judged.vm.start()
    assert judged.evaluated() == vulnerable
    judged.kmend("quarantine", "clear")
