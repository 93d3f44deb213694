"""What other programs read: conditions, published files, metrics, Nagios, reboot-needed."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from pathlib import Path

import pytest
from tests.unit.agent.conftest import CVES, Machine, Published, configure_for
from tests.unit.agent.simulated import SimulatedClock
from tests.unit.sample_livepatch import KERNEL

from kmend.agent import conditions, lock, metrics, nagios, rebooting
from kmend.agent.choice import Obstacle
from kmend.agent.conditions import CODES, SUMMARIES, Seen
from kmend.agent.policy import Rule, Withheld
from kmend.agent.recovery import TAINT_DIE
from kmend.agent.settling import settle

ROOT = Path(__file__).parents[3]
CLEAN = Seen("", "", False, True, False, "", "", (), None)
_SAMPLE = re.compile(r'[a-z_]+(\{[a-z_]+="(?:[^"\\\n]|\\.)*"(,[a-z_]+="(?:[^"\\\n]|\\.)*")*\})? -?[0-9]+')


def codes(machine: Machine) -> list[str]:
    return [item["code"] for item in machine.json("status")["conditions"]]


def test_the_worst_condition_decides_in_the_documented_order() -> None:
    order = list(dict.fromkeys(CODES.values()))
    assert order == [60, 40, 50, 20, 30, 10, 0]
    assert list(reversed(SUMMARIES)) == order
    one = Obstacle(2, "x", rules=(Withheld(Rule.HOLD, None, "x"),))
    values = itertools.product(
        ("", "never-checked", "check-failed", "stale"),
        (False, True),
        (None, True, False),
        (False, True),
        ("", "kmend_1_00000000"),
        ("", "a file"),
        ((), (one,), (Obstacle(3, "y", quarantined=True), Obstacle(2, "z"))),
        (None, 4),
    )
    for check, unconfirmed, supported, oopsed, moving, stopped, obstacles, waiting in values:
        found = conditions.judge(Seen(check, "m", unconfirmed, supported, oopsed, moving, stopped, obstacles, waiting))
        assert [item.code for item in found] == [code for code in CODES if code in {item.code for item in found}]
        code, word = conditions.summary(found)
        assert code == next((code for code in order if code in {item.exit_code for item in found}), 0)
        assert word == SUMMARIES[code]
    assert conditions.judge(CLEAN) == ()


def test_the_page_lists_every_condition_and_metric(machine: Machine) -> None:
    page = (ROOT / "docs/monitoring.md").read_text()
    for code in CODES:
        assert f"`{code}`" in page
    machine.must("update")
    for name in re.findall(r"^# TYPE (\w+) gauge$", machine.must("metrics"), flags=re.M):
        assert f"`{name}" in page
    for member in machine.json("status"):
        assert f"`{member}`" in page or member == "format"


def test_conditions_of_a_host(machine: Machine) -> None:
    assert codes(machine) == ["never-checked"]
    machine.must("check")
    assert codes(machine) == ["update-available"]
    machine.configure("[apply]\nautomatic = false\n", "agent.toml.d/hold.toml")
    machine.must("check")
    assert codes(machine) == ["withheld"]
    (machine.paths.config / "agent.toml.d/hold.toml").unlink()
    machine.must("update")
    assert codes(machine) == []
    machine.must("unload")
    assert codes(machine) == ["quarantined"]
    machine.clock.sleep(73 * 3600)
    assert codes(machine) == ["stale", "quarantined"]


def test_a_failed_check_that_is_stale_too_says_both(machine: Machine, tmp_path: Path, published: Published) -> None:
    machine.must("update")
    configure_for(machine, tmp_path / "nowhere", published.root)
    assert machine.run("check") == 1
    assert codes(machine) == ["check-failed"]
    machine.clock.sleep(73 * 3600)
    (found,) = machine.json("status")["conditions"]
    assert found["code"] == "stale"
    assert "the last check failed" in found["message"]


def test_published_files_are_whole_and_for_everybody(machine: Machine) -> None:
    machine.must("update")
    for name in ("state.json", "cvelist"):
        path = machine.paths.run / name
        assert path.stat().st_mode & 0o777 == 0o644
    assert json.loads((machine.paths.run / "state.json").read_text())["effective_release"].endswith("+0kmend3")
    assert not (machine.paths.run / "effective_version").exists()


def test_effective_version_and_metrics_are_published_when_asked_for(machine: Machine) -> None:
    target = machine.paths.root / "var/lib/prometheus/kmend.prom"
    target.parent.mkdir(parents=True)
    machine.configure(
        '[publish]\neffective_version = true\nprometheus = "/var/lib/prometheus/kmend.prom"\n', "agent.toml.d/p.toml"
    )
    machine.must("update")
    assert (machine.paths.run / "effective_version").read_text() == f"{KERNEL.release}+0kmend3\n"
    assert "kmend_level 3\n" in target.read_text()
    assert list(target.parent.iterdir()) == [target]
    (machine.paths.config / "agent.toml.d/p.toml").unlink()
    machine.must("status")
    assert not (machine.paths.run / "effective_version").exists()


@pytest.mark.parametrize("path", ["relative.prom", "/var/lib/kmend.txt"])
def test_a_path_that_the_collector_would_not_read_is_refused(machine: Machine, path: str) -> None:
    machine.configure(f'[publish]\nprometheus = "{path}"\n', "agent.toml.d/p.toml")
    assert machine.run("update") == 78
    assert ".prom" in machine.err


def test_a_folder_that_is_missing_hinders_nothing(machine: Machine) -> None:
    machine.configure('[publish]\nprometheus = "/nowhere/kmend.prom"\n', "agent.toml.d/p.toml")
    machine.must("update")
    assert "cannot publish" in machine.err
    assert machine.kernel.active() != []
    assert json.loads((machine.paths.run / "state.json").read_text())["summary"] == "current"


def test_the_child_that_settles_publishes_what_it_did(machine: Machine) -> None:
    machine.must("update")
    assert json.loads((machine.paths.run / "state.json").read_text())["state"] == "soaking"
    settle(machine.host)
    assert json.loads((machine.paths.run / "state.json").read_text())["state"] == "steady"


def test_a_transition_that_takes_its_time_is_published_while_it_is_watched(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = SimulatedClock.sleep

    def sleep(clock: SimulatedClock, seconds: float) -> None:
        path = machine.paths.run / "state.json"
        seen.append(json.loads(path.read_text())["summary"] if path.exists() else "")
        real(clock, seconds)

    machine.kernel.hold_transitions(hold=True)
    monkeypatch.setattr(SimulatedClock, "sleep", sleep)
    assert machine.run("update") == 20
    assert list(dict.fromkeys(seen)) == ["", "pending"]


def test_metrics_are_well_formed(machine: Machine) -> None:
    for command in ("check", "update"):
        machine.must(command)
        text = machine.must("metrics")
        names: list[str] = []
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                names.append(line.split()[2])
            elif not line.startswith("# HELP "):
                assert _SAMPLE.fullmatch(line), line
                assert line.startswith(names[-1])
        assert len(names) == len(set(names))
        # What promtool check metrics complains of: names of types, and suffixes of other types.
        assert not [
            name for name in names if re.search(r"_(gauge|counter|summary|histogram|total|count|sum)(_|$)", name)
        ]
    assert 'kmend_cves{verdict="live-patched"} 3' in text
    assert 'kmend_host_state{state="current"} 1' in text
    assert 'kmend_condition{condition="stale"} 0' in text
    machine.clock.sleep(73 * 3600)
    assert 'kmend_condition{condition="stale"} 1' in machine.must("metrics")


def test_labels_are_escaped() -> None:
    assert metrics._family("a", "b", [({"c": 'x"y\\z\n'}, 1)]).splitlines()[-1] == r'a{c="x\"y\\z\n"} 1'


def test_nagios_lines(machine: Machine) -> None:
    assert machine.run("nagios") == 3
    assert machine.out.startswith("KMEND UNKNOWN - the repository was never asked; no livepatch is loaded | level=0 ")
    machine.must("check")
    assert machine.run("nagios") == 1
    assert "KMEND WARNING - level 3 is available" in machine.out
    machine.must("update")
    assert machine.run("nagios") == 0
    line = (
        "KMEND OK - level 3 in force, 3 CVEs live-patched | level=3 live_patched=3;;;0 available=0;;;0 withheld=0;;;0 "
    )
    assert machine.out.startswith(line)
    assert machine.out.count("\n") == 1
    assert "check_age=" in machine.out
    machine.clock.sleep(73 * 3600)
    assert machine.run("nagios") == 2
    assert machine.run("nagios", "--warning", "stale") == 1
    assert machine.run("nagios", "--ok", "stale,withheld") == 0
    assert machine.run("nagios", "--ok", "nonsense") == 3
    assert "'nonsense' is not a condition" in machine.out


def test_nagios_says_unknown_where_nothing_can_be_told(machine: Machine) -> None:
    (machine.paths.sys / "kernel/notes").unlink()
    assert machine.run("nagios") == 3
    assert machine.out.startswith("KMEND UNKNOWN - cannot read /sys/kernel/notes")


def test_nobody_who_looks_waits_for_a_command_that_is_at_work(machine: Machine) -> None:
    machine.must("update")
    before = machine.clock.uptime()
    with lock.held(machine.paths.run / "lock", "update", machine.clock):
        for command in ("nagios", "metrics", "patches", "cves", "uname", "verify", "doctor"):
            machine.must(command)
        assert machine.run("reboot-needed") == 1
    assert machine.clock.uptime() == before


def test_a_configuration_that_this_account_may_not_read(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold a login; monitoring works from the state all the same."""
    machine.must("update")
    path = machine.paths.config / "agent.toml"
    path.unlink()
    path.mkdir()  # root may read every file, but no folder as one
    assert machine.run("nagios") == 0
    assert "cannot read" in machine.err


