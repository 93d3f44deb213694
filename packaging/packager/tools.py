"""Runs the distros' own packaging tools, with nothing of this machine's surroundings but PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from packager.errors import PackagingError

SECONDS = 600


def run_tool(command: Sequence[str | os.PathLike[str]], *, epoch: int, package: str) -> None:
    """Run a tool to its end.

    Args:
        epoch: what it takes for the present, in seconds since 1970-01-01 UTC.
        package: Debian's package that has it, for the message.

    Raises:
        PackagingError: it is not installed, fails, or does not end.
    """
    name = str(command[0])
    if shutil.which(name) is None:
        raise PackagingError(f"{name} is missing: run make setup-packaging, or apt-get install {package}")
    surroundings = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": str(epoch),
    }
    try:
        done = subprocess.run(
            command, env=surroundings, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise PackagingError(f"{name} has not ended after {SECONDS} s") from None
    if done.returncode != 0:
        raise PackagingError(f"{name} ended with {done.returncode}:\n{(done.stderr or done.stdout)[-4000:]}")
