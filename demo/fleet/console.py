"""The server of the demonstration, as an operator has it: its program, its command line, and a webhook that listens."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from demo.story import Story
from kmend import lab
from kmend.core.errors import SystemProblemError
from kmend.core.process import run

SERVER = str(Path(sys.executable).parent / "kmend-server")
INTERVAL_SECONDS = 60
"""So often hosts check in here; a quarter of an hour would be a long story."""


class Webhook:
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        notices = self.notices

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                notices.append(self.rfile.read(min(int(self.headers.get("Content-Length", "0")), 100_000)).decode())
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


class Console:
    """A server in a process of its own; a context manager.

    Args:
        folder: for everything that it keeps.
    """

    def __init__(self, story: Story, folder: Path) -> None:
        self.story = story
        self.folder = folder
        self.data = folder / "server"
        self.config = folder / "server.toml"
        self.port = _free_port()
        self.webhook = Webhook()
        self._process: subprocess.Popen[str] | None = None
        self._environment: dict[str, str] = {}

    @property
    def url(self) -> str:
        """For what runs on this machine; guests have `public`."""
        return f"https://localhost:{self.port}"

    @property
    def authority(self) -> Path:
        """The certificate of the server's authority."""
        return self.data / "tls/authority.pem"

    @property
    def repository(self) -> Path:
        """Where levels are published."""
        return self.data / "repository"

    @property
    def keys(self) -> Path:
        """The publisher's keys."""
        return self.data / "keys"

    def found(self) -> None:
        """`kmend-server init`; the configuration is then set for a demonstration."""
        token = self.folder / "token"
        names = ["--name", lab.HOST_ADDRESS, "--name", "localhost"]
        self.story.command(["kmend-server", "init", "--one-box", *names])
        run([SERVER, "init", "--config", self.config, "--data", self.data, "--one-box", *names,
             "--listen", f"127.0.0.1:{self.port}", "--token-file", token], timeout=120)  # fmt: skip
        self._environment = os.environ | {
            "KMEND_SERVER_URL": self.url, "KMEND_SERVER_CA": str(self.authority), "KMEND_SERVER_TOKEN": token.read_text().strip(),
        }  # fmt: skip
        text = self.config.read_text().replace("[server]\n", f"[server]\ninterval = {INTERVAL_SECONDS}\n", 1)
        self.config.write_text(f'{text}\n[notices]\nallow_networks = ["127.0.0.0/8"]\nallow_http = true\n')

    def start(self) -> None:
        """`kmend-server run`."""
        self.story.command(["kmend-server", "run"])
        with (self.folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                [SERVER, "run", "--config", str(self.config)], stdout=subprocess.PIPE, stderr=log, text=True
            )
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if "listening on" not in line:
            raise SystemProblemError(f"the server does not start: {(self.folder / 'server.log').read_text()[-800:]}")

    def close(self) -> None:
        """End it."""
        self.webhook.close()
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            if self._process.stdout is not None:
                self._process.stdout.close()

    def run(self, *words: str, show: bool = True) -> str:
        """Run a command of the operator's; what it prints."""
        if show:
            self.story.command(["kmend-server", *words])
        done = run([SERVER, *words], environment=self._environment, timeout=120)
        return done.text

    def tell(self, *words: str) -> None:
        """Run one, and show what it prints."""
        self.story.say(self.run(*words))

    def ask(self, *words: str) -> Any:
        """The document that one prints with --json; not shown."""
        return json.loads(self.run(*words, "--json", show=False))

    def status_of(self, *words: str) -> int:
        """The exit status of one."""
        return run([SERVER, *words], environment=self._environment, timeout=120, check=False).status

    def wait(self, what: str, condition: Callable[[], bool], seconds: float) -> float:
        """Wait for something that happens by itself; returns the seconds that it took.

        Raises:
            SystemProblemError: it did not happen in time.
        """
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > seconds:
                raise SystemProblemError(f"{what}: not after {seconds:.0f} s", hint=f"see {self.folder / 'server.log'}")
            time.sleep(0.5)
        return time.monotonic() - began


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
