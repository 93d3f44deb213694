"""Whether a restart is still needed: the flag that packages set, held against what is live-patched.

Debian's convention (Debian Policy, "Signaling that a reboot is required"): a package's scripts touch `/run/reboot-required` and
add the package's name to `/run/reboot-required.pkgs`. A kernel package does so for every new kernel. kmend only reads these.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kmend.agent.livekernel import read_kernel_file
from kmend.agent.paths import Paths

MAX_PACKAGES = 200
_MAX_NAME = 100
_KERNEL = re.compile(r"linux-(image|modules|modules-extra|headers|base)(-.*)?")


@dataclass(frozen=True, slots=True)
class Reboot:
    """The answer.

    Attributes:
        verdict: `no`, `yes`, or `live-patched`: only a new kernel waits for the restart, and this host runs the newest
            livepatch that it may run.
        reason: for people.
        packages: that asked for a restart.
    """

    verdict: str
    reason: str
    packages: tuple[str, ...] = ()
    format: str = "kmend-reboot/1"


def asked(paths: Paths) -> tuple[str, ...] | None:
    """The packages that ask for a restart, empty if it is not known which; None if none is asked for."""
    flag = paths.root / "run/reboot-required"
    if not flag.exists():
        return None
    lines = read_kernel_file(flag.with_name("reboot-required.pkgs")).splitlines()
    names = (re.sub(r"[^A-Za-z0-9.+:~_-]", "?", line.strip())[:_MAX_NAME] for line in lines)
    return tuple(dict.fromkeys(name for name in names if name))[:MAX_PACKAGES]


def judge(packages: tuple[str, ...] | None, *, oopsed: bool, current: bool, level: int) -> Reboot:
    """The answer. Pure.

    Args:
        packages: what `asked` found.
        current: the host runs the newest livepatch that it may run, and has checked recently.
        level: in force, 0 for none.
    """
    found = packages or ()
    if oopsed:
        return Reboot("yes", "the kernel has reported an oops since it was started", found)
    if packages is None:
        return Reboot("no", "nothing asks for a restart")
    if not packages:
        return Reboot("yes", "a restart is asked for (/run/reboot-required); by which package is not recorded")
    others = tuple(name for name in packages if not _KERNEL.fullmatch(name))
    if others:
        return Reboot("yes", f"a restart is asked for by {', '.join(others[:10])}", packages)
    if current and level:
        reason = (
            f"only a new kernel asks for a restart, and level {level} is in force, the newest that this host may run; "
            "the new kernel may close more than that"
        )
        return Reboot("live-patched", reason, packages)
    return Reboot("yes", "a new kernel asks for a restart, and this host does not run the newest livepatch", packages)
