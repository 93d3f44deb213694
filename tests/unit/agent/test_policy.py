"""The host's policy: windows over clock changes, holds and pins, as properties."""

from __future__ import annotations

import datetime
import zoneinfo
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.agent.conftest import CVES, Machine, Published, configure_for, publish
from tests.unit.sample_livepatch import livepatch

from kmend.agent.policy import ApplyPolicy, Publication, Rule, hold_seconds, released, withholding
from kmend.core import windows
from kmend.core.errors import MalformedError
from kmend.core.windows import DAYS, Window, parse_window, span

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca")
YEAR = 366 * 86_400
days = st.dates(datetime.date(2020, 1, 1), datetime.date(2035, 12, 31))
any_window = st.builds(
    Window,
    st.lists(st.integers(0, 6), min_size=1, unique=True).map(lambda chosen: tuple(sorted(chosen))),
    st.integers(0, 1439),
    st.integers(1, 1440),
)
instants = st.integers(1_600_000_000, 2_000_000_000)


def berlin(text: str) -> int:
    """An instant, by its offset from UTC."""
    return int(datetime.datetime.fromisoformat(text).timestamp())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("02:00-05:00", Window(tuple(range(7)), 120, 180)),
        ("Sat,Sun 22:00-04:00", Window((5, 6), 1320, 360)),
        ("Fri-Mon 00:00-24:00", Window((0, 4, 5, 6), 0, 1440)),
        ("mon 23:30 - 00:15", Window((0,), 1410, 45)),
    ],
)
def test_windows_are_read(text: str, expected: Window) -> None:
    assert parse_window(text) == expected


@pytest.mark.parametrize(
    "text", ["", "02:00", "Xyz 02:00-03:00", "02:00-02:00", "25:00-26:00", "24:00-01:00", "02:00-24:30"]
)
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_window(text)


# Berlin: on 2026-03-29 clocks go from 02:00+01:00 to 03:00+02:00, on 2026-10-25 from 03:00+02:00 to 02:00+01:00.
@pytest.mark.parametrize(
    ("day", "text", "start", "end"),
    [
        ("2026-03-29", "02:30-04:00", "2026-03-29T03:00+02:00", "2026-03-29T04:00+02:00"),
        ("2026-03-29", "02:15-02:45", "2026-03-29T03:00+02:00", "2026-03-29T03:30+02:00"),
        ("2026-03-29", "02:30-03:00", "2026-03-29T03:00+02:00", "2026-03-29T03:30+02:00"),
        ("2026-03-29", "01:00-02:30", "2026-03-29T01:00+01:00", "2026-03-29T03:30+02:00"),
        ("2026-03-28", "22:00-04:00", "2026-03-28T22:00+01:00", "2026-03-29T04:00+02:00"),
        ("2026-10-25", "02:15-02:45", "2026-10-25T02:15+02:00", "2026-10-25T02:45+02:00"),
        ("2026-10-25", "02:30-04:00", "2026-10-25T02:30+02:00", "2026-10-25T04:00+01:00"),
        ("2026-10-25", "00:00-24:00", "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"),
    ],
)
def test_gaps_and_folds(day: str, text: str, start: str, end: str) -> None:
    found = span(parse_window(text), "Europe/Berlin", datetime.date.fromisoformat(day))
    assert found == (berlin(start), berlin(end))


def test_a_day_that_a_zone_left_out_opens_its_window_when_the_clocks_have_leapt() -> None:
    # Samoa had no 2011-12-30.
    start, end = span(parse_window("12:00-13:00"), "Pacific/Apia", datetime.date(2011, 12, 30))
    assert end - start == 3600
    local = datetime.datetime.fromtimestamp(start, zoneinfo.ZoneInfo("Pacific/Apia"))
    assert local.isoformat() == "2011-12-31T00:00:00+14:00"


@given(any_window, st.sampled_from(ZONES), days)
def test_every_day_has_one_window_that_is_not_empty(window: Window, zone: str, day: datetime.date) -> None:
    start, end = span(window, zone, day)
    assert 0 < end - start <= (window.length + 60) * 60
    shown = datetime.datetime.fromtimestamp(start, zoneinfo.ZoneInfo(zone)).replace(tzinfo=None)
    meant = datetime.datetime.combine(day, datetime.time()) + datetime.timedelta(minutes=window.start)
    assert datetime.timedelta(0) <= shown - meant <= datetime.timedelta(hours=1)


