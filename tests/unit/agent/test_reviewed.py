"""What a review of the host side found, in the agent: enrolment that was interrupted, servers that lie or are made anew."""

# ruff: noqa: F401, F811 - a fixture of a neighbour

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from tests.unit.agent.director import KEY, refusal
from tests.unit.agent.test_led import Fleet, fleet
from tests.unit.sample_livepatch import BUILD_ID

from kmend.agent import enrolling
from kmend.agent.config import Config
from kmend.agent.configfiles import read_config
from kmend.agent.conversation import MAX_LEAP
from kmend.agent.identity import Counter, Credentials, Identity
from kmend.agent.led import LEAST_LOOK_SECONDS, LOOK_SECONDS, LOOKS_AT_ONCE
from kmend.agent.paths import Paths
from kmend.agent.service import Service
from kmend.core.document import decode, encode
from kmend.core.wire import CHECK_IN_PATH, MAX_COUNTER, CheckIn, Offer

NOW = datetime.datetime.now(datetime.timezone.utc)
MOST_THREADS = 2


class KilledError(BaseException):
    """The process is gone."""


def killed(*given: object) -> None:
    raise KilledError


# Enrolment


def test_an_enrolment_that_was_killed_before_it_wrote_the_configuration_is_finished(
    fleet: Fleet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as once:
        once.setattr(enrolling, "_configure", killed)
        with pytest.raises(KilledError):
            fleet.machine.run("enrol", "--server", fleet.url, "--key", KEY)
    assert fleet.enrol() == 0
    assert read_config(fleet.machine.paths.config).server.url == fleet.url
    assert len(fleet.director.rows) == 1
    fleet.run(60)
    assert fleet.check_ins > 0


def test_a_key_that_is_in_use_is_not_the_coming_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = Paths(tmp_path / "host")
    credentials = Credentials(paths)
    seed = credentials.coming_seed("aa" * 32)
    real = Credentials._remove
    with monkeypatch.context() as once:
        once.setattr(Credentials, "_remove", lambda self, name: killed() if name == "coming.key" else real(self, name))
        with pytest.raises(KilledError):
            credentials.keep(Identity("1" * 32, "5e" * 16, "https://x", "aa" * 32), seed)
    again = Credentials(paths)
    assert again.identity() is not None
    assert again.seed() == seed
    coming = again.coming_seed("aa" * 32)
    assert coming != seed
    assert again.coming_seed("aa" * 32) == coming, "until the answer has come"


def test_another_identity_has_a_counter_of_its_own(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "host")
    credentials = Credentials(paths)
    credentials.keep(Identity("1" * 32, "5e" * 16, "https://x", "aa" * 32), credentials.coming_seed("aa" * 32))
    credentials.counter_behind(MAX_LEAP)
    assert credentials.next_counter() == MAX_LEAP + 1
    credentials.keep(Identity("2" * 32, "5e" * 16, "https://x", "aa" * 32), credentials.coming_seed("aa" * 32))
    assert credentials.next_counter() == 1


# A server that lies


def test_a_lie_about_the_counter_harms_nobody(fleet: Fleet) -> None:
    fleet.enrol()
    for named in (MAX_COUNTER - 2, MAX_LEAP + 1000):
        lie = encode(refusal("counter-behind", 409, named))
        fleet.director.meddle = lambda path, status, content, lie=lie: (409, lie) if path == CHECK_IN_PATH else None
        fleet.run(3600)
        assert decode(Counter, (fleet.paths / "counter.json").read_bytes()).value < 1000
        assert "which no host comes to" in " ".join(fleet.machine.must("status").split())
    fleet.director.meddle = None
    before = fleet.check_ins
    fleet.run(3600)
    assert fleet.check_ins > before + 2
    assert fleet.machine.json("status")["conditions"][0]["code"] == "not-offered"


def test_a_counter_that_a_server_drove_up_is_left_with_that_server(fleet: Fleet) -> None:
    fleet.enrol()
    lie = encode(refusal("counter-behind", 409, MAX_LEAP))
    fleet.director.meddle = lambda path, status, content: (409, lie) if path == CHECK_IN_PATH else None
    fleet.run(60)
    fleet.director.meddle = None
    assert decode(Counter, (fleet.paths / "counter.json").read_bytes()).value >= MAX_LEAP
    assert fleet.enrol("--again") == 0
    fleet.run(60)
    sent = [decode(CheckIn, body).counter for path, _, body in fleet.director.received if path == CHECK_IN_PATH]
    assert sent[-1] < 100


@pytest.fixture
def looks(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the service looked at the repository."""
    found: list[float] = []
    real = Service._look

    def look(self: Service, config: Config) -> float:
        found.append(fleet.clock.uptime())
        return real(self, config)

    monkeypatch.setattr(Service, "_look", look)
    return found


def test_a_server_that_wants_to_be_left_alone_for_days_keeps_nobody_from_the_repository(
    fleet: Fleet,
    looks: list[float],
) -> None:
    fleet.enrol()
    fleet.director.next = 7 * 86_400
    begin = fleet.clock.uptime()
    fleet.run(5 * 86_400)
    assert len(looks) >= 4
    assert max(later - earlier for earlier, later in zip([begin, *looks], looks, strict=False)) < LOOK_SECONDS + 3600


def test_a_server_that_names_another_timestamp_has_nobody_ask_the_repository_without_pause(
    fleet: Fleet,
    looks: list[float],
) -> None:
    fleet.enrol()
    fleet.director.next = 5
    fleet.director.timestamp = "nothing of the kind"
    fleet.run(600)
    assert 5 <= len(looks) <= 600 / LEAST_LOOK_SECONDS + LOOKS_AT_ONCE


def test_an_offer_is_followed_at_once_also_after_other_looks(fleet: Fleet, looks: list[float]) -> None:
    fleet.enrol()
    fleet.director.next = 10
    fleet.run(30)
    before = len(looks)
    fleet.director.offer(Offer(BUILD_ID, 1))
    fleet.run(12)
    assert len(looks) == before + 1


def test_an_offer_that_came_too_early_for_a_look_is_not_forgotten(
    fleet: Fleet, looks: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kmend.agent.led.LOOKS_AT_ONCE", 1)
    fleet.enrol()
    fleet.director.next = 10
    fleet.run(12)
    before = len(looks)
    fleet.director.offer(Offer(BUILD_ID, 1))
    fleet.run(LEAST_LOOK_SECONDS + 15)
    assert len(looks) == before + 1
