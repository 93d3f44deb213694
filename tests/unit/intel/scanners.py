"""How Trivy and Grype apply OpenVEX to what they found, by the rules of go-vex and of their own sources.

Written from github.com/openvex/go-vex (pkg/vex: PurlMatches, Component.Matches, Statement.Matches, VEX.Matches), from
github.com/aquasecurity/trivy (pkg/vex/openvex.go: NotAffected) and github.com/anchore/grype (grype/vex/openvex:
findMatchingStatement, FilterMatches).
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote

_SUPPRESSING = ("not_affected", "fixed")


def purl_matches(general: str, special: str) -> bool:
    """go-vex's PurlMatches: the first may leave out a version and qualifiers that the second has."""
    one, two = _parse(general), _parse(special)
    if one is None or two is None or one[0] != two[0]:
        return False
    if one[1] and one[1] != two[1]:
        return False
    return all(two[2].get(name) == value for name, value in one[2].items())


def matching(document: Any, cve: str, product: str) -> list[Any]:
    """go-vex's VEX.Matches without subcomponents: those of equal time in the reverse of the document's order."""
    found = [
        statement
        for statement in reversed(document["statements"])
        if cve in (statement["vulnerability"]["name"], *statement["vulnerability"].get("aliases", ()))
        and any(_is(component, product) for component in statement["products"])
    ]
    return sorted(found, key=lambda statement: str(statement.get("timestamp", document["timestamp"])))


def trivy(document: Any, report: Any) -> list[tuple[str, str]]:
    """What stands in Trivy's report after `--vex`: (CVE, package). Of several statements the latest counts."""
    left = []
    for result in report["Results"]:
        for item in result.get("Vulnerabilities", ()):
            found = matching(document, item["VulnerabilityID"], item["PkgIdentifier"]["PURL"])
            if not found or found[-1]["status"] not in _SUPPRESSING:
                left.append((item["VulnerabilityID"], item["PkgName"]))
    return left


def grype(document: Any, report: Any) -> list[tuple[str, str]]:
    """The same of Grype's. Products are tried by what was scanned first, then by the package; the first statement counts."""
    target = report["source"]["target"]
    products = [f"pkg:generic/{str(target).lower()}@{report['source'].get('version', '')}"]
    left = []
    for item in report["matches"]:
        cve, artifact = item["vulnerability"]["id"], item["artifact"]
        found = next((found for one in (*products, artifact["purl"]) if (found := matching(document, cve, one))), [])
        if not found or found[0]["status"] not in _SUPPRESSING:
            left.append((cve, artifact["name"]))
    return left


def trivy_report(found: list[tuple[str, str, str]]) -> Any:
    """`trivy rootfs --format json /` of (CVE, package, version) on Debian 12."""
    return {
        "SchemaVersion": 2,
        "ArtifactName": "/",
        "ArtifactType": "filesystem",
        "Metadata": {"OS": {"Family": "debian", "Name": "12.11"}},
        "Results": [
            {
                "Target": "/ (debian 12.11)",
                "Class": "os-pkgs",
                "Type": "debian",
                "Vulnerabilities": [
                    {
                        "VulnerabilityID": cve,
                        "PkgID": f"{name}@{version}",
                        "PkgName": name,
                        "PkgIdentifier": {
                            "PURL": f"pkg:deb/debian/{name}@{version}?arch={_architecture(name)}&distro=debian-12.11",
                            "UID": f"{place:016x}",
                        },
                        "InstalledVersion": version,
                        "Status": "affected",
                    }
                    for place, (cve, name, version) in enumerate(found)
                ],
            }
        ],
    }


def grype_report(found: list[tuple[str, str, str]]) -> Any:
    """`grype dir:/ -o json` of the same."""
    return {
        "matches": [
            {
                "vulnerability": {"id": cve, "namespace": "debian:distro:debian:12", "fix": {"state": "not-fixed"}},
                "artifact": {
                    "name": name,
                    "version": version,
                    "type": "deb",
                    "purl": f"pkg:deb/debian/{name}@{version}?arch={_architecture(name)}&distro=debian-12&upstream=linux",
                },
            }
            for cve, name, version in found
        ],
        "source": {"type": "directory", "target": "/"},
        "distro": {"name": "debian", "version": "12"},
    }


def grype_report_of_files(found: list[tuple[str, str]]) -> Any:
    """The same of kernels that are found as files below /boot: (CVE, release). Syft takes the version from the image itself."""
    return {
        "matches": [
            {
                "vulnerability": {"id": cve, "namespace": "nvd:cpe", "fix": {"state": "unknown"}},
                "artifact": {
                    "name": "linux-kernel",
                    "version": release,
                    "type": "linux-kernel",
                    "purl": f"pkg:generic/linux-kernel@{release.replace('+', '%2B')}",
                },
            }
            for cve, release in found
        ],
        "source": {"type": "directory", "target": "/"},
        "distro": {"name": "debian", "version": "12"},
    }


def _architecture(name: str) -> str:
    return "all" if name.endswith(("-common", "-common-rt")) else "amd64"


def _is(component: Any, product: str) -> bool:
    known = component.get("@id", "")
    if known == product or (known.startswith("pkg:") and purl_matches(known, product)):
        return True
    names: dict[str, str] = component.get("identifiers", {})
    return any(name == product or (kind == "purl" and purl_matches(name, product)) for kind, name in names.items())


def _parse(purl: str) -> tuple[str, str, dict[str, str]] | None:
    """Type, namespace and name; version; qualifiers."""
    scheme, _, rest = purl.partition(":")
    if scheme != "pkg" or "/" not in rest:
        return None
    path, _, query = rest.partition("#")[0].partition("?")
    name, _, version = path.strip("/").rpartition("@") if "@" in path else (path.strip("/"), "", "")
    # A plus is a plus in a purl's qualifiers.
    return unquote(name), unquote(version), dict(parse_qsl(query.replace("+", "%2B")))
