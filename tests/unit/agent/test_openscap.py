"""OpenSCAP from the archive evaluates our OVAL on a host: what the kernel shows and the agent writes there decides."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.agent.conftest import CVES, Machine, Published

from kmend.core.manifest import Manifest
from kmend.core.process import run
from kmend.intel.documents import Advisory, Withdrawal, oval

NEVER = "CVE-2026-53361"
"""Named by the advisory, closed by no level."""


def advisory_of(manifest: Manifest, *more: str) -> Advisory:
    kernel = manifest.kernel
    return Advisory(
        f"KMEND-{kernel.release}-{manifest.level}", 1_790_000_000, manifest.level, manifest.base or 0,
        (*manifest.cves, *more), "6.1.176-1", kernel.release, kernel.build_id, manifest.module.name,
        manifest.module.sha256, ("vmlinux:unix_ioctl",), version=kernel.version,
        titles={CVES[0]: "af_unix: <b>&amp;</b> \x01\ud800 \N{SNOWMAN}"},
    )  # fmt: skip


def written(folder: Path, document: bytes) -> Path:
    path = folder / "level.oval.xml"
    path.write_bytes(document)
    return path


def evaluated(path: Path, root: Path | None = None) -> dict[str, bool]:
    """What `oscap oval eval` says: the number in a definition's ID -> its result."""
    surroundings = {**os.environ, "LC_ALL": "C.UTF-8"}
    if root is not None:
        surroundings["OSCAP_PROBE_ROOT"] = str(root)
    said = run(["oscap", "oval", "eval", path], environment=surroundings).stdout.decode()
    found = re.findall(r"^Definition oval:kmend\.[0-9a-f]{12}:def:([0-9]+): (\w+)$", said, re.MULTILINE)
    assert found
    assert {result for _, result in found} <= {"true", "false"}, said
    return {number: result == "true" for number, result in found}


def number_of(cve: str) -> str:
    return "".join(cve.split("-")[1:])


@pytest.fixture
def level_2(published: Published, tmp_path: Path) -> Path:
    return written(tmp_path, oval(advisory_of(published.levels[2], NEVER)))


def wanting(*cves: str, level: bool) -> dict[str, bool]:
    """Of level 2's definitions, all are false but these."""
    vulnerable = {number_of(cve): cve in cves for cve in (*CVES[:2], NEVER)}
    return {"2": level, **vulnerable}


@pytest.mark.parametrize("withdrawn", [None, Withdrawal(1_790_000_500, "it & that")])
@pytest.mark.parametrize("cves", [(), CVES])
def test_the_document_is_valid(
    published: Published, tmp_path: Path, withdrawn: Withdrawal | None, cves: tuple[str, ...]
) -> None:
    made = replace(advisory_of(published.levels[3]), withdrawn=withdrawn, cves=cves)
    content = oval(made)
    assert (b'class="patch"' in content) == (withdrawn is None), "what is recalled is not asked for"
    assert run(["oscap", "oval", "validate", written(tmp_path, content)], check=False).status == 0


def test_a_document_that_is_not_valid_is_told(published: Published, tmp_path: Path) -> None:
    content = oval(advisory_of(published.levels[1])).replace(b"check_existence", b"existence")
    assert run(["oscap", "oval", "validate", written(tmp_path, content)], check=False).status != 0


def test_vulnerable_unless_the_livepatch_is_in_force(machine: Machine, level_2: Path) -> None:
    root = machine.paths.root
    everything = wanting(*CVES[:2], NEVER, level=True)
    assert evaluated(level_2, root) == everything, "nothing was ever loaded"
    machine.must("update", "--level", "1")
    assert evaluated(level_2, root) == wanting(CVES[1], NEVER, level=True), "a lower level closes what it names"
    machine.must("update", "--level", "2")
    assert evaluated(level_2, root) == wanting(NEVER, level=False)
    machine.must("update", "--level", "3")
    assert evaluated(level_2, root) == wanting(NEVER, level=False), "a later level does the same"
    machine.must("unload")
    assert evaluated(level_2, root) == everything


def test_a_transition_that_hangs_closes_nothing(machine: Machine, level_2: Path) -> None:
    machine.kernel.hold_transitions(hold=True)
    assert machine.run("update", "--level", "2") == 20
    assert evaluated(level_2, machine.paths.root) == wanting(*CVES[:2], NEVER, level=True)
    machine.kernel.hold_transitions(hold=False)
    machine.must("status")
    assert evaluated(level_2, machine.paths.root) == wanting(NEVER, level=False)


