"""OpenVEX 0.2.0 of one host: true until it restarts, or unloads its livepatch.

go-vex is stricter than the schema: a justification or an impact stands only beside `not_affected`, an action only beside
`affected`.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kmend.intel.applicability import Reason
from kmend.intel.verdicts import Verdict, Word

CONTEXT = "https://openvex.dev/ns/v0.2.0"
_NOT_PRESENT = "vulnerable_code_not_present"
_ACTIONS = {
    Word.PENDING: "A livepatch is on its way in: {detail}.",
    Word.AVAILABLE: "Load the livepatch: {detail}.",
    Word.WITHHELD: "A livepatch is held back: {detail}.",
    Word.BLOCKED: "A livepatch is blocked ({detail}); start a kernel that has the fix.",
    Word.NEEDS_REBOOT: "Start a kernel that has the fix: package version {detail} or later.",
    Word.NO_FIX_YET: "No fix is there yet.",
}


@dataclass(frozen=True, slots=True)
class Observed:
    """When and of what the verdicts are.

    Attributes:
        host: its ID.
        boot_id: they hold for this boot only.
        at: of the host's report, in seconds since 1970-01-01 UTC.
        module, module_sha256: of the livepatch in force; empty for none.
    """

    host: str
    boot_id: str
    at: int
    module: str = ""
    module_sha256: str = ""


def openvex(
    place: str, author: str, version: int, products: Sequence[str], observed: Observed, verdicts: Iterable[Verdict]
) -> dict[str, object]:
    """A host's document, as JSON's own types.

    Args:
        place: the document's IRI.
        version: one more with each that is issued for the host.
        products: purls.
    """
    moment = _moment(observed.at)
    named = [{"@id": purl} for purl in products]
    return {
        "@context": CONTEXT,
        "@id": place,
        "author": author,
        "timestamp": moment,
        "version": version,
        "statements": [
            {"vulnerability": {"name": item.cve}, "products": named, **_status(item, observed)}
            for item in sorted(verdicts, key=lambda item: item.cve)
        ],
    }


def _status(item: Verdict, observed: Observed) -> dict[str, object]:
    notes = "; ".join(item.evidence) or item.detail or item.word.value
    if item.word is Word.LIVE_PATCHED:
        told = (
            f"livepatch {observed.module} sha256:{observed.module_sha256}, {item.detail}; enabled, transition over; observed "
            f"{_moment(observed.at)}, boot {observed.boot_id}; void after a restart or an unload"
        )
        return {"status": "fixed", "status_notes": told}
    if item.word is Word.FIXED_BY_KERNEL:
        return {"status": "fixed", "status_notes": notes}
    if item.word is Word.NOT_AFFECTED:
        rejected = item.detail == Reason.REJECTED.value
        reason = {"impact_statement": notes} if rejected else {"justification": _NOT_PRESENT, "impact_statement": notes}
        return {"status": "not_affected", **reason}
    if item.word is Word.MITIGATED:
        return {
            "status": "not_affected",
            "justification": "vulnerable_code_not_in_execute_path",
            "impact_statement": item.detail,
        }
    if item.word is Word.UNKNOWN:
        return {"status": "under_investigation", "status_notes": notes}
    return {
        "status": "affected",
        "action_statement": _ACTIONS[item.word].format(detail=item.detail),
        "status_notes": notes,
    }


def _moment(at: int) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