def test_nagios_text_stays_on_its_line() -> None:
    _, line = nagios.broken("a | b\nc" + "x" * 5000)
    assert "|" not in line
    assert "\n" not in line
    assert len(line) < 1100


def flag(machine: Machine, *packages: str) -> None:
    (machine.paths.root / "run/reboot-required").write_text("*** System restart required ***\n")
    (machine.paths.root / "run/reboot-required.pkgs").write_text("".join(f"{name}\n" for name in packages))


def test_reboot_needed_with_nobody_asking(machine: Machine) -> None:
    assert machine.run("reboot-needed") == 1
    assert "nothing asks" in machine.out
    assert machine.run("reboot-needed", "--new-kernel") == 0
    machine.must("update")
    assert machine.run("reboot-needed", "--new-kernel") == 1
    assert machine.json("reboot-needed")["verdict"] == "no"


def test_reboot_needed_for_a_kernel_is_not_while_this_host_is_current(machine: Machine) -> None:
    flag(machine, "linux-image-6.1.0-56-cloud-amd64", "linux-base", "linux-image-6.1.0-56-cloud-amd64")
    assert machine.run("reboot-needed") == 0
    machine.must("update")
    assert machine.run("reboot-needed") == 1
    assert "level 3 is in force" in machine.out
    assert machine.run("reboot-needed", "--ignore-livepatch") == 0
    document = machine.json("reboot-needed")
    assert document["verdict"] == "live-patched"
    assert document["packages"] == ["linux-image-6.1.0-56-cloud-amd64", "linux-base"]
    assert (machine.paths.root / "run/reboot-required").exists()
    machine.must("unload")
    assert machine.run("reboot-needed") == 0


