"""The commands, end to end, against a real repository and a simulated kernel."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
from tests.unit.agent.conftest import Machine, Published, configure_for, publish
from tests.unit.sample_livepatch import OTHER_BUILD_ID, fix, livepatch

from kmend.agent.recovery import TAINT_DIE
from kmend.trust.signing import modules


def lockdown(machine: Machine) -> None:
    """As under Secure Boot."""
    path = machine.paths.sys / "kernel/security/lockdown"
    path.parent.mkdir(parents=True)
    path.write_text("none [integrity] confidentiality")


def only(machine: Machine) -> str:
    """The one active livepatch."""
    (name,) = machine.kernel.active()
    return name


def test_status_of_a_fresh_host_is_an_error_until_it_has_checked(machine: Machine) -> None:
    document = machine.json("status", "--exit-code")
    assert machine.status == 60
    assert document["livepatch"] is None
    assert document["last_check"] is None
    machine.must("check")
    assert machine.run("status", "--exit-code") == 10
    assert "level 3: CVE-2026-1001, CVE-2026-1002, CVE-2026-1003" in machine.out
    assert machine.kernel.active() == []


def test_update_loads_the_newest_level(machine: Machine, published: Published) -> None:
    machine.must("update")
    assert only(machine) == published.levels[3].module.name
    loaded = machine.kernel.noted("loads")
    digest, signature = loaded[0].split()
    assert digest == published.levels[3].module.sha256
    assert int(signature) > 200
    document = machine.json("status", "--exit-code")
    assert machine.status == 0
    assert document["summary"] == "current"
    assert document["state"] == "soaking"
    assert [item["verdict"] for item in document["cves"]] == ["live-patched"] * 3
    assert (machine.paths.run / "cvelist").read_text().split() == ["CVE-2026-1001", "CVE-2026-1002", "CVE-2026-1003"]
    assert json.loads((machine.paths.run / "state.json").read_text())["summary"] == "current"
    assert "in force" in machine.must("update")
    assert len(machine.kernel.noted("loads")) == 1


def test_a_newer_level_replaces_and_the_old_module_goes_after_its_delay(machine: Machine, published: Published) -> None:
    one, two = (published.levels[number].module.name for number in (1, 2))
    machine.must("update", "--level", "1")
    machine.must("update", "--level", "2")
    assert only(machine) == two
    assert machine.kernel.resident() == [one, two]
    machine.clock.sleep(50)
    machine.must("status")
    assert machine.kernel.resident() == [one, two]
    machine.clock.sleep(12)
    machine.must("status")
    assert machine.kernel.resident() == [two]


def test_soak_settles_and_is_remembered(machine: Machine) -> None:
    machine.must("update")
    machine.clock.sleep(301)
    assert machine.json("status")["state"] == "steady"
    events = [record["event"] for record in machine.json("history")["records"]]
    assert events == ["arm", "begin_loading", "begin_transition", "begin_soak", "settle"]


def test_an_oops_while_soaking_condemns_the_level(machine: Machine) -> None:
    machine.must("update")
    machine.kernel.write("sys/kernel/tainted", str(TAINT_DIE))
    document = machine.json("status", "--exit-code")
    assert machine.status == 50
    assert document["quarantine"][0]["cause"] == "oopsed"
    assert "oops" in document["notes"][0]["message"]
    assert machine.run("unload") == 3
    assert "oops" in machine.err


def test_rollback_replaces_and_holds(machine: Machine, published: Published) -> None:
    machine.must("update", "--level", "1")
    machine.must("update", "--level", "3")
    machine.clock.sleep(61)
    out = machine.must("rollback")
    assert "level 1 is in force" in out
    assert "(replace)" in out
    assert "CVE-2026-1002, CVE-2026-1003" in machine.err
    assert only(machine) == published.levels[1].module.name
    assert machine.run("update") == 30
    assert "rolled back by a person" in machine.err
    assert machine.run("status", "--exit-code") == 30
    machine.must("quarantine", "clear")
    assert machine.run("status", "--exit-code") == 10
    machine.clock.sleep(61)
    machine.must("update")
    assert only(machine) == published.levels[3].module.name


def test_rollback_waits_for_a_module_that_lingers(machine: Machine, published: Published) -> None:
    machine.must("update", "--level", "1")
    machine.must("update", "--level", "2")
    before = machine.clock.uptime()
    machine.must("rollback")
    assert "it can be removed in" in machine.err
    assert machine.clock.uptime() - before >= 59
    assert only(machine) == published.levels[1].module.name
    assert machine.kernel.noted("removals") == [published.levels[1].module.name]


def test_update_waits_for_its_own_module_that_lingers(machine: Machine, published: Published) -> None:
    machine.must("update", "--level", "2")
    machine.must("unload", "--no-wait")
    name = published.levels[2].module.name
    assert name in machine.json("status")["resident_modules"]
    machine.must("update", "--level", "2")
    assert "still resident from before" in machine.err
    assert machine.json("status")["livepatch"]["module"] == name


def test_rollback_with_a_gap_prints_the_unprotected_seconds(machine: Machine, published: Published) -> None:
    machine.must("update")
    document = machine.json("rollback", "--to", "2", "--unload-first")
    assert machine.status == 0
    assert document["way"] == "unload-then-load"
    assert document["unprotected_seconds"] >= 0
    assert only(machine) == published.levels[2].module.name


def test_rollback_without_an_earlier_level_names_unload(machine: Machine) -> None:
    machine.must("update", "--level", "1")
    assert machine.run("rollback") == 3
    assert "kmend unload" in machine.err


def test_rollback_falls_back_to_the_repository(machine: Machine, published: Published) -> None:
    machine.must("update")
    machine.must("rollback")
    assert only(machine) == published.levels[2].module.name


@pytest.mark.parametrize("number", ["3", "7"])
def test_rollback_is_not_a_way_forward(machine: Machine, number: str) -> None:
    machine.must("update")
    assert machine.run("rollback", "--to", number) == 3
    assert "not older" in machine.err


def test_update_is_not_a_way_back(machine: Machine) -> None:
    machine.must("update")
    assert machine.run("update", "--level", "1") == 30
    assert "kmend rollback --to 1" in machine.err


def test_update_to_a_level_that_does_not_exist(machine: Machine) -> None:
    assert machine.run("update", "--level", "9") == 3
    assert "it has 1, 2, 3" in machine.err
    assert machine.json("status")["supported"] is True


def test_unload_removes_the_module_and_holds(machine: Machine) -> None:
    machine.must("update")
    out = machine.must("unload")
    assert "its module is removed" in out
    assert machine.kernel.active() == []
    assert machine.kernel.resident() == []
    assert machine.run("update") == 30
    machine.must("update", "--level", "3")
    assert machine.json("quarantine")["entries"] == []


def test_unload_without_waiting_leaves_the_module_to_later(machine: Machine) -> None:
    machine.must("update")
    machine.must("unload", "--no-wait")
    assert len(machine.kernel.resident()) == 1
    machine.clock.sleep(62)
    machine.must("check")
    assert machine.kernel.resident() == []


def test_pinned_module_stays_and_cannot_come_back(machine: Machine, tmp_path: Path, keys: Path) -> None:
    repository = tmp_path / "pinned"
    publish(repository, keys, [livepatch(1, ["CVE-2026-2001"], pinned=["patches do_exit"])])
    publish(repository, keys, [livepatch(2, ["CVE-2026-2001", "CVE-2026-2002"], base=1)])
    configure_for(machine, repository, keys / "root.json")
    machine.must("update", "--level", "1")
    machine.must("update")
    machine.clock.sleep(1000)
    machine.must("check")
    assert len(machine.kernel.resident()) == 2
    assert machine.run("rollback") == 3
    assert "not possible on this boot" in machine.err
    assert "reboot" in machine.err


def test_unload_of_a_pinned_level_says_that_its_module_stays(machine: Machine, tmp_path: Path, keys: Path) -> None:
    repository = tmp_path / "pinned"
    publish(repository, keys, [livepatch(1, ["CVE-2026-2001"], pinned=["patches do_exit"])])
    configure_for(machine, repository, keys / "root.json")
    machine.must("update")
    machine.must("unload")
    assert "patches do_exit" in machine.err
    assert len(machine.kernel.resident()) == 1


def test_transition_that_hangs_is_left_to_the_kernel_and_adopted_later(machine: Machine, published: Published) -> None:
    machine.kernel.hold_transitions(hold=True)
    machine.kernel.add_task(77, "stubborn", 0)
    assert machine.run("update") == 20
    assert "stubborn (77)" in machine.err
    document = machine.json("status", "--exit-code")
    assert machine.status == 20
    assert document["livepatch"]["blocking"][0]["stack"][0] == "ep_poll+0x3a0/0x3f0"
    assert {item["verdict"] for item in document["cves"]} == {"pending"}
    assert (machine.paths.run / "cvelist").read_text() == ""
    machine.kernel.hold_transitions(hold=False)
    document = machine.json("status", "--exit-code")
    assert machine.status == 0
    assert "came into force after its command had ended" in machine.err
    assert document["livepatch"]["module"] == published.levels[3].module.name


def test_update_goes_on_with_a_transition_that_was_left(machine: Machine) -> None:
    machine.kernel.hold_transitions(hold=True)
    assert machine.run("update", "--level", "1") == 20
    machine.kernel.hold_transitions(hold=False)
    machine.must("update")
    assert machine.json("status")["livepatch"]["level"] == 3


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EKEYREJECTED, "rejects the module's signature"),
        (errno.ENOKEY, "no key"),
        (errno.EBUSY, "transition is pending"),
        (errno.EINVAL, "not compatible"),
        (errno.E2BIG, "refuses the module"),
    ],
)
def test_kernel_refuses(machine: Machine, code: int, words: str) -> None:
    machine.kernel.refuse(code)
    assert machine.run("update") == 1
    assert words in machine.err
    assert errno.errorcode[code] in machine.err
    assert machine.kernel.active() == []
    assert machine.json("status")["state"] == "idle"
    machine.must("update")


@pytest.mark.parametrize("code", [errno.EPERM, errno.EKEYREJECTED, errno.ENOKEY])
def test_the_certificate_that_would_have_to_be_enrolled_is_named(
    machine: Machine, published: Published, code: int
) -> None:
    lockdown(machine)
    machine.kernel.refuse(code)
    assert machine.run("update") == 1
    certificate = modules.read_certificate((published.keys / "module/module.x509").read_bytes())
    serial = f"{certificate.serial_number:x}"
    serial = serial.zfill(len(serial) + len(serial) % 2)
    assert f"'kmend module signing key' with serial number {serial} (" in machine.err
    assert "mokutil --import" in machine.err
    assert ("locked down" in machine.err) == (code == errno.EPERM)


def test_a_signature_that_nobody_can_read(machine: Machine, published: Published, tmp_path: Path) -> None:
    repository = tmp_path / "mirror"
    shutil.copytree(published.folder, repository)
    for path in repository.glob("signatures/*/*"):
        path.write_bytes(b"\x30\x00")
    configure_for(machine, repository, published.root)
    lockdown(machine)
    machine.kernel.refuse(errno.EPERM)
    assert machine.run("update") == 1
    assert "signature cannot be read" in machine.err


def test_permission_has_other_reasons_where_signatures_are_not_enforced(machine: Machine) -> None:
    machine.kernel.refuse(errno.EPERM)
    assert machine.run("update") == 1
    assert "does not let this process load modules (EPERM)" in machine.err
    assert "SystemCallFilter" in machine.err


def test_rollback_that_the_kernel_refuses_leaves_no_hold(machine: Machine) -> None:
    machine.must("update")
    machine.kernel.refuse(errno.EINVAL)
    assert machine.run("rollback") == 1
    assert "--unload-first" in machine.err
    assert machine.json("quarantine")["entries"] == []
    assert machine.json("status")["livepatch"]["level"] == 3


@pytest.mark.parametrize("part", ["module", "manifest"])
def test_tampered_file_is_refused_and_the_kernel_untouched(
    machine: Machine, published: Published, tmp_path: Path, part: str
) -> None:
    repository = tmp_path / "mirror"
    shutil.copytree(published.folder, repository)
    digest = published.levels[3].module.sha256
    for path in repository.glob("files/*/*"):
        if (path.name == digest) == (part == "module"):
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
    configure_for(machine, repository, published.root)
    assert machine.run("update") == 1
    assert "other content" in machine.err
    assert machine.kernel.noted("loads") == []
    document = machine.json("status", "--exit-code")
    assert machine.status == 60
    assert document["last_check"]["kind"] == "repository-mismatch"


def test_unconfirmed_level_is_condemned(machine: Machine, tmp_path: Path, keys: Path) -> None:
    repository = tmp_path / "lying"
    publish(repository, keys, [livepatch(1, ["CVE-2026-2001"], lie=True)])
    configure_for(machine, repository, keys / "root.json")
    assert machine.run("update") == 1
    assert "does not patch exactly" in machine.err
    assert machine.run("status", "--exit-code") == 60
    assert machine.json("quarantine")["entries"][0]["cause"] == "unconfirmed"


def test_unsupported_kernel(machine: Machine) -> None:
    machine.kernel.boot(build_id=OTHER_BUILD_ID)
    assert machine.run("update") == 40
    assert machine.run("status", "--exit-code") == 40


def test_repository_out_of_reach_keeps_what_was_known(machine: Machine, tmp_path: Path, published: Published) -> None:
    machine.must("update", "--level", "1")
    configure_for(machine, tmp_path / "nowhere", published.root)
    assert machine.run("check") == 1
    document = machine.json("status", "--exit-code")
    assert machine.status == 60
    assert document["available"]["level"] == 3
    assert document["last_check"]["kind"] == "repository-missing"


def test_check_that_is_too_old_is_stale(machine: Machine) -> None:
    machine.must("update")
    machine.clock.sleep(73 * 3600)
    assert machine.run("status", "--exit-code") == 60
    assert "too long ago" in machine.out


def test_foreign_livepatch_is_named_and_refused(machine: Machine) -> None:
    machine.kernel.add_foreign("kpatch_cve")
    assert machine.run("update") == 3
    assert "kpatch_cve" in machine.err
    machine.configure("[policy]\nreplace_foreign = true\n", "agent.toml.d/50-foreign.toml")
    machine.must("update")
    assert "kpatch_cve" not in machine.kernel.active()


def test_level_that_nobody_knows_blocks(machine: Machine, published: Published) -> None:
    machine.kernel._create("kmend_9_0123abcd", {"vmlinux": ["f,1"]}, transition="0")
    assert machine.run("update") == 30
    assert "neither this host nor the repository knows it" in machine.err
    document = machine.json("status")
    assert document["livepatch"]["known"] is False
    assert machine.run("unload") == 3


def test_lost_state_is_rebuilt_from_repository_and_kernel(machine: Machine) -> None:
    machine.must("update", "--level", "2")
    shutil.rmtree(machine.paths.state)
    machine.must("update")
    assert machine.json("status")["livepatch"]["level"] == 3


def test_reboot_takes_everything_off_and_update_loads_again(machine: Machine, published: Published) -> None:
    machine.must("update")
    machine.clock.sleep(400)
    machine.must("status")
    machine.kernel.boot()
    assert machine.run("status", "--exit-code") == 10
    machine.must("update")
    assert only(machine) == published.levels[3].module.name


def test_crash_while_soaking_quarantines_and_falls_back(machine: Machine, published: Published) -> None:
    machine.must("update", "--level", "2")
    machine.clock.sleep(400)
    machine.must("update", "--level", "3")
    machine.kernel.boot()
    document = machine.json("status")
    assert document["quarantine"][0]["level"] == 3
    assert document["quarantine"][0]["fixes"] == [fix("CVE-2026-1003").digest]
    assert "without a clean shutdown" in document["notes"][0]["message"]
    assert document["available"]["level"] == 2
    machine.must("update")
    assert only(machine) == published.levels[2].module.name
    assert machine.run("status", "--exit-code") == 30


def test_clean_shutdown_while_soaking_proves_nothing(machine: Machine) -> None:
    machine.must("update")
    machine.must("internal", "note-shutdown")
    machine.kernel.boot()
    document = machine.json("status")
    assert document["quarantine"] == []
    assert "that proves nothing" in document["notes"][0]["message"]
    machine.must("update")


def test_a_later_level_must_clear_a_condemned_fix(machine: Machine, tmp_path: Path, keys: Path) -> None:
    repository = tmp_path / "clearing"
    publish(repository, keys, [livepatch(1, ["CVE-2026-2001"])])
    configure_for(machine, repository, keys / "root.json")
    machine.must("update")
    machine.kernel.boot()
    machine.must("status")
    publish(repository, keys, [livepatch(2, ["CVE-2026-2001", "CVE-2026-2002"], base=1)])
    assert machine.run("update") == 30
    assert "holds a fix of level 1" in machine.err
    clears = [fix("CVE-2026-2001").digest]
    publish(repository, keys, [livepatch(3, ["CVE-2026-2001", "CVE-2026-2002"], base=2, clears=clears)])
    machine.must("update")
    assert machine.json("status")["livepatch"]["level"] == 3


def test_no_repository_configured(machine: Machine) -> None:
    machine.configure("")
    assert machine.run("check") == 78
    assert machine.run("status", "--exit-code") == 60


def test_broken_configuration_does_not_break_status(machine: Machine) -> None:
    machine.configure("[repository]\nurl = 7\n")
    assert machine.run("update") == 78
    assert machine.run("status", "--exit-code") == 60
    assert "url" in machine.err
    assert "livepatch" in machine.out


def test_errors_are_json_too(machine: Machine) -> None:
    machine.configure("")
    assert machine.json("check")["error"]["kind"] == "config"


def test_without_any_privilege_status_still_tells(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.must("update")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    before = (machine.paths.run / "state.json").stat().st_mtime_ns
    assert "level 3" in machine.must("status")
    assert (machine.paths.run / "state.json").stat().st_mtime_ns == before
