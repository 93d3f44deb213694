"""A real server in a process of its own, with TLS, and what an operator does with it."""

from __future__ import annotations

import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.unit.sample_livepatch import livepatch, write_build

from kmend.core.recall import Extent
from kmend.trust.signing.keyfiles import KeyFolder
from kmend.trust.signing.publishing import Publisher, read_build

SERVER = str(Path(sys.executable).parent / "kmend-server")
CVES = ("CVE-2026-1001", "CVE-2026-1002", "CVE-2026-1003", "CVE-2026-1004")
FUNCTIONS = ("unix_ioctl", "tcp_ack", "do_fork", "do_exit")


def free_port() -> int:
    """A port of the loopback that nobody uses now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Served:
    """A server that `kmend-server init --one-box` made; it can be killed and started again.

    Args:
        database: URL; empty for SQLite in its folder.
        names: more names that its certificate is for.
    """

    def __init__(self, folder: Path, *, database: str = "", interval: int = 60, names: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.config = folder / "server.toml"
        self.port = free_port()
        self._process: subprocess.Popen[str] | None = None
        words = ["--name", "localhost", "--name", "127.0.0.1", "--listen", f"127.0.0.1:{self.port}", "--one-box"]
        words += ["--database", database] if database else []
        words += [word for name in names for word in ("--name", name)]
        self.made = self.command(
            "init", "--config", str(self.config), "--data", str(self.data), *words, "--token-file", str(folder / "token"),
            "--json",
        )  # fmt: skip
        self.token = (folder / "token").read_text().strip()
        self.config.write_text(self.config.read_text().replace("[server]\n", f"[server]\ninterval = {interval}\n", 1))

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def repository(self) -> Path:
        return self.data / "repository"

    @property
    def authority(self) -> Path:
        return self.data / "tls/authority.pem"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with (self.folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [SERVER, "run", "--config", str(self.config)], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert "listening on" in line, (line, self.log()[-3000:])

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it; its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(how)
        status = process.wait(60)
        assert process.stdout is not None
        process.stdout.close()
        return status

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `kmend-server`, as whoever has the administrator's token."""
        environment = os.environ | {
            "KMEND_SERVER_URL": self.url, "KMEND_SERVER_TOKEN": getattr(self, "token", ""),
            "KMEND_SERVER_CA": str(self.authority),
        }  # fmt: skip
        return subprocess.run(
            [SERVER, *words], capture_output=True, text=True, env=environment, timeout=120, check=False
        )

    def command(self, *words: str) -> Any:
        """The document that a command with --json prints."""
        done = self.run(*words)
        assert done.returncode == 0, (words, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
        return json.loads(done.stdout) if done.stdout.strip() else None

    def wait_until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Wait for something that the server does by itself."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log()[-3000:]
            time.sleep(0.2)

    def wait_for_level(self, level: int) -> None:
        """Wait until the server has read a level from the repository."""
        self.wait_until(lambda: any(row["level"] == level for row in self.command("levels", "--json")))

    def publish(self, *levels: int) -> None:
        """Publish sample levels: level N closes the first N CVEs."""
        builds = []
        for level in levels:
            made = livepatch(level, CVES[:level], base=level - 1 or None, functions=FUNCTIONS[:level])
            builds.append(read_build(write_build(self.folder / f"level-{level}", *made)))
        self._publisher().publish(builds)

    def recall(self, *, fix: str = "", build_id: str = "", level: int = 0, extent: Extent = Extent.REVERT) -> None:
        self._publisher().recall(extent, "it crashes hosts", fix=fix, build_id=build_id, level=level)

    def _publisher(self) -> Publisher:
        now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
        return Publisher(self.repository, KeyFolder(self.data / "keys", lambda path: b""), now=now)
