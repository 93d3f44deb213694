"""The kernel CNA's tree, from where somebody has put it."""

from __future__ import annotations

from pathlib import Path

from kmend.core.process import ProgramFailedError, run
from kmend.intel.feeds import Cna, read_archive, read_folder


def tree(place: Path) -> tuple[Cna, int]:
    """The tree, and when it was as it is, in seconds since 1970-01-01 UTC: the newest commit's time, or the file's.

    Args:
        place: a checkout of `vulns.git`, a folder with what is in one, or a tar archive.

    Raises:
        MalformedError: it is none of them.
        SystemProblemError: it cannot be read.
    """
    if not place.is_dir():
        return read_archive(place), int(place.stat().st_mtime)
    found = read_folder(place)
    return found, _committed(place)


def _committed(place: Path) -> int:
    if (place / ".git").exists():
        try:
            # Another account's checkout: nothing of its configuration is run, only its log is read.
            line = ["git", "-c", f"safe.directory={place.resolve()}", "-C", str(place), "log", "-1", "--format=%ct"]
            return int(run(line, timeout=60).text.strip())
        except (ProgramFailedError, ValueError):
            pass
    return int(place.stat().st_mtime)
