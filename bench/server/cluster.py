"""A PostgreSQL of the benchmark's own, as a careful operator would run it: fsync and synchronous_commit on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from kmend.core.errors import SystemProblemError
from kmend.core.process import run

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "512MB",
    "max_connections": "60",
    "listen_addresses": "",
}
"""What differs from Debian's defaults, and what must not."""
_ACCOUNT = "postgres"


def programs() -> Path:
    """The folder of PostgreSQL's programs; the newest version that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise SystemProblemError("PostgreSQL is not installed", hint="make setup installs it")
    return found[-1].parent


def _as_account(*words: str | Path) -> list[str]:
    plain = [str(word) for word in words]
    if os.geteuid() != 0:  # PostgreSQL refuses to run as root
        return plain
    return ["setpriv", f"--reuid={_ACCOUNT}", f"--regid={_ACCOUNT}", "--clear-groups", *plain]


class Cluster:
    """A cluster in a folder; it can be killed and started again.

    Args:
        durable: False only for tests that have nothing to do with durability.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder = folder
        self._settings = SETTINGS if durable else {**SETTINGS, "fsync": "off", "synchronous_commit": "off"}
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Make it, and the database `kmend`."""
        self.folder.mkdir(parents=True)
        if os.geteuid() == 0:
            shutil.chown(self.folder, _ACCOUNT, _ACCOUNT)
        data = self.folder / "data"
        run(_as_account(programs() / "initdb", "-D", data, "-A", "trust", "-U", "kmend", "-E", "UTF8"), timeout=120)
        self.start()
        run([str(programs() / "createdb"), "-h", str(self.folder), "-U", "kmend", "kmend"], timeout=60)

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        options = [f"-c{name}={value}" for name, value in self._settings.items()]
        words = _as_account(programs() / "postgres", "-D", self.folder / "data", "-k", self.folder, *options)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log)
        ready = [str(programs() / "pg_isready"), "-q", "-h", str(self.folder), "-U", "kmend", "-d", "postgres"]
        deadline = time.monotonic() + 60
        while subprocess.run(ready, check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemProblemError(f"PostgreSQL does not start: {(self.folder / 'log').read_text()[-800:]}")
            time.sleep(0.1)

    @property
    def url(self) -> str:
        """Of the database `kmend`, for SQLAlchemy."""
        return self.database_url("kmend")

    def database_url(self, name: str) -> str:
        """Of another of its databases."""
        return f"postgresql+psycopg://kmend@/{name}?host={self.folder}"

    @property
    def pid(self) -> int:
        """Of the first process; 0 when it does not run."""
        return self._process.pid if self._process is not None else 0

    def cpu_seconds(self) -> float:
        """Processor time of all its processes that still run."""
        ticks = os.sysconf("SC_CLK_TCK")
        total = 0.0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if self.pid in (int(stat.parent.name), int(fields[1])):
                total += (int(fields[11]) + int(fields[12])) / ticks
        return total

    def kill(self) -> None:
        """SIGKILL to every process of it, the first one first."""
        if self._process is None:
            return
        children = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == self.pid:
                    children.append(int(stat.parent.name))
        for process in (self.pid, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait(60)
        while any(Path(f"/proc/{process}").exists() for process in children):
            time.sleep(0.02)
        self._process = None

    def stop(self, how: str = "fast") -> None:
        """Stop it: `fast`, or `immediate`, which is a crash."""
        if self._process is not None:
            subprocess.run(_as_account(programs() / "pg_ctl", "-D", self.folder / "data", "-m", how, "-w", "stop"),
                           check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
            self._process.wait(60)
            self._process = None


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A running cluster that ends with the block."""
    made = Cluster(folder)
    made.create()
    try:
        yield made
    finally:
        made.stop()