def test_status_names_a_restart_that_waits(machine: Machine) -> None:
    assert "restart" not in machine.must("status")
    flag(machine, "linux-image-6.1.0-56-cloud-amd64")
    assert "restart     needed: a new kernel asks for a restart" in machine.must("status")
    machine.must("update")
    assert "restart     not needed: only a new kernel" in machine.must("status")


def test_check_ends_with_the_state_when_asked(machine: Machine) -> None:
    assert machine.run("check", "--exit-code") == 10
    machine.must("update")
    assert machine.run("check", "--exit-code") == 0


def test_reboot_needed_for_others(machine: Machine) -> None:
    machine.must("update")
    flag(machine, "linux-image-6.1.0-56-cloud-amd64", "libc6")
    assert machine.run("reboot-needed") == 0
    assert "libc6" in machine.out
    flag(machine)
    assert machine.run("reboot-needed") == 0
    assert "not recorded" in machine.out


def test_reboot_needed_after_an_oops_and_unknown(machine: Machine) -> None:
    machine.must("update")
    machine.kernel.write("sys/kernel/tainted", str(TAINT_DIE))
    assert machine.run("reboot-needed") == 0
    (machine.paths.sys / "kernel/notes").unlink()
    assert machine.run("reboot-needed") == 2


def test_reboot_packages_are_bounded_and_plain(machine: Machine) -> None:
    flag(machine, "\x1b[31mevil", *(f"p{number}" for number in range(5000)), "x" * 5000)
    found = rebooting.asked(machine.paths)
    assert found is not None
    assert len(found) == rebooting.MAX_PACKAGES
    assert found[0] == "??31mevil"
    assert max(map(len, found)) <= 100


