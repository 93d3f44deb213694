"""What a boot image says of its kernel, however it is compressed; and those that say nothing."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.factory.kernels.images import BUILD_ID, boot_image, notes, vmlinux

from kmend.core.errors import SystemProblemError
from kmend.core.process import run
from kmend.factory.kernels.bootimage import BootImage, read_boot_image
from kmend.factory.kernels.indexing import KernelError

TOLD = "6.1.0-9-amd64 (team@example.org) #1 SMP PREEMPT_DYNAMIC Debian 6.1.8-1 (2026-07-02)"
KERNEL = vmlinux(notes())
SIZE = struct.pack("<I", len(KERNEL))

FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "lzma": lambda content: lzma.compress(content, format=lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "lz4": lambda content: run(["lz4", "-l", "-c"], stdin=content).stdout,
    "zstd": lambda content: run(["zstd", "-c"], stdin=content).stdout,
}


@pytest.mark.parametrize("format_", FORMATS)
def test_each_way_of_compressing(format_: str) -> None:
    image = boot_image(FORMATS[format_](KERNEL) + SIZE, TOLD)
    version = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.8-1 (2026-07-02)"
    assert read_boot_image(image) == BootImage(BUILD_ID, "6.1.0-9-amd64", version)


PACKED = gzip.compress(KERNEL) + SIZE
BAD = {
    "nothing": (b"", "none of an x86 kernel"),
    "another file": (b"\x7fELF" * 400, "none of an x86 kernel"),
    "an old protocol": (boot_image(PACKED, TOLD, 0x207), "0x207, which is too old"),
    "no name": (boot_image(PACKED, ""), "does not say of which kernel"),
    "cut short": (boot_image(PACKED, TOLD)[:-5], "is cut short"),
    "an unknown format": (boot_image(b"\x89LZO" + PACKED, TOLD), "unknown way (894c5a4f1f8b)"),
    "damaged": (boot_image(b"\xfd7zXZ\0" + PACKED, TOLD), "is damaged"),
    "no vmlinux": (boot_image(gzip.compress(b"junk" * 99) + SIZE, TOLD), "no 64-bit vmlinux"),
    "no notes": (boot_image(gzip.compress(vmlinux(notes(), (1,))) + SIZE, TOLD), "has no build ID"),
    "notes cut short": (boot_image(gzip.compress(KERNEL[:-8]) + SIZE, TOLD), "vmlinux in the boot image is damaged"),
    "another size": (boot_image(FORMATS["lz4"](KERNEL) + struct.pack("<I", 9), TOLD), "10 bytes instead of 9"),
    "too large": (boot_image(FORMATS["lz4"](KERNEL) + b"\xff" * 4, TOLD), "says that it has 4294967295 bytes"),
}


@pytest.mark.parametrize("case", BAD)
def test_images_that_say_nothing(case: str) -> None:
    image, message = BAD[case]
    with pytest.raises(KernelError) as caught:
        read_boot_image(image)
    assert message in caught.value.message
    assert "--quick" in caught.value.hint


def test_a_program_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = boot_image(FORMATS["lz4"](KERNEL) + SIZE, TOLD)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemProblemError) as caught:
        read_boot_image(image)
    assert caught.value.hint == "install the package lz4"
