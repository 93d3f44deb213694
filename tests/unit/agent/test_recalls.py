"""What a host does with a recall: loads it no more, nor at boot, and takes it off."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from tests.unit.agent.conftest import CVES, Machine, Published, configure_for, publish
from tests.unit.sample_livepatch import livepatch

from kmend.core.manifest import Manifest
from kmend.core.recall import Extent
from kmend.trust.signing.keyfiles import KeyFolder
from kmend.trust.signing.publishing import Publisher


class Shop:
    """A repository of the test's own with three levels, each with one fix more."""

    def __init__(self, folder: Path, published: Published) -> None:
        self.folder = folder
        self.keys = published.keys
        built = [livepatch(number, CVES[:number], base=number - 1 or None) for number in (1, 2, 3)]
        publish(folder, self.keys, built)
        self.levels: dict[int, Manifest] = {item[0].level: item[0] for item in built}

    @property
    def publisher(self) -> Publisher:
        now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
        return Publisher(self.folder, KeyFolder(self.keys, lambda path: b""), now=now)

    def recall_fix_of(self, level: int, extent: Extent = Extent.REVERT) -> None:
        """Recall the fix that came with a level."""
        self.publisher.recall(extent, "it crashes hosts", fix=self.levels[level].fixes[-1].digest)

    def recall_level(self, level: int, extent: Extent = Extent.REVERT) -> None:
        """Recall one level."""
        build_id = self.levels[level].kernel.build_id
        self.publisher.recall(extent, "it crashes hosts", build_id=build_id, level=level)


@pytest.fixture
def shop(machine: Machine, tmp_path: Path, published: Published) -> Shop:
    shop = Shop(tmp_path / "shop", published)
    configure_for(machine, shop.folder, published.root)
    return shop


def levels(machine: Machine) -> list[str]:
    return [name.split("_")[1] for name in machine.kernel.active()]


def soaked(machine: Machine, level: int) -> None:
    machine.must("update", "--level", str(level))
    machine.clock.sleep(400)
    machine.must("status")


@pytest.mark.parametrize("extent", list(Extent))
def test_what_is_recalled_is_not_loaded_by_anybody(machine: Machine, shop: Shop, extent: Extent) -> None:
    shop.recall_fix_of(3, extent)
    machine.must("update")
    assert levels(machine) == ["2"]
    document = machine.json("status", "--exit-code")
    assert machine.status == 30
    assert document["blocked"][0]["recalled"]
    assert [item["code"] for item in document["conditions"]] == ["recalled"]
    assert machine.run("update", "--level", "3") == 30
    assert "recalled by its publisher" in machine.err
    assert "it crashes hosts" in machine.err
    shop.publisher.withdraw(1)
    machine.must("update")
    assert levels(machine) == ["3"]


@pytest.mark.parametrize(("extent", "expected"), [(Extent.STOP_NEW, ["3"]), (Extent.STOP_REAPPLY, ["2"])])
def test_at_boot(machine: Machine, shop: Shop, extent: Extent, expected: list[str]) -> None:
    soaked(machine, 2)
    soaked(machine, 3)
    shop.recall_level(3, extent)
    machine.must("check")
    assert levels(machine) == ["3"]
    machine.kernel.boot()
    machine.must("boot")
    assert levels(machine) == expected


def test_revert_goes_back_to_the_level_before(machine: Machine, shop: Shop) -> None:
    soaked(machine, 2)
    soaked(machine, 3)
    shop.recall_fix_of(3)
    machine.must("update")
    assert levels(machine) == ["2"]
    # The recall holds it back, and nothing else.
    assert machine.json("quarantine")["entries"] == []
    assert machine.run("update") == 30
    assert "takes a recall back" in machine.err
    assert levels(machine) == ["2"]


def test_revert_of_an_early_fix_leaves_nothing(machine: Machine, shop: Shop) -> None:
    soaked(machine, 3)
    shop.recall_fix_of(1)
    machine.must("update")
    assert levels(machine) == []
    assert machine.json("status", "--exit-code")["summary"] == "blocked"


def test_a_newer_level_without_the_fix_comes_first(machine: Machine, shop: Shop) -> None:
    soaked(machine, 3)
    shop.recall_fix_of(3)
    without, module = livepatch(4, CVES[:2], base=3)
    publish(shop.folder, shop.keys, [(without, module)])
    machine.must("update")
    assert levels(machine) == ["4"]


def test_policy_may_only_report(machine: Machine, shop: Shop) -> None:
    soaked(machine, 3)
    machine.configure('[policy]\nrecall = "report"\n', "agent.toml.d/recall.toml")
    shop.recall_fix_of(3)
    machine.must("update")
    assert "this host's policy leaves it loaded" in machine.err
    assert levels(machine) == ["3"]
    document = machine.json("status", "--exit-code")
    assert machine.status == 30
    assert "what is loaded: one of its fixes is recalled" in document["conditions"][0]["message"]


def test_rollback_does_not_go_to_what_is_recalled(machine: Machine, shop: Shop) -> None:
    soaked(machine, 2)
    soaked(machine, 3)
    shop.recall_level(2)
    machine.must("check")
    assert machine.run("rollback") == 3
    assert "recalled by its publisher" in machine.err
    assert levels(machine) == ["3"]


def test_a_recall_while_its_transition_hangs(machine: Machine, shop: Shop) -> None:
    soaked(machine, 2)
    machine.kernel.hold_transitions(hold=True)
    assert machine.run("update") == 20
    shop.recall_fix_of(3)
    machine.run("update")
    machine.kernel.hold_transitions(hold=False)
    machine.run("update")
    machine.must("status")
    assert levels(machine) == ["2"]


def test_damaged_record_of_recalls_is_set_aside_and_fetched_again(machine: Machine, shop: Shop) -> None:
    shop.recall_fix_of(3)
    machine.must("check")
    path = machine.paths.state / "recalls.json"
    path.write_text("{")
    machine.must("update")
    assert levels(machine) == ["2"]
    assert path.with_name("recalls.json.corrupt-1").exists()


def test_revert_of_a_level_goes_back_and_is_told_as_what_it_is(machine: Machine, shop: Shop) -> None:
    soaked(machine, 2)
    soaked(machine, 3)
    shop.recall_level(3)
    machine.must("update")
    assert levels(machine) == ["2"]
    assert machine.json("quarantine")["entries"] == []
    assert "by a person" not in machine.must("history")
    assert "recall: about to load level 2" in machine.must("history")


def test_revert_does_not_wait_for_a_level_that_cannot_be_loaded(machine: Machine, shop: Shop) -> None:
    soaked(machine, 2)
    soaked(machine, 3)
    shop.recall_fix_of(3)
    publish(shop.folder, shop.keys, [livepatch(4, CVES[:2], base=3)])
    machine.kernel.refuse(8)
    machine.must("update")
    assert levels(machine) == ["2"]


def test_revert_turns_a_hanging_transition_round_at_once(machine: Machine, shop: Shop) -> None:
    soaked(machine, 2)
    machine.kernel.hold_transitions(hold=True)
    assert machine.run("update") == 20
    shop.recall_fix_of(3)
    machine.must("update")
    assert levels(machine) == ["2"]
