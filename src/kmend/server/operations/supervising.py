"""Several server processes on one machine: one keeper, which holds their listening sockets and starts each again when it ends.

Since the keeper holds the sockets, connections that come while a process is being started again wait for it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import click

from kmend.core.notifying import Notifier
from kmend.server.config import ServerConfig
from kmend.server.operations.listening import listen, port_of, shown

AGAIN_SECONDS = 1.0
"""Between a process's end and its next start."""
GRACE_SECONDS = 40.0
_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Worker:
    sockets: list[socket.socket]
    child: subprocess.Popen[bytes] | None = None
    ended_at: float = -AGAIN_SECONDS


def run(config_path: Path, config: ServerConfig, count: int, *, port: int | None, stop_after: float | None) -> None:
    """Run `count` processes until SIGTERM or SIGINT."""
    first = listen(config.server.listen, port=port, shared=True)
    own_port = port_of(first[0]) if port is not None else None
    workers = [_Worker(first)]
    workers += [_Worker(listen(config.server.listen, port=own_port, shared=True)) for _ in range(count - 1)]
    for sock in first:
        click.echo(f"listening on {shown(sock)}")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _, __: stop.set())
    notifier = Notifier()
    end = time.monotonic() + stop_after if stop_after is not None else None
    told = False
    try:
        while not stop.is_set() and (end is None or time.monotonic() < end):
            for worker in workers:
                _tend(worker, config_path)
            if not told:
                notifier.ready()
                told = True
            notifier.alive()
            stop.wait(0.2)
    finally:
        notifier.stopping()
        _end(workers)


def _tend(worker: _Worker, config_path: Path) -> None:
    if worker.child is not None:
        if worker.child.poll() is None:
            return
        _logger.warning("a server process ended with status %d; it is started again", worker.child.returncode)
        worker.child, worker.ended_at = None, time.monotonic()
    if time.monotonic() - worker.ended_at < AGAIN_SECONDS:
        return
    descriptors = [sock.fileno() for sock in worker.sockets]
    words = [sys.executable, "-m", "kmend.server", "run", "--config", str(config_path)]
    words += [word for descriptor in descriptors for word in ("--socket", str(descriptor))]
    # It must not speak to systemd in our name.
    environment = {name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")}
    worker.child = subprocess.Popen(words, pass_fds=descriptors, env=environment)


def _end(workers: list[_Worker]) -> None:
    children = [worker.child for worker in workers if worker.child is not None]
    for child in children:
        child.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for child in children:
        try:
            child.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _logger.warning("a server process did not end in time; it is killed")
            child.kill()
            child.wait()
    for worker in workers:
        for sock in worker.sockets:
            sock.close()
