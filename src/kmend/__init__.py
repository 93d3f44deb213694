"""kmend mends a running Linux kernel: livepatches made, trusted, delivered, applied and accounted for."""

from __future__ import annotations

__version__ = "0.1.0"
