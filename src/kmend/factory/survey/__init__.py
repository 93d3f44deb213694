"""Every changed source file between two of a vendor's kernels, each taken as one fix: how many become livepatches, and why not.

Offers `survey` (changed files to a `Survey`: build each, hold it against the vendor's own kernel, load it), `Settings`, and the
records it consists of; and `self_check`, which takes files of one kernel with a line more, and must find no change.
Results are kept by the digest of everything they depend on, so a survey goes on where it stopped.
"""

from __future__ import annotations

from kmend.factory.survey.record import FileResult, LoadRecord, Outcome, RefusalRecord, Survey, Totals
from kmend.factory.survey.selfcheck import SelfCheck, self_check
from kmend.factory.survey.surveying import Progress, Settings, survey

__all__ = [
    "FileResult",
    "LoadRecord",
    "Outcome",
    "Progress",
    "RefusalRecord",
    "SelfCheck",
    "Settings",
    "Survey",
    "Totals",
    "self_check",
    "survey",
]