@given(st.lists(any_window, min_size=1, max_size=3), st.sampled_from(ZONES), instants)
def test_the_next_opening_is_open_and_the_first(found: list[Window], zone: str, now: int) -> None:
    opening = windows.next_open(found, zone, now)
    assert windows.is_open(found, zone, opening)
    assert now <= opening < now + 9 * 86_400
    if opening > now:
        assert not windows.is_open(found, zone, now)
        assert not windows.is_open(found, zone, opening - 1)
        middle = (now + opening) // 2
        assert not windows.is_open(found, zone, middle)


policies = st.builds(
    ApplyPolicy,
    automatic=st.booleans(),
    hold=st.sampled_from(["0h", "36h", "3d", "366d"]),
    pin_level=st.integers(0, 5),
    pin_date=st.sampled_from(["", "2024-02-29", "2026-10-25"]),
    windows=st.lists(
        st.builds(
            lambda day, start, length: f"{day} {start:02}:30-{(start + length) % 24:02}:30",
            st.sampled_from(DAYS),
            st.integers(0, 23),
            st.integers(1, 23),
        ),
        max_size=2,
    ).map(tuple),
    timezone=st.sampled_from(ZONES),
    channel=st.sampled_from(["", "early"]),
)
publications = st.builds(Publication, st.integers(1, 9), instants, st.sampled_from(["", "early", "other"]))


@given(policies, publications, instants)
def test_what_is_withheld_is_released_at_the_time_that_is_told(
    policy: ApplyPolicy, publication: Publication, now: int
) -> None:
    rules = withholding(policy, publication, now)
    until = released(rules)
    assert all(rule.reason and (rule.until is None or rule.until > now) for rule in rules)
    order = [list(Rule).index(rule.rule) for rule in rules]
    assert order == sorted(set(order))
    if not rules:
        assert until is None
    elif until is None:
        # Only another configuration helps: a year later it is still withheld.
        assert any(rule.until is None for rule in withholding(policy, publication, now + YEAR))
    else:
        assert [rule.rule for rule in withholding(policy, publication, until)] in ([], [Rule.WINDOW])
        if any(rule.rule is Rule.WINDOW for rule in rules) or not policy.windows:
            assert withholding(policy, publication, until) == ()


@given(publications, instants)
def test_the_default_withholds_only_other_channels(publication: Publication, now: int) -> None:
    rules = withholding(ApplyPolicy(), publication, max(now, publication.published))
    assert [rule.rule for rule in rules] == ([Rule.CHANNEL] if publication.channel else [])


@given(policies, publications, instants, st.sampled_from(["0h", "36h"]))
def test_a_shorter_hold_never_withholds_more(
    policy: ApplyPolicy, publication: Publication, now: int, shorter: str
) -> None:
    import dataclasses

    if hold_seconds(shorter) <= hold_seconds(policy.hold):
        less = withholding(dataclasses.replace(policy, hold=shorter), publication, now)
        assert {rule.rule for rule in less} <= {rule.rule for rule in withholding(policy, publication, now)}


@pytest.mark.parametrize(
    "text",
    [
        'hold = "soon"', 'hold = "99999d"', "hold = 3", 'pin_date = "24.11.2026"', 'pin_date = "9999-12-31"', "pin_level = -1",
        'windows = ["whenever"]', 'timezone = "Mars/Olympus"', 'timezone = "../../etc/passwd"', 'channel = "A b"',
        "automatic = 1",
    ],
)  # fmt: skip
def test_a_bad_policy_is_refused_and_named(machine: Machine, text: str) -> None:
    machine.configure(f"[apply]\n{text}\n", "agent.toml.d/apply.toml")
    assert machine.run("update") == 78
    assert "Traceback" not in machine.err
    assert machine.kernel.active() == []


def apply(machine: Machine, text: str) -> None:
    machine.configure(f"[apply]\n{text}\n", "agent.toml.d/apply.toml")


