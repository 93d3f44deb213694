"""Telling systemd how the service does: the datagrams of sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

_MAX_STATUS = 500
_logger = logging.getLogger(__name__)


class Notifier:
    """Sends to `NOTIFY_SOCKET`; without one it does nothing.

    Attributes:
        watchdog: how often the service must say that it is alive, in seconds; 0 if nobody asks.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        given = os.environ if environment is None else environment
        self._address = given.get("NOTIFY_SOCKET", "")
        # WATCHDOG_PID names another process if the variables were inherited (sd_watchdog_enabled(3)).
        meant = given.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        text = given.get("WATCHDOG_USEC", "")
        self.watchdog = int(text) / 1e6 if meant and text.isdigit() else 0.0

    def ready(self) -> None:
        """The service is up, or up again after `reloading`."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for people."""
        line = "".join(letter if letter.isprintable() else " " for letter in text)[:_MAX_STATUS]
        self._send(f"STATUS={line}")

    def alive(self) -> None:
        """The loop turns."""
        if self.watchdog:
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The service ends."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.sendto(message.encode(), address)
        except OSError as problem:
            _logger.debug("cannot tell systemd %s: %s", message, problem.strerror)
