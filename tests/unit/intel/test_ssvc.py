"""CISA's assessments: both spellings, what is not there, and what cannot be read."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from kmend.core.errors import MalformedError
from kmend.intel.feeds import Decision, read_place, read_records

ONE = "CVE-2026-3001"


def assessed(cve: str, *options: object, at: str = "2026-10-01T10:00:00.000Z", **more: object) -> bytes:
    """A record as vulnrichment has it: the CNA's container, CVE program's, CISA's."""
    content = {"id": cve, "role": "CISA Coordinator", "options": list(options), "version": "2.0.3", "timestamp": at}
    cisa = {
        "metrics": [{"other": {"type": "ssvc", "content": {**content, **more}}}],
        "title": "CISA ADP Vulnrichment",
    }
    return json.dumps(
        {
            "dataType": "CVE_RECORD",
            "dataVersion": "5.2",
            "cveMetadata": {"cveId": cve, "state": "PUBLISHED"},
            "containers": {"cna": {"metrics": []}, "adp": [{"title": "CVE Program Container"}, cisa]},
        }
    ).encode()


GOOD = ({"Exploitation": "none"}, {"Automatable": "no"}, {"Technical Impact": "partial"})


def of(content: bytes) -> Decision | None:
    found = read_records([(f"2026/3xxx/{ONE}.json", content)], "it")
    assert found.aside == ()
    return found.decisions.get(ONE)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (GOOD, ("none", "no", "partial")),
        (({"exploitation": "poc"}, {"automatable": "yes"}, {"technicalImpact": "total"}), ("poc", "yes", "total")),
        (({"Exploitation": "Active", "Automatable": "Yes", "technical_impact": "Total"},), ("active", "yes", "total")),
        (({"Exploitation": "public PoC"}, {"Mission Prevalence": "Minimal"}), ("poc", "", "")),
    ],
)
def test_both_spellings(options: tuple[object, ...], expected: tuple[str, str, str]) -> None:
    found = of(assessed(ONE, *options))
    assert found is not None
    assert (found.exploitation, found.automatable, found.impact) == expected


def test_the_newest_assessment_counts() -> None:
    old = json.loads(assessed(ONE, *GOOD, at="2026-01-01T00:00:00Z"))
    new = json.loads(assessed(ONE, {"Exploitation": "active"}, at="2026-02-01T00:00:00Z"))
    old["containers"]["adp"][1]["metrics"].insert(0, new["containers"]["adp"][1]["metrics"][0])
    found = of(json.dumps(old).encode())
    assert found is not None
    assert found.exploitation == "active"


def test_a_record_without_an_assessment_is_no_broken_one() -> None:
    document = json.loads(assessed(ONE, *GOOD))
    document["containers"]["adp"].pop()
    assert of(json.dumps(document).encode()) is None
    del document["containers"]
    assert of(json.dumps(document).encode()) is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"[]", "it is of"),
        (assessed("CVE-2026-9999", *GOOD), "it is of 'CVE-2026-9999'"),
        (assessed(ONE, {"Exploitation": "perhaps"}), "none of active, none, poc"),
        (assessed(ONE, {"Automatable": ["yes"]}), "none of no, yes"),
        (assessed(ONE, {"Exploitation": "none"}, {"exploitation": "active"}), "none and active"),
        (assessed(ONE, "none"), "not an object"),
        (assessed(ONE), "answers none"),
        (assessed(ONE, options=7), "no options"),
        (b" " * (4 * 1024 * 1024 + 1), "longer than"),
    ],
)
def test_what_cannot_be_read_is_set_aside(content: bytes, why: str) -> None:
    files = [(f"2026/3xxx/{ONE}.json", content), ("2026/3xxx/CVE-2026-3002.json", assessed("CVE-2026-3002", *GOOD))]
    found = read_records(files, "it")
    assert list(found.decisions) == ["CVE-2026-3002"]
    (aside,) = found.aside
    assert aside.name == ONE
    assert why in aside.why


@pytest.mark.parametrize("packed", [False, True])
def test_a_tree_and_an_archive_of_it(tmp_path: Path, packed: bool) -> None:
    place = tmp_path / "vulnrichment"
    (place / "2026/3xxx").mkdir(parents=True)
    (place / f"2026/3xxx/{ONE}.json").write_bytes(assessed(ONE, *GOOD))
    (place / "README.md").write_text("about")
    (place / "assets.json").write_text("{}")
    if packed:
        with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
            archive.add(place, "vulnrichment-develop")
        place = tmp_path / "a.tar.gz"
    found = read_place(place)
    assert (set(found.decisions), found.read, found.aside) == ({ONE}, 1, ())


def test_what_holds_no_records(tmp_path: Path) -> None:
    with pytest.raises(MalformedError, match="no CVE records"):
        read_place(tmp_path)
    assert read_records([], "it", part=True).decisions == {}
