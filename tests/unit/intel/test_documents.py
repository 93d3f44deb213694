"""OpenVEX and OSV: valid by their schemas, and by go-vex's stricter rules."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.intel.documents import Advisory, Observed, Products, Withdrawal, openvex, osv, purls
from kmend.intel.verdicts import NOT_PRESENT, Verdict, Word

OBSERVED = Observed("6f1c", "b0" * 16, 1_790_000_000, "kmend_2_0123abcd", "ab" * 32)
PURLS = purls("6.1.0-50-amd64", "6.1.176-1", "x86_64")
JUSTIFICATIONS = {
    "component_not_present", "vulnerable_code_not_present", "vulnerable_code_not_in_execute_path",
    "vulnerable_code_cannot_be_controlled_by_adversary", "inline_mitigations_already_exist",
}  # fmt: skip


def schema(data: Path, name: str) -> Any:
    return json.loads((data / "schemas" / name).read_text())


def go_vex(statement: dict[str, Any]) -> None:
    """The rules of go-vex's own validation."""
    status = statement["status"]
    assert status in ("not_affected", "affected", "fixed", "under_investigation")
    if status == "not_affected":
        assert "justification" in statement or statement.get("impact_statement")
        assert statement.get("justification", "component_not_present") in JUSTIFICATIONS
        assert "action_statement" not in statement
    elif status == "affected":
        assert statement["action_statement"]
        assert not {"justification", "impact_statement"} & set(statement)
    else:
        assert not {"justification", "impact_statement", "action_statement"} & set(statement)


def document(*verdicts: Verdict) -> Any:
    return openvex("https://kmend.example/vex/6f1c/3", "kmend.example", 3, Products(PURLS), OBSERVED, verdicts)


verdicts = st.lists(
    st.builds(
        Verdict, st.integers(1000, 99_999).map(lambda number: f"CVE-2026-{number}"), st.sampled_from(Word),
        st.sampled_from(["", "level 2", "rejected", "not built", NOT_PRESENT]),
        st.lists(st.text(min_size=1), max_size=2).map(tuple),
    ),
    min_size=1, max_size=6, unique_by=lambda item: item.cve,
)  # fmt: skip


@pytest.fixture(scope="module")
def valid(data: Path) -> Any:
    return jsonschema_rs.validator_for(schema(data, "openvex.schema.json"))


@given(found=verdicts)
def test_every_verdict_becomes_a_valid_statement(valid: Any, found: list[Verdict]) -> None:
    made = json.loads(json.dumps(document(*found)))
    valid.validate(made)
    assert [item["vulnerability"]["name"] for item in made["statements"]] == sorted(item.cve for item in found)
    for statement in made["statements"]:
        go_vex(statement)


def test_a_module_that_is_not_on_the_disk_is_a_component_that_is_not_present() -> None:
    (statement,) = document(Verdict("CVE-2026-1001", Word.NOT_AFFECTED, NOT_PRESENT, ("exfat is not there",)))[
        "statements"
    ]
    assert (statement["status"], statement["justification"]) == ("not_affected", "component_not_present")


def test_what_a_livepatch_has_closed_is_fixed_on_this_boot_only() -> None:
    (statement,) = document(Verdict("CVE-2026-1001", Word.LIVE_PATCHED, "level 2"))["statements"]
    assert statement["status"] == "fixed"
    for word in ("kmend_2_0123abcd", "ab" * 32, "b0" * 16, "void after a restart"):
        assert word in statement["status_notes"]


@pytest.mark.parametrize("word", [word for word in Word if word not in (Word.UNKNOWN, Word.MITIGATED)])
def test_only_what_is_closed_suppresses_a_finding(word: Word) -> None:
    """Scanners leave out what is `fixed` or `not_affected`."""
    found = Verdict("CVE-2026-1001", word, "x", ("because",))
    (statement,) = document(found)["statements"]
    assert (statement["status"] in ("fixed", "not_affected")) == (not found.open)


