"""CSAF of a level: valid by the schema and by every mandatory test of the specification."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.unit.intel.csaf_rules import broken

from kmend.intel.documents import Advisory, Publisher, Withdrawal, csaf, file_name

ONE, TWO = "CVE-2026-53361", "CVE-2026-1001"
LEVEL = Advisory(
    "KMEND-6.1.0-50-amd64-9c9c9c9c9c9c-2", 1_790_000_000, 2, 1, (ONE, TWO), "6.1.176-1", "6.1.0-50-amd64", "9c" * 20,
    "kmend_2_0123abcd", "ab" * 32, ("vmlinux:unix_gc",), titles={ONE: "af_unix: mend it"},
    fixes={ONE: ("https://git.kernel.org/stable/c/20aa894d475b",)},
)  # fmt: skip
PLACE = "https://kmend.example/api/v1/levels/9c9c/2/csaf"
RECALLED = replace(LEVEL, withdrawn=Withdrawal(1_790_000_900, "it hangs"))


def made(advisory: Advisory = LEVEL) -> Any:
    publisher = Publisher("kmend-server kmend.example", "https://kmend.example")
    return csaf(advisory, publisher, PLACE, [("Manifest of the livepatch", "https://kmend.example/m")])


NASTY = ("<b>&amp;</b>", "\x00\x1b[2J", "\N{SNOWMAN}\u202e", " ", "'\"\\", "x" * 20_000)


def test_every_document_is_valid(tmp_path: Path) -> None:
    advisories = [
        LEVEL,
        RECALLED,
        replace(LEVEL, unaffected={TWO: "not built"}),
        replace(LEVEL, unaffected={ONE: "not built", TWO: "rejected"}, withdrawn=RECALLED.withdrawn),
        replace(LEVEL, cves=()),
        replace(LEVEL, before=0, titles={}, fixes={}, package="6.12.48-1+deb13u1", release="6.12.48+deb13-cloud-amd64"),
        replace(LEVEL, changes=((1_789_000_000, "Recalled: it hangs."), (1_790_000_100, "The recall was taken back."))),
        *(replace(LEVEL, titles={ONE: text}, withdrawn=Withdrawal(at, text)) for at, text in enumerate(NASTY)),
    ]
    assert broken(tmp_path, *(made(advisory) for advisory in advisories)) == [{}] * len(advisories)


def without_kernel(document: Any) -> None:
    document["product_tree"]["branches"].pop(0)


def twice(document: Any) -> None:
    document["product_tree"]["branches"][1]["branches"][0]["branches"][0]["product"]["product_id"] = "kernel"


def contradicting(document: Any) -> None:
    document["vulnerabilities"][0]["product_status"]["fixed"].append("kernel")


def repeated(document: Any) -> None:
    document["vulnerabilities"].append(document["vulnerabilities"][0])


def without_notes(document: Any) -> None:
    del document["vulnerabilities"][0]["notes"]


def misnumbered(document: Any) -> None:
    document["document"]["tracking"]["version"] = "7"


def formless(document: Any) -> None:
    document["vulnerabilities"][0]["remediations"][0]["restart_required"]["category"] = "never"


DAMAGE: dict[str, Callable[[Any], None]] = {
    "6.1.1": without_kernel,
    "6.1.2": twice,
    "6.1.6": contradicting,
    "6.1.16": misnumbered,
    "6.1.23": repeated,
    "6.1.27": without_notes,
    "schema": formless,
}


def test_the_rules_bite(tmp_path: Path) -> None:
    documents = []
    for damage in DAMAGE.values():
        documents.append(copy.deepcopy(made()))
        damage(documents[-1])
    for rule, found in zip(DAMAGE, broken(tmp_path, *documents), strict=True):
        assert rule in found, found


def test_the_fixed_product_is_the_livepatch_on_the_kernel() -> None:
    document = made()
    (relation,) = document["product_tree"]["relationships"]
    assert (relation["product_reference"], relation["relates_to_product_reference"]) == ("livepatch", "kernel")
    vendor = document["product_tree"]["branches"][0]
    package = vendor["branches"][0]["branches"][0]
    assert (vendor["name"], package["name"]) == ("Debian", "6.1.176-1")
    purl = package["product"]["product_identification_helper"]["purl"]
    assert purl == "pkg:deb/debian/linux-image-6.1.0-50-amd64@6.1.176-1?arch=amd64"
    own = document["product_tree"]["branches"][1]["branches"][0]["branches"][0]
    assert (own["category"], own["name"]) == ("product_version_range", "vers:generic/>=2")
    for vulnerability in document["vulnerabilities"]:
        together = relation["full_product_name"]["product_id"]
        assert vulnerability["product_status"] == {"fixed": [together], "known_affected": ["kernel"]}
        (remedy,) = vulnerability["remediations"]
        assert (remedy["category"], remedy["restart_required"]["category"]) == ("vendor_fix", "none")
        assert remedy["product_ids"] == ["kernel"]
    assert document["vulnerabilities"][0]["references"][1]["url"].endswith("/c/20aa894d475b")


def test_a_recall_is_a_revision_without_a_remedy() -> None:
    before, after = made()["document"]["tracking"], made(RECALLED)["document"]["tracking"]
    assert (before["id"], before["version"]) == (after["id"], "1")
    assert (after["version"], after["current_release_date"]) == ("2", "2026-09-21T14:28:20Z")
    assert after["revision_history"][0] == before["revision_history"][0]
    assert "it hangs" in after["revision_history"][1]["summary"]
    for vulnerability in made(RECALLED)["vulnerabilities"]:
        assert [remedy["category"] for remedy in vulnerability["remediations"]] == ["none_available"]
    back = made(
        replace(LEVEL, changes=((1_790_000_900, "Recalled: it hangs."), (1_790_001_000, "The recall was taken back.")))
    )
    assert back["document"]["tracking"]["version"] == "3"
    assert back["vulnerabilities"][0]["remediations"][0]["category"] == "vendor_fix"


def test_revisions_are_in_the_order_of_their_times() -> None:
    made_later = ((1_790_001_000, "What is known of its CVEs has changed."),)
    tracking = made(replace(RECALLED, changes=made_later))["document"]["tracking"]
    assert ["Published" in tracking["revision_history"][0]["summary"], tracking["version"]] == [True, "3"]
    assert "it hangs" in tracking["revision_history"][1]["summary"]
    assert tracking["current_release_date"] == tracking["revision_history"][2]["date"] == "2026-09-21T14:30:00Z"


def test_what_the_build_never_had_is_flagged() -> None:
    document = made(replace(LEVEL, unaffected={TWO: "not built"}))
    said = document["vulnerabilities"][1]
    assert "remediations" not in said
    assert said["product_status"] == {"known_not_affected": ["kernel", "kernel-with-livepatch"]}
    assert said["flags"][0]["label"] == "vulnerable_code_not_present"
    assert "not built" in said["threats"][0]["details"]


def test_the_files_name_is_the_specifications() -> None:
    assert file_name(LEVEL) == "kmend-6_1_0-50-amd64-9c9c9c9c9c9c-2.json"
