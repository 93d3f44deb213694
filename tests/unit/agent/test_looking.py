"""The commands that only look: patches, cves, uname, verify."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.unit.agent.conftest import CVES, Machine, Published, configure_for, publish
from tests.unit.agent.simulated import notes
from tests.unit.sample_livepatch import KERNEL, livepatch

from kmend.agent import effective, verification
from kmend.agent.livekernel import Patch


def verdicts(machine: Machine, *asked: str) -> dict[str, str]:
    return {item["cve"]: item["verdict"] for item in machine.json("cves", *asked)["cves"]}


def checks(machine: Machine) -> dict[str, bool | None]:
    return {item["check"]: item["holds"] for item in machine.json("verify")["checks"]}


def test_a_fresh_host_knows_nothing_and_says_so(machine: Machine) -> None:
    assert "no level is known" in machine.must("patches")
    assert "no level is known" in machine.must("cves")
    assert "no livepatch" in machine.must("verify")
    assert machine.must("uname").strip() == KERNEL.release
    assert not (machine.paths.state / "schema.json").exists()


def test_patches_known_and_loaded_with_functions(machine: Machine, published: Published) -> None:
    machine.must("update", "--level", "2")
    machine.must("check")
    document = machine.json("patches")
    assert document["format"] == "kmend-patches/1"
    assert document["loaded"] == published.levels[2].module.name
    shown = {item["level"]: item["state"] for item in document["levels"]}
    assert shown == {3: "published", 2: "in-force"}
    assert document["unseen"] == [1]
    two = document["levels"][1]
    assert [part["name"] for part in two["functions"]] == ["unix_ioctl", "tcp_ack"]
    assert two["published"] > 0
    text = machine.must("patches")
    assert "vmlinux: tcp_ack (net/unix/af_unix.c)" in text
    assert "do_fork" not in text
    assert "do_fork" in machine.must("patches", "--level", "3")
    assert machine.run("patches", "--level", "9") == 2
    assert "kmend check" in machine.err


def test_patches_after_replacement_soak_and_rollback(machine: Machine) -> None:
    machine.must("update", "--level", "1")
    machine.must("update", "--level", "2")
    assert {item["level"]: item["state"] for item in machine.json("patches")["levels"]}[1] == "resident"
    machine.clock.sleep(400)
    machine.must("status")
    two, one = machine.json("patches")["levels"][-2:]
    assert (two["soaked"], one["state"]) == (True, "kept")
    machine.must("rollback")
    two = next(item for item in machine.json("patches")["levels"] if item["level"] == 2)
    assert "rolled back by a person" in two["held"]


def test_cves_of_each_verdict(machine: Machine) -> None:
    machine.must("check")
    assert verdicts(machine) == dict.fromkeys(CVES, "available")
    machine.must("update", "--level", "1")
    machine.must("check")
    assert verdicts(machine) == {CVES[0]: "live-patched", CVES[1]: "available", CVES[2]: "available"}
    machine.configure("[apply]\npin_level = 2\n", "agent.toml.d/pin.toml")
    machine.must("check")
    assert verdicts(machine) == {CVES[0]: "live-patched", CVES[1]: "available", CVES[2]: "withheld"}
    answer = machine.json("cves", CVES[2])["cves"][0]
    assert answer["level"] == 3
    assert "pinned to level 2" in answer["reason"]
    machine.kernel.hold_transitions(hold=True)
    assert machine.run("update") == 20
    assert verdicts(machine)[CVES[1]] == "pending"


def test_cves_that_were_left_are_blocked(machine: Machine) -> None:
    machine.must("update")
    machine.must("unload")
    assert verdicts(machine) == dict.fromkeys(CVES, "blocked")


def test_asking_for_cves_ends_with_the_answer(machine: Machine) -> None:
    machine.must("update")
    assert machine.run("cves", *CVES) == 0
    assert machine.run("cves", "cve-2026-1001") == 0
    assert machine.run("cves", CVES[0], "CVE-2020-1") == 1
    assert "CVE-2020-1" in machine.out
    assert "no level that this host knows names it" in machine.out
    assert machine.run("cves", *(f"CVE-2026-{number}" for number in range(1001))) == 2


def test_uname_appends_the_level_in_force(machine: Machine) -> None:
    machine.kernel.hold_transitions(hold=True)
    assert machine.run("update") == 20
    assert machine.must("uname").strip() == KERNEL.release
    machine.kernel.hold_transitions(hold=False)
    assert machine.must("uname").strip() == f"{KERNEL.release}+0kmend3"
    assert machine.must("uname", "-v").strip() == "6.1.176-1+0kmend3"
    assert machine.json("uname")["package"] == "6.1.176-1"


@pytest.mark.parametrize(
    ("version", "ref", "package"),
    [
        ("#1 SMP Debian 6.1.176-1 (2026-07-04)", "", "6.1.176-1"),
        ("#1 SMP Debian 6.1.176-1 (2026-07-04)", "debian:6.1.0-50@6.1.176-2", "6.1.176-2"),
        ("#1 SMP Mon Jan 1", "not a ref", ""),
    ],
)
def test_package_version(version: str, ref: str, package: str) -> None:
    assert effective.package_of(version, ref) == package


@pytest.mark.parametrize(
    ("running", "later"),
    [
        ("6.1.176-1", ["6.1.176-2", "6.1.187-1", "6.1.176-1+b1", "6.1.176-1+deb12u1", "6.1.176-1+1"]),
        ("5.15.0-100.110", ["5.15.0-100.111", "5.15.0-101.1", "5.15.0-100.110+1"]),
    ],
)
def test_the_effective_version_claims_no_later_version_to_dpkg(running: str, later: list[str]) -> None:
    ours = [running, f"{running}+0kmend1", f"{running}+0kmend2", f"{running}+0kmend10"]
    for lower, higher in [*itertools.pairwise(ours), *((ours[-1], version) for version in later)]:
        subprocess.run(["dpkg", "--compare-versions", lower, "lt", higher], check=True, timeout=60)


def test_the_effective_version_claims_no_later_version_to_rpm() -> None:
    running = "477.10.1.el8_8"
    ours = [running, f"{running}+0kmend1", f"{running}+0kmend2", f"{running}+0kmend10"]
    later = ["477.10.1.el8_9", "477.10.2.el8_8", "477.13.1.el8_8", "477.10.1.el8_8.1", "478.el8"]
    for lower, higher in [*itertools.pairwise(ours), *((ours[-1], version) for version in later)]:
        line = f"%{{lua: print(rpm.vercmp('{lower}', '{higher}'))}}"
        done = subprocess.run(["rpm", "--eval", line], capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.strip() == "-1", (lower, higher)


def test_uname_without_a_package_version(machine: Machine) -> None:
    machine.kernel.write("sys/kernel/version", "#1 SMP")
    assert machine.run("uname", "-v") == 2


def test_verify_holds_everything_together(machine: Machine) -> None:
    machine.must("update")
    document = machine.json("verify")
    assert machine.status == 0
    assert document["intact"] is True
    found = {item["check"]: item["holds"] for item in document["checks"]}
    assert found == {
        "kernel": True,
        "enabled": True,
        "functions": True,
        "module-file": True,
        "module-signature": True,
        "resident": None,
        "signatures": True,
    }
    assert "everything is as it was signed" in machine.must("verify")


def test_verify_sees_a_function_that_is_missing_or_too_many(machine: Machine, published: Published) -> None:
    machine.must("update")
    folder = machine.kernel.livepatch / published.levels[3].module.name / "vmlinux"
    (folder / "tcp_ack,1").rename(folder / "vfs_read,1")
    assert machine.run("verify") == 1
    assert "lacks vmlinux:tcp_ack and has vmlinux:vfs_read besides" in machine.out


def test_verify_sees_changed_files(machine: Machine, published: Published) -> None:
    machine.must("update")
    base = machine.paths.state / "levels" / published.levels[3].module.name
    module = base.with_suffix(".ko").read_bytes()
    base.with_suffix(".ko").write_bytes(module + b"x")
    assert checks(machine)["module-file"] is False
    base.with_suffix(".ko").write_bytes(module)
    base.with_suffix(".p7s").write_bytes(b"\x30\x00")
    assert checks(machine)["module-signature"] is False
    base.with_suffix(".json").write_bytes(b"{}")
    assert machine.run("verify") == 1
    assert "manifest" in machine.out


def test_verify_sees_a_manifest_that_says_something_else(machine: Machine, published: Published) -> None:
    machine.must("update")
    path = machine.paths.state / "levels" / f"{published.levels[3].module.name}.json"
    signed = path.read_text()
    assert checks(machine)["signatures"] is True
    for before, after in (
        ("close CVE-2026-1001", "close CVE-2026-1009"),
        ('"pinned":[]', '"pinned":["vmlinux:do_exit"]'),
    ):
        assert before in signed
        path.write_text(signed.replace(before, after))
        assert checks(machine)["signatures"] is False
        assert machine.run("verify") == 1
    newer = signed.replace("kmend-factory 0", "kmend-factory 99.1")
    assert newer != signed
    path.write_text(newer)
    assert checks(machine)["signatures"] is None
    path.write_text(signed)
    assert checks(machine)["signatures"] is True


def test_verify_sees_another_module_in_memory(
    machine: Machine, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.must("update")
    name = published.levels[3].module.name
    folder = machine.paths.sys / "module" / name / "notes"
    folder.mkdir(parents=True)
    (folder / ".note.gnu.build-id").write_bytes(notes("ab" * 20))
    monkeypatch.setattr("kmend.agent.verification.modulefiles.build_id_of", lambda content: "ab" * 20)
    assert checks(machine)["resident"] is True
    monkeypatch.setattr("kmend.agent.verification.modulefiles.build_id_of", lambda content: "cd" * 20)
    assert checks(machine)["resident"] is False


@pytest.mark.parametrize("part", ["timestamp.json", "snapshot.json", "targets.json"])
def test_verify_sees_a_changed_signed_record(machine: Machine, part: str) -> None:
    machine.must("update")
    path = machine.paths.state / "repository/metadata" / part
    path.write_bytes(path.read_bytes().replace(b'"version":', b'"version": 7, "was":', 1))
    assert machine.run("verify") == 1
    assert "signatures" in machine.out
    path.unlink()
    assert checks(machine)["signatures"] is False


def test_verify_sees_levels_that_nobody_signed(machine: Machine) -> None:
    machine.must("update")
    (path,) = (machine.paths.state / "repository/levels").glob("*.json")
    path.write_bytes(path.read_bytes().replace(b'"level":3', b'"level":4'))
    assert checks(machine)["signatures"] is False


def test_verify_from_a_strangers_trust_root(machine: Machine, published: Published) -> None:
    machine.must("update")
    (machine.paths.config / "root.json").write_bytes(b"{}")
    assert checks(machine)["signatures"] is False
    (machine.paths.config / "root.json").unlink()
    assert checks(machine)["signatures"] is None


def test_verify_needs_no_network_and_no_fresh_record(machine: Machine, published: Published, tmp_path: Path) -> None:
    machine.must("update")
    configure_for(machine, tmp_path / "nowhere", published.root)
    machine.clock.sleep(86_400 * 400)
    assert machine.run("verify") == 0


def test_verify_of_a_level_that_the_repository_has_withdrawn(machine: Machine, tmp_path: Path, keys: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    publish(first, keys, [livepatch(4, ["CVE-2026-2001"])])
    configure_for(machine, first, keys / "root.json")
    machine.must("update")
    shutil.rmtree(machine.paths.state / "repository")
    publish(second, keys, [livepatch(5, ["CVE-2026-2001"])])
    configure_for(machine, second, keys / "root.json")
    machine.must("check")
    assert checks(machine)["signatures"] is None


def test_foreign_livepatches_are_named(machine: Machine) -> None:
    machine.kernel.add_foreign("kpatch_other")
    assert "kpatch_other" in machine.must("verify")
    assert "kpatch_other" in machine.must("patches")


def test_many_differences_are_bounded() -> None:
    manifest, _ = livepatch(1, ["CVE-2026-2001"], functions=[f"f{number}" for number in range(100)])
    found = verification.functions(Patch("x", True, False, frozenset()), manifest)
    assert found.holds is False
    assert "and 90 more" in found.message


def test_a_broken_configuration_stops_nothing_that_only_looks(machine: Machine) -> None:
    machine.must("update")
    machine.configure("[repository]\nurl = 7\n")
    for command in ("patches", "cves", "uname", "verify"):
        machine.must(command)
        assert "url" in machine.err


def test_nothing_is_written(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.must("update")
    monkeypatch.setattr("kmend.core.durable.write_durably", lambda *a, **k: pytest.fail("something was written"))
    before = sorted(machine.paths.state.iterdir())
    for command in ("patches", "cves", "uname", "verify"):
        machine.must(command)
    assert sorted(machine.paths.state.iterdir()) == before


@pytest.mark.parametrize(("limit", "count"), [("0", 0), ("-3", 0), ("2", 2), ("99", 4)])
def test_history_is_bounded_by_its_limit(machine: Machine, limit: str, count: int) -> None:
    machine.must("update")
    assert len(machine.json("history", "--limit", limit)["records"]) == count
