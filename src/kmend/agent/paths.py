"""Where everything lies on a host; one value, so that tests can give the agent another world."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Paths:
    """All folders that the agent reads or writes, below `root`."""

    root: Path = Path("/")

    @property
    def config(self) -> Path:
        """Configuration: `agent.toml`, `agent.toml.d/*.toml`."""
        return self.root / "etc/kmend"

    @property
    def state(self) -> Path:
        """What must survive a reboot."""
        return self.root / "var/lib/kmend"

    @property
    def run(self) -> Path:
        """What must not: the lock, and the files published for others."""
        return self.root / "run/kmend"

    @property
    def fetched(self) -> Path:
        """The service's own: what it fetched for the loader, which does not trust it."""
        return self.root / "var/lib/kmend-fetch"

    @property
    def service(self) -> Path:
        """The service's own, until a reboot: what it asks of the loader."""
        return self.root / "run/kmend-agent"

    @property
    def sys(self) -> Path:
        """The kernel's sysfs."""
        return self.root / "sys"

    @property
    def log(self) -> Path:
        """The kernel's log."""
        return self.root / "dev/kmsg"

    @property
    def modules(self) -> Path:
        """The kernels' modules, a folder for each release."""
        return self.root / "lib/modules"

    @property
    def proc(self) -> Path:
        """The kernel's procfs."""
        return self.root / "proc"
