"""Package URLs of a kernel of Debian's, so that Trivy and Grype match them.

A scanner's purl must have every qualifier of ours, with the same value. Trivy writes `distro=debian-12.x` and Grype
`distro=debian-12`, so there is none in ours.
"""

from __future__ import annotations

from urllib.parse import quote

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "i386", "ppc64le": "ppc64el"}


def purls(release: str, package: str, architecture: str) -> tuple[str, ...]:
    """The image's, and that of the source package.

    Args:
        release: `uname -r`.
        package: version of the package.
        architecture: `uname -m`.
    """
    arch = _ARCHITECTURES.get(architecture, architecture)
    version = quote(package, safe="")
    return (
        f"pkg:deb/debian/linux-image-{release}@{version}?arch={arch}",
        f"pkg:deb/debian/linux@{version}?arch=source",
    )
