"""The real hosts: virtual machines with a bare Debian, taken into the fleet by the one line that the server prints."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from demo.fleet.record import GuestView
from demo.scenario import FIXES
from kmend import lab
from kmend.core.errors import KmendError
from kmend.lab import PanicError

GUEST_PROBES = Path(__file__).parents[1] / "guest"
INSTALL_SECONDS = 300
SETTINGS = """[timing]
soak = 15
remove_after = 5
"""
"""A level is tried for fifteen seconds here, not five minutes."""
_LOOK = """
import json, os, pathlib
top = pathlib.Path("/sys/kernel/livepatch")
found = {}
for path in sorted(top.iterdir()) if top.exists() else ():
    try:
        found[path.name] = ",".join((path / name).read_text().strip() for name in ("enabled", "transition"))
    except OSError:
        pass
print(json.dumps({"boot_id": open("/proc/sys/kernel/random/boot_id").read().strip(), "livepatches": found}))
"""


@dataclass
class Guest:
    """One real host.

    Attributes:
        log: what its kernel said on boots that are over.
    """

    name: str
    ring: str
    vm: lab.Vm
    id: str = ""
    log: str = field(default="")

    def install(self, line: str) -> None:
        """Run the server's line, as root; the service goes on from there."""
        self.vm.wait_settled()
        self.vm.run(["hostnamectl", "set-hostname", self.name], check=False)
        self.vm.run(["hostname", self.name], check=False)
        self.vm.put(GUEST_PROBES, "/opt/demo")
        self.vm.put_bytes(SETTINGS.encode(), "/etc/kmend/agent.toml.d/50-demo.toml")
        self.vm.sh(f"cd /root && {line.replace(' sh kmend-install.sh', ' sh kmend-install.sh --no-update')}",
                   timeout=INSTALL_SECONDS)  # fmt: skip
        self.id = json.loads(self.vm.run(["kmend", "enrol", "--json"]).text)["host"]

    def view(self) -> GuestView:
        """The host as its own kernel shows it."""
        found = json.loads(self.vm.run(["python3", "-c", _LOOK]).text)
        probe = [
            "setpriv",
            "--reuid=nobody",
            "--regid=nogroup",
            "--clear-groups",
            "python3",
            f"/opt/demo/{FIXES[0].probe}",
        ]
        lines = dict(line.split("=", 1) for line in self.vm.run(probe, check=False).text.splitlines() if "=" in line)
        return GuestView(self.name, self.ring, found["boot_id"], found["livepatches"], lines.get("datagram", ""))

    def has(self, module: str) -> bool:
        """Whether a livepatch is in force."""
        return self.vm.sh(f"cat /sys/kernel/livepatch/{module}/enabled", check=False).text.strip() == "1"

    def panicked(self) -> bool:
        """Whether its kernel has panicked; its console is then kept."""
        try:
            self.vm.wait_end(0.2)
        except PanicError:
            self.log += self.vm.serial_log.read_text(errors="replace")
            return True
        except KmendError:
            return False
        return False

    def last_words(self) -> str:
        """What the kernel has said, all boots."""
        return self.log + (self.vm.kernel_log() if self.vm.running else "")
