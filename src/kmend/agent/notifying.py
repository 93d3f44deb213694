"""Telling systemd how the service does; the server does so too."""

from __future__ import annotations

from kmend.core.notifying import Notifier

__all__ = ["Notifier"]
