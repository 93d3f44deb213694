"""Loading again at boot, and what stops it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from tests.unit.agent.conftest import CVES, Machine, Published, publish
from tests.unit.sample_livepatch import KERNEL, OTHER_BUILD_ID, livepatch


def soak(machine: Machine) -> None:
    """Let the level in force come through its soak."""
    machine.clock.sleep(301)
    machine.must("status")


def reboot(machine: Machine, *, clean: bool = True) -> None:
    if clean:
        machine.must("internal", "note-shutdown")
    machine.kernel.boot()


def without_repository(machine: Machine) -> None:
    """Neither network nor clock is there early at boot."""
    machine.configure('[repository]\nurl = "http://127.0.0.1:1/"\n', "agent.toml.d/9.toml")


def level(machine: Machine) -> int:
    livepatch = machine.json("status")["livepatch"]
    return int(livepatch["level"]) if livepatch is not None else 0


@pytest.fixture
def ready(machine: Machine) -> Machine:
    """Level 1 has soaked."""
    machine.must("update", "--level", "1")
    soak(machine)
    return machine


def test_soaked_level_comes_back_without_network_and_clock(ready: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    reboot(ready)
    without_repository(ready)
    monkeypatch.setattr(type(ready.clock), "now", lambda self: 0)
    assert "level 1 is in force" in ready.must("boot")
    assert level(ready) == 1
    assert "is loaded already" in ready.must("boot")


def test_level_that_has_not_soaked_does_not(ready: Machine) -> None:
    ready.must("update", "--level", "2")
    reboot(ready)
    assert ready.json("boot")["level"] == 1
    reboot(ready)
    assert ready.json("boot")["level"] == 1


def test_nothing_has_soaked(machine: Machine) -> None:
    machine.must("update", "--level", "1")
    reboot(machine)
    assert "no level for this kernel build has come through its soak" in machine.must("boot")
    assert machine.kernel.active() == []


def test_crash_while_it_soaks_again_after_boot(ready: Machine) -> None:
    reboot(ready)
    ready.must("boot")
    reboot(ready, clean=False)
    assert "level 1 is not loaded: in quarantine (crashed)" in ready.must("boot")
    assert ready.kernel.active() == []


def test_crash_with_a_new_level_leaves_the_one_before(ready: Machine) -> None:
    ready.must("update", "--level", "2")
    reboot(ready, clean=False)
    assert ready.json("boot")["level"] == 1
    assert [entry["level"] for entry in ready.json("quarantine")["entries"]] == [2]


def test_crash_with_a_level_that_had_soaked_suspects_all_its_fixes(ready: Machine) -> None:
    """A host that went down twice is not tried a third time: it comes up without a livepatch, and a person decides."""
    ready.must("update", "--level", "2")
    soak(ready)
    reboot(ready)
    assert ready.json("boot")["level"] == 2
    reboot(ready, clean=False)
    assert ready.json("boot")["level"] == 0
    assert ready.kernel.active() == []


def test_level_that_a_person_took_off_stays_off(ready: Machine) -> None:
    ready.must("unload", "--no-wait")
    reboot(ready)
    assert "unloaded by a person" in ready.must("boot")
    assert ready.kernel.active() == []


def test_damaged_record_is_left_alone(ready: Machine) -> None:
    (module,) = (ready.paths.state / "levels").glob("*.ko")
    module.write_bytes(module.read_bytes()[:-1] + b"x")
    reboot(ready)
    assert "not kept whole" in ready.must("boot")
    (manifest,) = (ready.paths.state / "levels").glob("*.json")
    document = json.loads(manifest.read_text())
    document["module"]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(document))
    assert "no level for this kernel build" in ready.must("boot")
    assert ready.kernel.active() == []


def test_other_kernel_build(ready: Machine) -> None:
    ready.must("internal", "note-shutdown")
    ready.kernel.boot(build_id="cd" * 20)
    assert "no level for this kernel build" in ready.must("boot")


def test_kdump_kernel_does_nothing(ready: Machine) -> None:
    reboot(ready)
    ready.kernel.write("vmcore", "")
    assert ready.run("boot") == 3
    assert ready.kernel.active() == []


def test_transition_that_takes_long_does_not_hold_the_boot_up(ready: Machine) -> None:
    reboot(ready)
    ready.kernel.hold_transitions(hold=True)
    assert "its transition is not over" in ready.must("boot")
    assert ready.json("status")["state"] == "transitioning"


@pytest.mark.parametrize("words", ["kmend=no-apply", "quiet kmend=off", "kmend=no-aply", "kmend=on kmend=off"])
def test_command_line_stops_every_load(ready: Machine, words: str) -> None:
    ready.kernel.write("cmdline", f"root=/dev/vda1 {words}")
    for command in (("update",), ("update", "--level", "2")):
        assert ready.run(*command) == 30
        assert words.split()[-1] in ready.err
    assert ready.run("check") == (30 if words.endswith("off") else 0)
    assert level(ready) == 1, "what is loaded stays"
    assert words.split()[-1] in ready.must("status")
    ready.must("unload", "--no-wait")
    ready.kernel.boot()
    ready.kernel.write("cmdline", f"root=/dev/vda1 {words}")
    assert ready.run("boot") == 30
    assert ready.kernel.active() == []


def test_last_parameter_counts(ready: Machine) -> None:
    ready.kernel.write("cmdline", "kmend=off kmend=on")
    ready.must("update", "--level", "2")


def test_file_stops_every_load(ready: Machine) -> None:
    ready.must("update", "--level", "2")
    path = ready.paths.config / "no-apply"
    path.write_text("moving the data centre\nsecond line")
    assert ready.run("rollback") == 30
    assert ready.run("update") == 30
    assert "moving the data centre)" in ready.err
    assert ready.json("status", "--exit-code")["state"] == "soaking"
    assert ready.status == 30
    path.unlink()
    path.symlink_to(Path("/nowhere"))
    assert ready.run("update") == 30
    path.unlink()
    ready.must("update")


def test_file_is_looked_at_right_before_the_load(machine: Machine) -> None:
    machine.configure(
        '[hooks]\nbefore = ["touch ' + str(machine.paths.config / "no-apply") + '"]\n', "agent.toml.d/9.toml"
    )
    assert machine.run("update") == 30
    assert machine.kernel.noted("loads") == []


def test_a_pinned_date_holds_at_boot_after_a_check_that_found_nothing_for_this_kernel(
    ready: Machine, published: Published, tmp_path: Path
) -> None:
    other = livepatch(1, CVES[:1], kernel=dataclasses.replace(KERNEL, build_id=OTHER_BUILD_ID))
    publish(tmp_path / "other", published.keys, [other])
    ready.configure(f'[repository]\nurl = "{(tmp_path / "other").as_uri()}"\n', "agent.toml.d/9.toml")
    shutil.rmtree(ready.paths.state / "repository")
    ready.run("check")
    assert ready.json("status")["supported"] is False
    ready.configure('[apply]\npin_date = "2020-01-01"\n', "agent.toml.d/8.toml")
    reboot(ready)
    assert "pin" in ready.must("boot")
    assert level(ready) == 0
