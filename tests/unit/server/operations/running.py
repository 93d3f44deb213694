"""A server as a process, on a port of its own on loopback."""

from __future__ import annotations

import datetime
import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import urllib3

from kmend.server.operations import founding
from kmend.server.operations.founding import Founded, Plan

PATIENCE = 40


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Running:
    """Made by `init`, and run.

    Args:
        options: of `run`, besides.
        extra: configuration, besides; a text of TOML.
    """

    def __init__(self, folder: Path, *options: str, extra: str = "", one_box: bool = False) -> None:
        self.folder = folder
        self.config = folder / "server.toml"
        now = datetime.datetime.now(datetime.timezone.utc)
        plan = Plan(
            self.config, folder / "data", ("localhost", "127.0.0.1"), (f"127.0.0.1:{free_port()}",), "", one_box
        )
        self.made: Founded = founding.found(plan, now=now, say=lambda _: None)
        self.config.write_text(self.config.read_text() + extra)
        self.authority = folder / "data/tls/authority.pem"
        self.errors = (folder / "errors").open("w+")
        words = [sys.executable, "-m", "kmend.server", "run", "--config", str(self.config), *options]
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=dict(os.environ)
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), self.log()
        self.port = int(line.rpartition(":")[2])
        context = ssl.create_default_context(cafile=str(self.authority))
        self.pool = urllib3.PoolManager(
            ssl_context=context, timeout=PATIENCE, retries=urllib3.Retry(connect=20, backoff_factor=0.1)
        )

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def get(self, path: str, **headers: str) -> urllib3.BaseHTTPResponse:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.pool.request("GET", f"{self.url}{path}", headers=given)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.pool.clear()

    def log(self) -> str:
        self.errors.flush()
        return (self.folder / "errors").read_text()

    def close(self) -> None:
        self.end(signal.SIGKILL)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.errors.close()
