"""Package URLs of a kernel of Debian's, so that Trivy and Grype match them.

Grype finds the kernel twice: as a package of dpkg's, and in the image file below `/boot` (syft, pkg/cataloger/kernel), which it
calls `linux-kernel` with the release for a version. It holds the second one against NVD's CPEs, and most of what it reports of a
kernel is of that; dpkg's has `linux-signed-amd64` for its source, of which Debian's tracker knows nothing.

A scanner's purl must have every qualifier of ours, with the same value. Trivy writes `distro=debian-12.x` and Grype
`distro=debian-12`, so there is none in ours.

Scanners report the source package's CVEs on every binary package that is made of it. These fall into three kinds:

- the image, signed or not: what runs. Verdicts are of it.
- headers. They hold declarations and inline functions of the kernel, and for programs (`linux-libc-dev`) its interface; none of
  what is in a C file. So a CVE whose fix changes C files alone is not in them, whatever kernel runs, and that is said of them.
  One whose fix changes a header that the package carries may be: modules are built with it. Nothing is said then, nor where the
  CNA names no files.
- tools that are built of the kernel's source (`linux-perf`, `bpftool`, `linux-kbuild`, `linux-config`, ...). They have code of
  their own, and nothing is said of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "i386", "ppc64le": "ppc64el"}
_ABI = re.compile(r"(?P<abi>[0-9][0-9.]*(?:-[0-9]+|\+[a-z0-9]+))-(?P<flavour>[a-z0-9-]+)")
_OF_PROGRAMS = re.compile(r"(?:arch/[a-z0-9]+/)?include/(?:uapi|generated/uapi)/")
_SOURCES = (".c", ".S", ".rs")
_BUILD_FOLDERS = ("scripts/", "tools/")


@dataclass(frozen=True, slots=True)
class Headers:
    """A package with headers of the kernel.

    Attributes:
        for_programs: it has the interface for programs alone.
    """

    purl: str
    for_programs: bool

    def has_none_of(self, files: Sequence[str]) -> bool:
        """Whether no file that a fix changes is in the package; False if no file is named.

        Args:
            files: by mainline's paths.
        """
        if not files:
            return False
        if self.for_programs:
            return not any(_OF_PROGRAMS.match(file) for file in files)
        return all(file.endswith(_SOURCES) and not file.startswith(_BUILD_FOLDERS) for file in files)


def purls(release: str, package: str, architecture: str) -> tuple[str, ...]:
    """The image's, the unsigned image's, that of the source package, and that of the image's file.

    Args:
        release: `uname -r`.
        package: version of the package.
        architecture: `uname -m`.
    """
    arch = _ARCHITECTURES.get(architecture, architecture)
    return (
        image_purl(release, package, architecture),
        f"{_deb(f'linux-image-{release}-unsigned', package)}?arch={arch}",
        f"{_deb('linux', package)}?arch=source",
        f"pkg:generic/linux-kernel@{quote(release, safe='')}",
    )


def image_purl(release: str, package: str, architecture: str) -> str:
    """The image's alone."""
    return f"{_deb(f'linux-image-{release}', package)}?arch={_ARCHITECTURES.get(architecture, architecture)}"


def headers(release: str, package: str) -> tuple[Headers, ...]:
    """Packages with headers, of the same source and version; without architecture, since some are for all of them."""
    names = [f"linux-headers-{release}"]
    match = _ABI.fullmatch(release)
    if match is not None:
        realtime = "-rt" if match["flavour"].startswith("rt-") else ""
        names.append(f"linux-headers-{match['abi']}-common{realtime}")
    found = [Headers(_deb(name, package), False) for name in names]
    return (*found, Headers(_deb("linux-libc-dev", package), True))


def _deb(name: str, package: str) -> str:
    return f"pkg:deb/debian/{quote(name, safe='')}@{quote(package, safe='')}"
