"""In the guest: one process that stays, as a service does, and updates to level after level; a line of figures for each.

Reads from standard input, a line each: the first and the last level of a stretch. Writes JSON lines to the file that it was
given.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, "/opt/kmend/lib")

from kmend.agent.main import main
from kmend.agent.session import Host

EVERY = 5
"""The figures that need the caches dropped are taken at every fifth level."""


def number(path: str, name: str) -> int:
    """A value of a file of procfs, in its own unit."""
    for line in Path(path).read_text(encoding="ascii", errors="replace").splitlines():
        if line.split(":")[0] == name:
            return int(line.split()[1])
    return 0


def tree(folder: str) -> tuple[int, int]:
    """How many files there are, and their bytes."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return len(files), sum(path.stat().st_size for path in files)


def on_lists() -> int:
    """kB that are free, but lie on the lists of single processors, and are not counted as free."""
    lines = Path("/proc/zoneinfo").read_text(encoding="ascii").splitlines()
    return (
        sum(int(line.split()[1]) for line in lines if line.split()[:1] == ["count:"])
        * os.sysconf("SC_PAGESIZE")
        // 1024
    )


def figures(level: int, seconds: float, status: int) -> dict[str, float]:
    """What there is now; kB where Linux counts in kB."""
    gc.collect()
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="ascii")
    used = number("/proc/meminfo", "MemTotal") - number("/proc/meminfo", "MemFree")
    state, run = tree("/var/lib/kmend"), tree("/run/kmend")
    modules = Path("/proc/modules").read_text(encoding="ascii").splitlines()
    return {
        "level": level,
        "seconds": seconds,
        "status": status,
        "agent private kB": number("/proc/self/smaps_rollup", "Private_Dirty"),
        "agent descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "agent anonymous kB": number("/proc/self/status", "RssAnon"),
        "other processes' anonymous kB": number("/proc/meminfo", "AnonPages") - number("/proc/self/status", "RssAnon"),
        "page tables kB": number("/proc/meminfo", "PageTables"),
        "buffers kB": number("/proc/meminfo", "Buffers"),
        "shared memory and tmpfs kB": number("/proc/meminfo", "Shmem"),
        "kernel slab kB": number("/proc/meminfo", "Slab"),
        "kernel unreclaimable slab kB": number("/proc/meminfo", "SUnreclaim"),
        "kernel vmalloc kB": number("/proc/meminfo", "VmallocUsed"),
        "kernel per-CPU kB": number("/proc/meminfo", "Percpu"),
        "all memory in use, caches dropped kB": used - number("/proc/meminfo", "Cached") - on_lists(),
        "modules of kmend": sum(line.startswith("kmend_") for line in modules),
        "modules, all bytes": sum(int(line.split()[1]) for line in modules),
        "livepatches": len(list(Path("/sys/kernel/livepatch").iterdir())),
        "functions hooked": len(Path("/sys/kernel/tracing/enabled_functions").read_text().splitlines()),
        "state files": state[0],
        "state bytes": state[1],
        "run files": run[0],
        "temporary files": tree(tempfile.gettempdir())[0],
        "processes": sum(path.name.isdigit() for path in Path("/proc").iterdir()),
    }


def update(level: int) -> tuple[int, float]:
    """One update; its status and seconds."""
    begin = time.monotonic()
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        status = main(["update", "--level", str(level), "--json"], host=Host(spawn_settler=lambda: None))
    return status, time.monotonic() - begin


def run(report: Path) -> None:
    """Stretch after stretch, until the input ends."""
    for line in sys.stdin:
        first, last = (int(word) for word in line.split())
        for level in range(first, last + 1):
            status, seconds = update(level)
            if level % EVERY == 0 or status:
                with report.open("a") as stream:
                    stream.write(json.dumps(figures(level, seconds, status)) + "\n")
        with report.open("a") as stream:
            stream.write(json.dumps({"done": last}) + "\n")


if __name__ == "__main__":
    run(Path(sys.argv[1]))