@pytest.mark.parametrize(("status", "hints"), [(0, "1"), (1, "0"), (2, "1")])
def test_needrestart_is_told(tmp_path: Path, status: int, hints: str) -> None:
    """Evaluated as needrestart does it (`eval` of the file's text, with `%nrconf` in scope)."""
    command = tmp_path / "kmend"
    command.write_text(f"#!/bin/sh\n[ \"$*\" = 'reboot-needed --new-kernel' ] || exit 9\nexit {status}\n")
    command.chmod(0o755)
    text = (ROOT / "packaging/integrations/needrestart-kmend.conf").read_text().replace("/usr/bin/kmend", str(command))
    (tmp_path / "x.conf").write_text(text)
    script = (
        "use strict; use warnings; our %nrconf = (kernelhints => 1); my $fn = shift; "
        "eval do { local(@ARGV, $/) = $fn; <>}; die $@ if($@); print $nrconf{kernelhints};"
    )
    done = subprocess.run(
        ["perl", "-e", script, tmp_path / "x.conf"], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == (hints, "")


def test_examples_name_commands_that_exist(machine: Machine) -> None:
    for path in sorted((ROOT / "packaging/integrations").iterdir()):
        for words in re.findall(r"/usr/bin/kmend ((?:[a-z]+[a-z-]*|--[a-z-]+)(?: --[a-z-]+)*)", path.read_text()):
            assert machine.run(*words.split()) in (0, 1, 2, 3), path
            assert "usage:" not in machine.err


def test_counting_cves_once(machine: Machine) -> None:
    machine.must("update", "--level", "1")
    machine.must("check")
    text = machine.must("metrics")
    assert 'kmend_cves{verdict="live-patched"} 1' in text
    assert f'kmend_cves{{verdict="available"}} {len(CVES) - 1}' in text


@pytest.mark.parametrize("words", [["--sternly"], ["--critical"], ["everything"], ["--critical", "doom"]])
def test_a_check_that_is_called_wrongly_is_unknown_and_not_critical(machine: Machine, words: list[str]) -> None:
    assert machine.run("nagios", *words) == 3
    assert machine.out.startswith("KMEND UNKNOWN - ")
