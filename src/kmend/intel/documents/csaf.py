"""CSAF 2.0 of one level: a security advisory, in the manner of the vendors of distributions.

The product that is fixed is a relationship: the livepatch, of this level or later, installed on the kernel's package. The package
alone stays `known_affected`, since it is what every host starts with; its remedy is the livepatch, without a restart. What a
recall takes back becomes a revision of the same advisory, with no remedy left in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kmend import __version__
from kmend.intel.documents.advisory import Advisory, moment
from kmend.intel.documents.purls import image_purl

_KERNEL, _LIVEPATCH, _TOGETHER = "kernel", "livepatch", "kernel-with-livepatch"
_NOT_IN_A_NAME = re.compile(r"[^+\-a-z0-9]+")
_NOT_PRESENT = "vulnerable_code_not_present"


@dataclass(frozen=True, slots=True)
class Publisher:
    """Who hands the document out.

    Attributes:
        name: for people.
        namespace: a URI; with the advisory's name it is unique.
        category: one of CSAF's: `vendor` for who makes the livepatches, `other` for who passes on what they say.
    """

    name: str
    namespace: str
    category: str = "other"


def file_name(advisory: Advisory) -> str:
    """What the document's file must be called (CSAF 2.0, section 5.1)."""
    return f"{_NOT_IN_A_NAME.sub('_', advisory.name.lower())}.json"


def csaf(
    advisory: Advisory, publisher: Publisher, place: str, references: Sequence[tuple[str, str]] = ()
) -> dict[str, object]:
    """The document, as JSON's own types.

    A level that names no CVE becomes an informational advisory, since CSAF has no security advisory without one.

    Args:
        place: URL of the document itself.
        references: (what it is, URL), of the whole level.
    """
    document = {
        "category": "csaf_security_advisory" if advisory.cves else "csaf_informational_advisory",
        "csaf_version": "2.0",
        "distribution": {"tlp": {"label": "AMBER", "url": "https://www.first.org/tlp/v1/"}},
        "lang": "en",
        "notes": [{"category": "summary", "title": "Summary", "text": _summary(advisory)}, *_withdrawal(advisory)],
        "publisher": {"category": publisher.category, "name": publisher.name, "namespace": publisher.namespace},
        "references": [
            {"category": "self", "summary": "This advisory", "url": place},
            *({"category": "external", "summary": told, "url": url} for told, url in references),
        ],
        "title": f"Livepatch level {advisory.level} for {advisory.source} {advisory.package} ({advisory.release})",
        "tracking": _tracking(advisory),
    }
    if not advisory.cves:
        return {"document": document}
    return {
        "document": document,
        "product_tree": _products(advisory),
        "vulnerabilities": [_vulnerability(advisory, cve) for cve in advisory.cves],
    }


def _summary(advisory: Advisory) -> str:
    replaces = f" It replaces level {advisory.before}." if advisory.before else ""
    return (
        f"The livepatch {advisory.module} (SHA-256 of the unsigned module {advisory.module_sha256}) changes "
        f"{len(advisory.functions)} functions of the running kernel with build ID {advisory.build_id}, without a restart."
        f"{replaces} Later levels contain these fixes, too, unless one of them is recalled. What it closes is closed on a "
        "host while it is loaded and its transition is over; after a restart it must be loaded again."
    )


def _withdrawal(advisory: Advisory) -> list[dict[str, str]]:
    if advisory.withdrawn is None:
        return []
    told = f"Recalled on {moment(advisory.withdrawn.at)}: {advisory.withdrawn.reason}. It must no longer be loaded."
    return [{"category": "general", "title": "Recall", "text": told}]