@pytest.mark.parametrize(("name", "text"), [("enabled", "0\n"), ("transition", "1\n")])
def test_the_kernel_is_believed_before_the_agents_files(
    machine: Machine, published: Published, level_2: Path, name: str, text: str
) -> None:
    """Somebody disables the livepatch by hand: nothing has written the agent's files anew yet."""
    machine.must("update", "--level", "2")
    folder = machine.paths.sys / "kernel/livepatch" / published.levels[2].module.name
    (folder / name).write_text(text)
    assert evaluated(level_2, machine.paths.root) == wanting(*CVES[:2], NEVER, level=True)


def test_what_the_kernel_has_not_patched_is_not_closed(machine: Machine, published: Published, level_2: Path) -> None:
    """Both fixes are in vmlinux's code; the server says of such a host that they are blocked."""
    machine.must("update", "--level", "2")
    folder = machine.paths.sys / "kernel/livepatch" / published.levels[2].module.name
    (folder / "vmlinux/patched").write_text("0\n")
    machine.must("status")
    assert (machine.paths.run / "cvelist").read_text() == ""
    said = {item["cve"]: item["verdict"] for item in json.loads(machine.must("status", "--json"))["cves"]}
    assert said == dict.fromkeys(CVES[:2], "blocked")
    assert machine.run("cves", CVES[0]) == 1
    assert "the kernel has not patched vmlinux" in machine.must("cves")
    assert "live-patched" not in machine.must("status")
    assert 'kmend_cves{verdict="blocked"} 2' in machine.must("metrics")
    vulnerable = {number_of(cve): True for cve in (*CVES[:2], NEVER)}
    assert evaluated(level_2, machine.paths.root) == {"2": False, **vulnerable}, "the level itself is there"


def test_a_livepatch_of_somebody_else_closes_nothing(machine: Machine, level_2: Path) -> None:
    machine.must("update", "--level", "2")
    published_files = {name: (machine.paths.run / name).read_bytes() for name in ("state.json", "cvelist")}
    machine.must("unload")
    machine.kernel.add_foreign("kpatch_2_0123abcd")
    for name, content in published_files.items():
        (machine.paths.run / name).write_bytes(content)
    assert evaluated(level_2, machine.paths.root) == wanting(*CVES[:2], NEVER, level=True)


@pytest.mark.parametrize(
    ("name", "text"), [("osrelease", "6.1.0-50-cloud-amd640"), ("version", "#1 SMP Debian 6.1.177-1")]
)
def test_another_kernel_is_not_meant(machine: Machine, level_2: Path, name: str, text: str) -> None:
    machine.kernel.write(f"sys/kernel/{name}", text)
    assert evaluated(level_2, machine.paths.root) == wanting(level=False)


def test_on_the_machine_itself_uname_decides(published: Published, tmp_path: Path) -> None:
    """Without another root, all of it is the running kernel's own; nobody has loaded a livepatch of kmend's into it."""
    running = os.uname()
    mine = replace(advisory_of(published.levels[1]), release=running.release, version=running.version)
    assert evaluated(written(tmp_path, oval(mine))) == {"1": True, number_of(CVES[0]): True}
    other = replace(mine, release="6.1.0-50-cloud-amd64")
    assert evaluated(written(tmp_path, oval(other))) == {"1": False, number_of(CVES[0]): False}


def test_files_of_sysfs_can_be_read(published: Published, tmp_path: Path) -> None:
    """They say that they have 4,096 bytes, and give two. The loopback device's stand in for a livepatch's: 1, and 0."""
    folder = Path("/sys/devices/virtual/net/lo")
    assert [(folder / name).read_text() for name in ("ifindex", "netdev_group")] == ["1\n", "0\n"]
    running = os.uname()
    mine = replace(advisory_of(published.levels[1]), release=running.release, version=running.version)
    listed = tmp_path / "cvelist"
    listed.write_text(f"{CVES[0]}\n")

    def text(enabled: str, transition: str) -> bytes:
        document = oval(mine).decode()
        for old, new in (
            (r"^/sys/kernel/livepatch/kmend_[0-9]+_[0-9a-f]{8}$", f"^{folder}$"),
            (">enabled<", f">{enabled}<"),
            (">transition<", f">{transition}<"),
            ("/run/kmend/cvelist", str(listed)),
        ):
            assert old in document
            document = document.replace(old, new)
        return document.encode()

    assert evaluated(written(tmp_path, text("ifindex", "netdev_group")))[number_of(CVES[0])] is False
    assert evaluated(written(tmp_path, text("netdev_group", "netdev_group")))[number_of(CVES[0])] is True
    assert evaluated(written(tmp_path, text("ifindex", "ifindex")))[number_of(CVES[0])] is True