def test_purls_match_what_scanners_write() -> None:
    """Every qualifier of ours is in theirs with the same value, and the version is equal (go-vex, PurlMatches)."""
    image, unsigned, source, file = PURLS
    assert image == "pkg:deb/debian/linux-image-6.1.0-50-amd64@6.1.176-1?arch=amd64"
    assert unsigned == "pkg:deb/debian/linux-image-6.1.0-50-amd64-unsigned@6.1.176-1?arch=amd64"
    assert source == "pkg:deb/debian/linux@6.1.176-1?arch=source"
    assert file == "pkg:generic/linux-kernel@6.1.0-50-amd64", "as syft calls /boot/vmlinuz-*"
    assert purls("6.12.1+deb13-amd64", "6.12.48-1", "x86_64")[3] == "pkg:generic/linux-kernel@6.12.1%2Bdeb13-amd64"
    assert purls("6.12.1+deb13-amd64", "6.12.48-1+deb13u1", "x86_64")[0].endswith("@6.12.48-1%2Bdeb13u1?arch=amd64")
    for theirs in ("distro=debian-12.5&arch=amd64", "arch=amd64&distro=debian-12&upstream=linux-signed-amd64"):
        assert set(image.partition("?")[2].split("&")) <= set(theirs.split("&"))


@given(found=verdicts, silent=st.booleans(), stale=st.sampled_from([(), ("cna",)]))
def test_what_is_not_sure_any_more_suppresses_nothing(
    valid: Any, found: list[Verdict], silent: bool, stale: tuple[str, ...]
) -> None:
    seen = replace(OBSERVED, silent=silent)
    made: Any = openvex("https://kmend.example/v", "k", 1, Products(PURLS), seen, found, stale=stale)
    valid.validate(json.loads(json.dumps(made)))
    verdict_of = {item.cve: item for item in found}
    for statement in made["statements"]:
        go_vex(statement)
        item = verdict_of[statement["vulnerability"]["name"]]
        word = item.word
        absent = word is Word.NOT_AFFECTED and item.detail == NOT_PRESENT
        by_the_host = absent or word in (Word.LIVE_PATCHED, Word.MITIGATED)
        if (stale and word is Word.NOT_AFFECTED) or (silent and by_the_host):
            assert statement["status"] == "under_investigation"
        elif word in (Word.LIVE_PATCHED, Word.FIXED_BY_KERNEL):
            assert statement["status"] == "fixed"


def test_the_time_of_issue_is_not_the_hosts() -> None:
    made: Any = openvex(
        "https://kmend.example/v",
        "k",
        4,
        Products(PURLS),
        OBSERVED,
        [Verdict("CVE-2026-1001", Word.UNKNOWN)],
        issued=1_790_000_060,
    )
    assert (made["timestamp"], made["version"]) == ("2026-09-21T14:14:20Z", 4)


def test_a_levels_advisory(data: Path) -> None:
    made = osv(
        Advisory(
            "KMEND-2026-0007", 1_790_000_000, 2, 1, ("CVE-2026-53361",), "6.1.176-1", "6.1.0-50-amd64", "9c" * 20,
            "kmend_2_0123abcd", "ab" * 32, ("vmlinux:unix_gc",), ("https://git.kernel.org/stable/c/20aa894d475b",),
        )
    )  # fmt: skip
    jsonschema_rs.validator_for(schema(data, "osv.schema.json")).validate(json.loads(json.dumps(made)))
    assert made["id"] == "x_KMEND-2026-0007"


def test_a_levels_advisory_is_withdrawn_with_the_level(data: Path) -> None:
    level = Advisory(
        "KMEND-1", 1_790_000_000, 2, 1, ("CVE-2026-53361", "CVE-2026-1001"), "6.1.176-1", "6.1.0-50-amd64", "9c" * 20,
        "kmend_2_0123abcd", "ab" * 32, (), withdrawn=Withdrawal(1_790_000_060, "it hangs"), unaffected={"CVE-2026-1001": "x"},
    )  # fmt: skip
    made = osv(level)
    jsonschema_rs.validator_for(schema(data, "osv.schema.json")).validate(json.loads(json.dumps(made)))
    assert made["withdrawn"] == made["modified"] == "2026-09-21T14:14:20Z"
    assert made["upstream"] == ["CVE-2026-53361"], "what the build never had is not in it"
    early = osv(replace(level, withdrawn=Withdrawal(1_789_999_000, "it hangs")))
    assert early["withdrawn"] == early["published"]
