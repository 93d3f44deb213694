"""Kernel facts, as a file or by the factory's program: the two meet in documents only."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from kmend.core import durable
from kmend.core.document import decode
from kmend.core.facts import KernelFacts
from kmend.core.process import ProgramFailedError, run
from kmend.server.feeds.errors import FeedError

MAX_BYTES = 32 * 1024 * 1024
_PROGRAM = "kmend-factory"


def facts_of(ref: str, file: Path | None = None, *, quick: bool = False) -> KernelFacts:
    """The facts of a kernel build.

    Args:
        ref: a kernel ref, `debian:6.1.0-50-amd64`.
        file: with the document; None asks `kmend-factory`, which looks into the kernel's packages if it has not yet.
        quick: do not have the kernel prepared for them; they are made from its source's Makefiles then.

    Raises:
        FeedError: they cannot be had.
        MalformedError: the document is none.
    """
    if file is not None:
        return decode(KernelFacts, durable.read_bounded(file, max_bytes=MAX_BYTES), max_bytes=MAX_BYTES)
    beside = Path(sys.executable).with_name(_PROGRAM)
    program = str(beside) if beside.exists() else shutil.which(_PROGRAM)
    if program is None:
        raise FeedError(
            f"{_PROGRAM} is not installed here, and only it can look into a kernel's packages",
            hint="install the extra `factory`, or bring them: kmend-factory kernel facts REF -o FILE, and --facts FILE here",
        )
    try:
        found = run([program, "kernel", "facts", ref, *(["--quick"] if quick else []), "--json"], timeout=1800)
    except ProgramFailedError as problem:
        lines = [line.strip() for line in problem.output.splitlines()]
        told = [line.partition(": ")[2] for line in lines if line.lower().startswith("error: ")]
        hints = [line.partition(": ")[2] for line in lines if line.startswith("hint: ")]
        raise FeedError(
            f"there are no facts of {ref}: {told[0] if told else problem.message}", hint=hints[0] if hints else ""
        ) from None
    return decode(KernelFacts, found.stdout, max_bytes=MAX_BYTES)