def _tracking(advisory: Advisory) -> dict[str, object]:
    later = list(advisory.changes)
    if advisory.withdrawn is not None:
        later.append((advisory.withdrawn.at, f"Recalled: {advisory.withdrawn.reason}."))
    revisions = [(advisory.published, "Published."), *sorted(later)]
    # The time of a recall is the publisher's; one that was signed before the level counts from the level's publication.
    at = advisory.published
    history = []
    for number, (when, what) in enumerate(revisions, start=1):
        at = max(at, when)
        history.append({"date": moment(at), "number": str(number), "summary": what})
    return {
        "current_release_date": history[-1]["date"],
        "generator": {"date": history[-1]["date"], "engine": {"name": "kmend", "version": __version__}},
        "id": advisory.name,
        "initial_release_date": history[0]["date"],
        "revision_history": history,
        "status": "final",
        "version": history[-1]["number"],
    }


def _products(advisory: Advisory) -> dict[str, object]:
    package = f"linux-image-{advisory.release}"
    vendor = advisory.ecosystem.partition(":")[0]
    kernel: dict[str, object] = {
        "name": f"{vendor} {package} {advisory.package}",
        "product_id": _KERNEL,
        "product_identification_helper": {
            "purl": image_purl(advisory.release, advisory.package, advisory.architecture)
        },
    }
    livepatch: dict[str, object] = {
        "name": f"kmend livepatch for {package} {advisory.package}, level {advisory.level} or later",
        "product_id": _LIVEPATCH,
    }
    return {
        "branches": [
            _branch(
                "vendor", vendor, _branch("product_name", package, _branch("product_version", advisory.package, kernel))
            ),
            _branch(
                "vendor",
                "kmend",
                _branch(
                    "product_name",
                    f"livepatch for {package} {advisory.package}",
                    _branch("product_version_range", f"vers:generic/>={advisory.level}", livepatch),
                ),
            ),
        ],
        "relationships": [
            {
                "category": "installed_on",
                "full_product_name": {
                    "name": f"{kernel['name']} with livepatch level {advisory.level} or later in force",
                    "product_id": _TOGETHER,
                },
                "product_reference": _LIVEPATCH,
                "relates_to_product_reference": _KERNEL,
            }
        ],
    }


def _branch(category: str, name: str, inside: dict[str, object]) -> dict[str, object]:
    key = "product" if "product_id" in inside else "branches"
    return {"category": category, "name": name, key: inside if key == "product" else [inside]}


def _vulnerability(advisory: Advisory, cve: str) -> dict[str, object]:
    urls = [f"https://www.cve.org/CVERecord?id={cve}", *advisory.fixes.get(cve, ())]
    about = advisory.titles.get(cve, "")
    said: dict[str, object] = {
        "cve": cve,
        "notes": [{"category": "description", "title": "Description", "text": about or f"See the record of {cve}."}],
        "references": [
            {"category": "external", "summary": "Record" if place == 0 else "Fix", "url": url}
            for place, url in enumerate(urls)
        ],
    }
    if about:
        said["title"] = about
    reason = advisory.unaffected.get(cve)
    if reason is not None:
        both = [_KERNEL, _TOGETHER]
        return {
            **said,
            "flags": [{"label": _NOT_PRESENT, "product_ids": both}],
            "product_status": {"known_not_affected": both},
            "threats": [
                {"category": "impact", "details": f"This kernel build does not have it: {reason}.", "product_ids": both}
            ],
        }
    return {
        **said,
        "product_status": {"fixed": [_TOGETHER], "known_affected": [_KERNEL]},
        "remediations": [_remedy(advisory)],
    }


def _remedy(advisory: Advisory) -> dict[str, object]:
    if advisory.withdrawn is not None:
        told = f"Level {advisory.level} is recalled; wait for a later one, or start a kernel that has the fix."
        return {
            "category": "none_available",
            "date": moment(advisory.modified),
            "details": told,
            "product_ids": [_KERNEL],
        }
    return {
        "category": "vendor_fix",
        "date": moment(advisory.published),
        "details": f"Load livepatch level {advisory.level} or later: kmend update.",
        "product_ids": [_KERNEL],
        "restart_required": {"category": "none", "details": "The kernel changes over while it runs."},
    }
