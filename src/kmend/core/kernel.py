"""Which kernel: the build ID that identifies one, and the ref by which people name it."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from kmend.core.errors import MalformedError

_BUILD_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_REF = re.compile(
    r"(?P<distro>[a-z][a-z0-9]{0,31}):(?P<release>[0-9][A-Za-z0-9.+~_-]{0,63})(?:@(?P<package>[0-9][A-Za-z0-9.+~:_-]{0,63}))?"
)
NT_GNU_BUILD_ID = 3
"""Note type of the GNU build ID (`include/uapi/linux/elf.h`, `BUILD_ID` in `include/linux/elfnote.h`)."""


def check_build_id(text: str) -> str:
    """`text`, if it is a GNU build ID in lower-case hexadecimal (20 or 32 bytes).

    Raises:
        MalformedError: it is not.
    """
    if not _BUILD_ID.fullmatch(text):
        raise MalformedError(f"{text[:80]!r} is not a GNU build ID (40 or 64 lower-case hexadecimal digits)")
    return text


def build_id_from_notes(notes: bytes) -> str | None:
    """The GNU build ID inside ELF notes, such as the content of `/sys/kernel/notes`; None if there is none.

    Raises:
        MalformedError: the notes are cut short or hold a build ID of a length nobody uses.
    """
    offset = 0
    while offset + 12 <= len(notes):
        name_size, desc_size, kind = struct.unpack_from("<III", notes, offset)
        name_start = offset + 12
        desc_start = name_start + ((name_size + 3) & ~3)
        end = desc_start + ((desc_size + 3) & ~3)
        if desc_start + desc_size > len(notes):
            raise MalformedError("the ELF notes end in the middle of a note")
        if kind == NT_GNU_BUILD_ID and notes[name_start : name_start + name_size] == b"GNU\0":
            return check_build_id(notes[desc_start : desc_start + desc_size].hex())
        offset = end
    return None


@dataclass(frozen=True, slots=True)
class KernelRef:
    """How a person names a kernel build: `debian:6.1.0-50-cloud-amd64@6.1.176-1`.

    The package version may be left out when the archive offers exactly one for that release.
    """

    distro: str
    release: str
    package: str | None = None

    @classmethod
    def parse(cls, text: str) -> KernelRef:
        """Read a ref.

        Raises:
            MalformedError: `text` is not of the form `distro:release[@package-version]`.
        """
        match = _REF.fullmatch(text)
        if match is None:
            raise MalformedError(
                f"{text[:120]!r} is not a kernel ref",
                hint="write distro:release@package-version, for example debian:6.1.0-50-cloud-amd64@6.1.176-1",
            )
        return cls(match["distro"], match["release"], match["package"])

    def __str__(self) -> str:
        return f"{self.distro}:{self.release}" + (f"@{self.package}" if self.package else "")


@dataclass(frozen=True, slots=True)
class KernelIdentity:
    """One kernel build. Only `build_id` identifies it; the rest are labels, checked all the same.

    Attributes:
        build_id: GNU build ID of its vmlinux.
        release: `uname -r`.
        version: `uname -v`, for example `#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-07-04)`.
        ref: the kernel ref by which it was prepared.
        architecture: `uname -m`.
    """

    build_id: str
    release: str
    version: str
    ref: str
    architecture: str = "x86_64"

    def __post_init__(self) -> None:
        check_build_id(self.build_id)
