"""What a trial says of a fix, from what its probe did before and after: a decision on plain values.

A probe speaks by its exit status, as programs for `git bisect run` do: 0, all is well; 125, it cannot tell; anything else, the
kernel misbehaves. A probe that a signal ends, that does not come to its end in time, or that brings the kernel down, has found it
misbehaving too. 126 and 127 mean that the probe could not be run at all, and are an error.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

CANNOT_TELL = 125
NOT_EXECUTABLE, NOT_FOUND = 126, 127


class Behaviour(enum.Enum):
    """What a probe saw."""

    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "unknown"


class Verdict(enum.Enum):
    """What a trial came to."""

    MENDED = "mended"
    """The probe saw the kernel misbehave before the livepatch, and no longer with it; the kernel's log is clean."""
    NO_EFFECT = "no-effect"
    """It misbehaves with the livepatch as well."""
    NOT_SHOWN = "not-shown"
    """All was well before: the probe does not show what the fix mends."""
    BROKEN = "broken"
    """All was well before, and with the livepatch it is not."""
    UNDECIDED = "undecided"
    """The probe could not tell."""
    NOT_LOADED = "not-loaded"
    """The kernel refused the livepatch, or its transition did not end."""
    COMPLAINT = "complaint"
    """The kernel complained in its log since the livepatch came."""
    NOT_REMOVED = "not-removed"
    """The livepatch could not be taken off again."""


HINTS = {
    Verdict.NO_EFFECT: "the probe says the same before and after: does it reach the changed code (build --explain lists the "
    "functions), and does the fix mend what the probe looks at?",
    Verdict.NOT_SHOWN: "the probe says that all is well without the fix: it must exit with another status than 0 where the "
    "kernel misbehaves; perhaps the guest lacks what it needs (--module, --copy, --shape full)",
    Verdict.BROKEN: "the fix does harm that the probe sees",
    Verdict.UNDECIDED: "the probe exits with 125 when it cannot tell; see what it prints",
    Verdict.COMPLAINT: "the livepatch's companion is kept: kmend-factory decode gives the source lines of the kernel's log",
    Verdict.NOT_LOADED: "the kernel's log (--keep) says why",
    Verdict.NOT_REMOVED: "the kernel's log (--keep) says more; hosts would have to restart to get rid of such a level",
}


@dataclass(frozen=True, slots=True)
class Findings:
    """What happened in a trial.

    Attributes:
        before, after: what the probe saw; `after` is None if the livepatch was not loaded.
        load_problem: why it was not; removal_problem: why it could not be taken off; empty if neither was so.
        complaints: whether the kernel complained since the livepatch came.
    """

    before: Behaviour
    after: Behaviour | None
    load_problem: str = ""
    removal_problem: str = ""
    complaints: bool = False


def judge(found: Findings) -> Verdict:
    """The verdict; what is wrong with the livepatch itself comes before what the probe says."""
    if found.load_problem or found.after is None:
        return Verdict.NOT_LOADED
    bad_before, bad_after = (seen is Behaviour.BAD for seen in (found.before, found.after))
    if bad_after and found.before is not Behaviour.UNKNOWN:
        return Verdict.NO_EFFECT if bad_before else Verdict.BROKEN
    if found.complaints:
        return Verdict.COMPLAINT
    if found.removal_problem:
        return Verdict.NOT_REMOVED
    if Behaviour.UNKNOWN in (found.before, found.after):
        return Verdict.UNDECIDED
    return Verdict.MENDED if bad_before else Verdict.NOT_SHOWN


def behaviour(status: int) -> Behaviour:
    """What an exit status says."""
    if status == CANNOT_TELL:
        return Behaviour.UNKNOWN
    return Behaviour.BAD if status else Behaviour.GOOD
