"""OSV 1.7 of one level, in the manner of Ubuntu's livepatch notices: a scanner can hold the module's name against sysfs."""

from __future__ import annotations

import datetime
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Advisory:
    """What a level's advisory says.

    Attributes:
        name: of the advisory; databases that are not registered begin with `x_`.
        functions: `object:function`.
        references: URLs of the fixes.
        before: the level that it replaces; 0 for none.
    """

    name: str
    published: int
    level: int
    before: int
    cves: tuple[str, ...]
    package: str
    release: str
    build_id: str
    module: str
    module_sha256: str
    functions: tuple[str, ...]
    references: tuple[str, ...] = ()
    ecosystem: str = "Debian:12"
    source: str = "linux"


def osv(advisory: Advisory) -> dict[str, object]:
    """The document, as JSON's own types."""
    moment = datetime.datetime.fromtimestamp(advisory.published, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "schema_version": "1.7.0",
        "id": advisory.name if advisory.name.startswith("x_") else f"x_{advisory.name}",
        "published": moment,
        "modified": moment,
        "summary": f"livepatch level {advisory.level} for {advisory.source} {advisory.package} ({advisory.release})",
        "upstream": list(advisory.cves),
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
