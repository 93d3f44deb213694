"""The table of verdicts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.factory.desk.verdict import HINTS, Behaviour, Findings, Verdict, behaviour, judge

GOOD, BAD, UNKNOWN = Behaviour.GOOD, Behaviour.BAD, Behaviour.UNKNOWN


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (Findings(BAD, GOOD), Verdict.MENDED),
        (Findings(BAD, BAD), Verdict.NO_EFFECT),
        (Findings(GOOD, GOOD), Verdict.NOT_SHOWN),
        (Findings(GOOD, BAD), Verdict.BROKEN),
        (Findings(UNKNOWN, GOOD), Verdict.UNDECIDED),
        (Findings(BAD, UNKNOWN), Verdict.UNDECIDED),
        (Findings(UNKNOWN, BAD), Verdict.UNDECIDED),
        (Findings(BAD, None, load_problem="refused"), Verdict.NOT_LOADED),
        (Findings(BAD, GOOD, complaints=True), Verdict.COMPLAINT),
        (Findings(UNKNOWN, GOOD, complaints=True), Verdict.COMPLAINT),
        (Findings(BAD, BAD, complaints=True), Verdict.NO_EFFECT),
        (Findings(GOOD, BAD, removal_problem="stuck", complaints=True), Verdict.BROKEN),
        (Findings(BAD, GOOD, removal_problem="stuck"), Verdict.NOT_REMOVED),
        (Findings(BAD, GOOD, removal_problem="stuck", complaints=True), Verdict.COMPLAINT),
    ],
)
def test_each_case(found: Findings, verdict: Verdict) -> None:
    assert judge(found) is verdict


@given(
    st.builds(
        Findings,
        st.sampled_from(Behaviour),
        st.sampled_from([None, *Behaviour]),
        st.sampled_from(["", "x"]),
        st.sampled_from(["", "x"]),
        st.booleans(),
    )
)
def test_mended_means_that_nothing_is_wrong(found: Findings) -> None:
    clean = not found.load_problem and not found.removal_problem and not found.complaints
    assert (judge(found) is Verdict.MENDED) == (clean and found.before is BAD and found.after is GOOD)


def test_every_other_verdict_has_a_hint() -> None:
    assert set(HINTS) == set(Verdict) - {Verdict.MENDED}


def test_exit_statuses() -> None:
    assert [behaviour(status) for status in (0, 1, 124, 125, 128, 137)] == [GOOD, BAD, BAD, UNKNOWN, BAD, BAD]
