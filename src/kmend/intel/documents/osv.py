"""OSV 1.7 of one level, in the manner of Ubuntu's livepatch notices: a scanner can hold the module's name against sysfs."""

from __future__ import annotations

from kmend.intel.documents.advisory import Advisory, moment


def osv(advisory: Advisory) -> dict[str, object]:
    """The document, as JSON's own types; one of a level that is recalled is withdrawn."""
    recall = advisory.withdrawn
    # A recall may have been signed before the level was.
    withdrawn = {"withdrawn": moment(max(recall.at, advisory.published))} if recall is not None else {}
    return {
        "schema_version": "1.7.0",
        "id": advisory.name if advisory.name.startswith("x_") else f"x_{advisory.name}",
        "published": moment(advisory.published),
        "modified": moment(advisory.modified),
        **withdrawn,
        "summary": f"livepatch level {advisory.level} for {advisory.source} {advisory.package} ({advisory.release})",
        "upstream": [cve for cve in advisory.cves if cve not in advisory.unaffected],
        "affected": [
            {
                "package": {"ecosystem": advisory.ecosystem, "name": advisory.source},
                "versions": [advisory.package],
                "ecosystem_specific": {
                    "availability": "livepatch",
                    "module_name": advisory.module,
                    "module_sha256": advisory.module_sha256,
                    "kernel_release": advisory.release,
                    "build_id": advisory.build_id,
                    "patched_functions": list(advisory.functions),
                },
            }
        ],
        "references": [{"type": "FIX", "url": url} for url in advisory.references],
        "database_specific": {"requires_reboot": False, "cumulative": True, "replaces_level": advisory.before},
    }
