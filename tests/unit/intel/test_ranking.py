"""Which open CVE comes first, and why."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from kmend.intel.deadlines import DAY, Exploitation, Signals
from kmend.intel.feeds import Cna, read_epss, read_kev
from kmend.intel.ranking import Candidate, Reach, rank
from kmend.intel.severity import base_score
from kmend.intel.verdicts import CLOSED, Word

NOW = 1_790_000_000


def one(
    cve: str, reach: Reach = Reach.LOADABLE, easiest: Word = Word.NEEDS_REBOOT, *, hosts: int = 1, due: int | None = None,
    overdue: int = 0, **signals: object,
) -> Candidate:  # fmt: skip
    return Candidate(cve, Signals(**signals), reach, easiest, hosts, due, overdue)  # type: ignore[arg-type]


def test_one_question_after_the_other() -> None:
    order = [
        one("CVE-2024-1", kev_added=1, ransomware=True, severity=5.0),
        one("CVE-2024-2", kev_added=1),
        one("CVE-2024-3", exploitation=Exploitation.ACTIVE),
        one("CVE-2024-4", percentile=0.97),
        one("CVE-2024-5", due=NOW - DAY, overdue=3),
        one("CVE-2024-6", due=NOW + 2 * DAY),
        one("CVE-2024-7", due=NOW + 10 * DAY),
        one("CVE-2024-8", due=NOW + 100 * DAY),
        one("CVE-2024-9", Reach.BUILT_IN),
        one("CVE-2024-10", easiest=Word.AVAILABLE),
        one("CVE-2024-11", easiest=Word.WITHHELD),
        one("CVE-2024-12", percentile=0.5),
        one("CVE-2024-13", severity=9.8),
        one("CVE-2024-14", severity=7.1),
        one("CVE-2024-15", hosts=9),
        one("CVE-2026-9"),
        one("CVE-2024-16"),
        one("CVE-2024-17", easiest=Word.NO_FIX_YET),
    ]
    shuffled = random.Random(7).sample(order, len(order))
    found = rank(shuffled, NOW)
    assert [item.candidate.cve for item in found] == [item.cve for item in order]
    assert [item.place for item in found] == list(range(1, len(order) + 1))
    assert found[0].reasons == (
        "CISA lists it, and knows of ransomware that uses it", "no deadline", "its code is in a module that may be loaded",
        "it takes a newer package, and a reboot", "no EPSS, CVSS 5.0", "open on 1 hosts",
    )  # fmt: skip
    assert "overdue on 3 hosts, at worst for 1 days" in found[4].reasons
    assert "due in 2 days" in found[5].reasons


def test_records_without_a_score_sort_and_say_so() -> None:
    names = ("CVE-2026-68187", "CVE-2026-43491", "CVE-2026-68480")
    found = rank([one(name) for name in names], NOW)
    assert [item.candidate.cve for item in found] == ["CVE-2026-68480", "CVE-2026-68187", "CVE-2026-43491"]
    assert all("no EPSS, not scored" in item.reasons for item in found)


def test_a_score_alone_brings_nothing_to_the_front() -> None:
    exploited, scored = one("CVE-2020-1", kev_added=1), one("CVE-2026-1", Reach.BUILT_IN, Word.AVAILABLE, severity=10.0)
    assert rank([scored, exploited], NOW)[0].candidate is exploited


candidates = st.builds(
    Candidate,
    st.integers(1000, 9999).map(lambda number: f"CVE-2026-{number}"),
    st.builds(
        Signals, kev_added=st.one_of(st.none(), st.just(1)), severity=st.one_of(st.none(), st.floats(0, 10)),
        percentile=st.one_of(st.none(), st.floats(0, 1)), ransomware=st.booleans(),
    ),
    st.sampled_from(Reach), st.sampled_from([word for word in Word if word not in CLOSED]), st.integers(0, 9),
    st.one_of(st.none(), st.integers(NOW - 10**7, NOW + 10**7)),
)  # fmt: skip


@given(st.lists(candidates, max_size=12, unique_by=lambda item: item.cve), st.randoms())
def test_the_order_does_not_hang_on_the_order_before(found: list[Candidate], draw: random.Random) -> None:
    ranked = rank(found, NOW)
    assert rank(draw.sample(found, len(found)), NOW) == ranked
    assert all(len(item.reasons) == 6 for item in ranked)


def test_the_real_records_rank(cna: Cna, kev_catalogue: bytes, epss_scores: str) -> None:
    kev, epss = read_kev(kev_catalogue).entries, read_epss(epss_scores).scores
    found = rank(
        (
            Candidate(
                cve,
                Signals(
                    kev_added=NOW if cve in kev else None, severity=base_score(record.cvss),
                    percentile=epss[cve][1] if cve in epss else None,
                ),
                Reach.BUILT_IN, Word.NEEDS_REBOOT, 1,
            )
            for cve, record in cna.records.items()
        ),
        NOW,
    )  # fmt: skip
    assert len(found) == 14_626
    listed = sum(cve in kev for cve in cna.records)
    assert listed == 7
    assert {item.candidate.cve in kev for item in found[:listed]} == {True}
