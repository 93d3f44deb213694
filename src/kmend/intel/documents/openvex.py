"""OpenVEX 0.2.0 of one host: true until it restarts, or unloads its livepatch.

What nobody can be sure of any more suppresses nothing: `not affected` by feeds that are too old, and a livepatch on a host that
is silent, are `under_investigation`. No two statements of a CVE name the same product: Trivy takes the latest of several, Grype
the first.

go-vex is stricter than the schema: a justification or an impact stands only beside `not_affected`, an action only beside
`affected`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kmend.intel.applicability import Reason
from kmend.intel.documents.advisory import moment
from kmend.intel.documents.purls import Headers
from kmend.intel.verdicts import NOT_PRESENT, Verdict, Word

CONTEXT = "https://openvex.dev/ns/v0.2.0"
_NO_CODE, _NO_COMPONENT = "vulnerable_code_not_present", "component_not_present"
_HEADERS_ONLY = {
    "status": "not_affected",
    "justification": _NO_CODE,
    "impact_statement": "The package holds headers; the fix changes none of them.",
}
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
        silent: nobody has heard of the host for longer than a livepatch may be believed in.
    """

    host: str
    boot_id: str
    at: int
    module: str = ""
    module_sha256: str = ""
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Products:
    """What the statements are of.

    Attributes:
        kernel: purls of what the verdicts are of.
        headers: packages of the same source, of which something is said where they hold nothing of what a fix changes.
        files: CVE -> what its fix changes, by mainline's paths.
    """

    kernel: tuple[str, ...]
    headers: tuple[Headers, ...] = ()
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)


def openvex(
    place: str,
    author: str,
    version: int,
    products: Products,
    observed: Observed,
    verdicts: Iterable[Verdict],
    *,
    issued: int | None = None,
    stale: Sequence[str] = (),
) -> dict[str, object]:
    """A host's document, as JSON's own types.

    Args:
        place: the document's IRI.
        version: one more with each that says something else.
        issued: when this version was made first, in seconds since 1970-01-01 UTC; None for `observed.at`.
        stale: feeds on which verdicts rest that are missing, or too old.
    """
    named = [{"@id": purl} for purl in products.kernel]
    statements: list[dict[str, object]] = []
    for item in sorted(verdicts, key=lambda item: item.cve):
        of = {"vulnerability": {"name": item.cve}}
        statements.append({**of, "products": named, **_status(item, observed, stale)})
        free = (
            []
            if stale
            else [{"@id": one.purl} for one in products.headers if one.has_none_of(products.files.get(item.cve, ()))]
        )
        if free:
            statements.append({**of, "products": free, **_HEADERS_ONLY})
    return {
        "@context": CONTEXT,
        "@id": place,
        "author": author,
        "timestamp": moment(observed.at if issued is None else issued),
        "version": version,
        "statements": statements,
    }


def _status(item: Verdict, observed: Observed, stale: Sequence[str]) -> dict[str, object]:
    notes = "; ".join(item.evidence) or item.detail or item.word.value
    if stale and item.word is Word.NOT_AFFECTED:
        told = f"not affected, as far as was known; too old or missing by now: {', '.join(stale)}; {notes}"
        return {"status": "under_investigation", "status_notes": told}
    absent = item.word is Word.NOT_AFFECTED and item.detail == NOT_PRESENT
    if observed.silent and (absent or item.word in (Word.LIVE_PATCHED, Word.MITIGATED)):
        told = f"{item.word.value} ({item.detail}) when the host was last heard of, {moment(observed.at)}; since then nothing"
        return {"status": "under_investigation", "status_notes": told}
    if item.word is Word.LIVE_PATCHED:
        told = (
            f"livepatch {observed.module} sha256:{observed.module_sha256}, {item.detail}; enabled, transition over; observed "
            f"{moment(observed.at)}, boot {observed.boot_id}; void after a restart or an unload"
        )
        return {"status": "fixed", "status_notes": told}
    if item.word is Word.FIXED_BY_KERNEL:
        return {"status": "fixed", "status_notes": notes}
    if item.word is Word.NOT_AFFECTED:
        rejected = item.detail == Reason.REJECTED.value
        why = _NO_COMPONENT if item.detail == NOT_PRESENT else _NO_CODE
        reason = {"impact_statement": notes} if rejected else {"justification": why, "impact_statement": notes}
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
