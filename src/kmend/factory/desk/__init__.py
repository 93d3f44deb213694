"""The author's desk: what a person does with a livepatch beside building it.

`reproduce` builds a livepatch again from its corresponding source and says whether the module is the same, bit for bit; a
`Claim` is what is checked so: a manifest with its source and, if at hand, its module, out of a build's folder or a repository.
"""

from __future__ import annotations

from kmend.factory.desk.claim import Claim, ClaimError, claim_of_file, claim_of_repository
from kmend.factory.desk.moduledifference import Difference
from kmend.factory.desk.reproducing import Reproduction, reproduce

__all__ = [
    "Claim",
    "ClaimError",
    "Difference",
    "Reproduction",
    "claim_of_file",
    "claim_of_repository",
    "reproduce",
]
