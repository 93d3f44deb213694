"""The author's desk: what a person does with a livepatch beside building it.

`reproduce` builds a livepatch again from its corresponding source and says whether the module is the same, bit for bit; a
`Claim` is what is checked so: a manifest with its source and, if at hand, its module, out of a build's folder or a repository.
`keep_companion` keeps the module with debug information by its build ID, and `decode_trace` gives the source lines of what
`read_trace` finds in a kernel's console text. `hold_trial` tries a livepatch in a virtual machine, with a probe before and after.
"""

from __future__ import annotations

from kmend.factory.desk.claim import Claim, ClaimError, claim_of_file, claim_of_repository
from kmend.factory.desk.companion import Companion, CompanionError, find_companion, keep_companion, write_companion
from kmend.factory.desk.decoding import Decoded, DecodedFrame, DecodedLine, decode_trace
from kmend.factory.desk.moduledifference import Difference
from kmend.factory.desk.reproducing import Reproduction, reproduce
from kmend.factory.desk.trace import Frame, Trace, TraceError, read_trace
from kmend.factory.desk.trial import ProbeRun, Settings, Trial, TrialError, hold_trial, read_probe
from kmend.factory.desk.verdict import Behaviour, Verdict

__all__ = [
    "Behaviour",
    "Claim",
    "ClaimError",
    "Companion",
    "CompanionError",
    "Decoded",
    "DecodedFrame",
    "DecodedLine",
    "Difference",
    "Frame",
    "ProbeRun",
    "Reproduction",
    "Settings",
    "Trace",
    "TraceError",
    "Trial",
    "TrialError",
    "Verdict",
    "claim_of_file",
    "claim_of_repository",
    "decode_trace",
    "find_companion",
    "hold_trial",
    "keep_companion",
    "read_probe",
    "read_trace",
    "reproduce",
    "write_companion",
]
