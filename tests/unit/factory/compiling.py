"""Objects for tests, compiled on the spot from a few lines of C or assembly."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

from kmend.core.process import run

KERNEL_FLAGS = (
    "-O2", "-ffunction-sections", "-fdata-sections", "-fno-pic", "-fno-pie", "-mcmodel=kernel", "-mno-sse", "-mno-red-zone",
    "-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-fno-stack-protector", "-mno-80387", "-fno-common", "-w",
    "-ffreestanding",
)  # fmt: skip
"""What shapes the kernel's own objects."""


@lru_cache(maxsize=256)
def compile_c(text: str, *flags: str, suffix: str = ".c", link: bool = False) -> bytes:
    """The object file of a C (or, by suffix, assembly) text; without `flags`, compiled much as the kernel is.

    Args:
        link: make a program of it.
    """
    with tempfile.TemporaryDirectory(prefix="kmend-test-") as name:
        source = Path(name) / f"unit{suffix}"
        source.write_text(text)
        run(
            ["gcc", *(flags or KERNEL_FLAGS), *([] if link else ["-c"]), "-o", "unit.o", source.name],
            cwd=Path(name),
            timeout=60,
        )
        return (Path(name) / "unit.o").read_bytes()


def assemble(text: str) -> bytes:
    """The object file of an assembly text."""
    return compile_c(text, "-O0", suffix=".s")
