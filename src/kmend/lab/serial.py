"""The serial console of a guest: kept in a file of bounded size, its end in memory, watched for a panic."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from pathlib import Path

MAX_LOG_BYTES = 64 * 1024 * 1024
TAIL_BYTES = 64 * 1024
TAIL_LINES = 80
_PANIC = re.compile(rb"Kernel panic - not syncing: ([^\r\n]{1,300})[^\r\n]*[\r\n]")


def panic_reason(console: bytes) -> str | None:
    """What the kernel's panic message says (`panic()` in `kernel/panic.c`), once its line is complete; None without one."""
    match = _PANIC.search(console)
    return match[1].decode(errors="replace").strip() if match else None


class SerialLog:
    """Reads a guest's serial port in a thread of its own, until the guest ends.

    Args:
        port: our end; this object owns it.
        path: the file that the log is appended to.
    """

    def __init__(self, port: socket.socket, path: Path) -> None:
        self._port = port
        self._path = path
        self._tail = bytearray()
        self._panic: str | None = None
        self._thread = threading.Thread(target=self._read, name="lab-serial", daemon=True)
        self._thread.start()

    @property
    def panic(self) -> str | None:
        """Why the kernel panicked, as soon as it has said so."""
        return self._panic

    def tail(self) -> str:
        """The last lines."""
        lines = bytes(self._tail).decode(errors="replace").replace("\r", "").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def finish(self, timeout: float) -> None:
        """Wait at most `timeout` seconds until all of a guest that has ended is read."""
        self._thread.join(timeout)

    def _read(self) -> None:
        written = self._path.stat().st_size if self._path.exists() else 0
        with self._port, self._path.open("ab") as log:
            while data := self._receive():
                room = max(0, MAX_LOG_BYTES - written)
                written += len(data)
                with contextlib.suppress(OSError):  # a full disk must not stop the guest; the tail is kept all the same
                    log.write(data[:room])
                    log.flush()
                self._tail += data
                if self._panic is None and b"\n" in data:
                    self._panic = panic_reason(bytes(self._tail[-len(data) - 1024 :]))
                del self._tail[:-TAIL_BYTES]

    def _receive(self) -> bytes:
        try:
            return self._port.recv(65536)
        except OSError:
            return b""