def test_no_apply_withholds_and_names_the_cves(machine: Machine) -> None:
    machine.must("update", "--level", "1")
    apply(machine, "automatic = false")
    assert machine.run("update") == 30
    assert "nothing is loaded by itself" in machine.err
    assert "kmend update --level 3" in machine.err
    assert "quarantine" not in machine.err
    document = machine.json("status", "--exit-code")
    assert machine.status == 30
    assert document["state"] in ("held", "soaking")
    assert document["blocked"][0]["cves"] == ["CVE-2026-1002", "CVE-2026-1003"]
    assert [rule["rule"] for rule in document["blocked"][0]["rules"]] == ["no-apply"]
    machine.must("update", "--level", "3")


def test_a_pin_takes_the_newest_below_it(machine: Machine) -> None:
    apply(machine, "pin_level = 2")
    machine.must("update")
    document = machine.json("status", "--exit-code")
    assert (document["livepatch"]["level"], machine.status) == (2, 30)


def test_outside_its_window_the_host_says_when_it_opens(machine: Machine) -> None:
    now = datetime.datetime.fromtimestamp(machine.clock.now(), datetime.timezone.utc)
    start = (now + datetime.timedelta(hours=2)).strftime("%H:00")
    end = (now + datetime.timedelta(hours=4)).strftime("%H:00")
    apply(machine, f'windows = ["{start}-{end}"]')
    assert machine.run("update") == 30
    document = machine.json("status")
    until = document["blocked"][0]["rules"][0]["until"]
    assert 0 < until - machine.clock.now() <= 3 * 3600
    machine.clock.sleep(until - machine.clock.now())
    machine.must("update")


def test_a_hold_lets_a_level_go_when_it_is_over(machine: Machine) -> None:
    apply(machine, 'hold = "36h"')
    assert machine.run("update") == 30
    assert "it is held for 36h after its publication; until " in machine.err
    assert "withheld with it: CVE-2026-1001, CVE-2026-1002, CVE-2026-1003" in machine.err
    text = machine.must("status")
    assert "withholds CVE-2026-1001" in text
    document = machine.json("status")
    until = document["blocked"][0]["until"]
    machine.clock.sleep(until - machine.clock.now() - 1)
    assert machine.run("update") == 30
    machine.clock.sleep(1)
    machine.must("update")
    assert machine.json("status")["livepatch"]["level"] == 3


def test_a_level_for_a_channel_is_loaded_only_where_that_is_taken(
    machine: Machine, tmp_path: Path, published: Published
) -> None:
    folder = tmp_path / "channels"
    levels = [livepatch(number, CVES[:number], base=number - 1 or None) for number in (1, 2)]
    publish(folder, published.keys, levels[:1])
    publish(folder, published.keys, levels[1:], channel="early")
    configure_for(machine, folder, published.root)
    machine.must("update")
    document = machine.json("status")
    assert document["livepatch"]["level"] == 1
    assert [rule["rule"] for rule in document["blocked"][0]["rules"]] == ["channel"]
    apply(machine, 'channel = "early"')
    machine.must("update")
    assert machine.json("status")["livepatch"]["level"] == 2


def test_status_follows_a_change_of_policy_without_the_network(machine: Machine) -> None:
    machine.must("check")
    assert machine.json("status")["summary"] == "update-available"
    apply(machine, "automatic = false")
    assert machine.json("status")["summary"] == "blocked"
    apply(machine, "pin_level = 1")
    assert machine.json("status")["summary"] == "blocked"  # level 1's manifest has not been asked for yet
    document = machine.json("check")
    assert (document["available"]["level"], document["summary"]) == (1, "blocked")


def test_a_pin_keeps_a_boot_from_a_newer_level(machine: Machine) -> None:
    machine.must("update")
    machine.clock.sleep(400)
    machine.must("status")
    apply(machine, 'pin_level = 2\nhold = "300d"\nautomatic = false')
    machine.kernel.boot()
    machine.must("boot")
    assert machine.kernel.active() == []
    apply(machine, 'pin_level = 3\nhold = "300d"\nautomatic = false')
    machine.kernel.boot()
    machine.must("boot")
    assert [name.split("_")[1] for name in machine.kernel.active()] == ["3"]
