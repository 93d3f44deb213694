"""What may keep this process from loading a module although it is root: lockdown, signature policy, IMA, SELinux, its service."""

from __future__ import annotations

from dataclasses import dataclass

from kmend.agent.livekernel import read_kernel_file
from kmend.agent.paths import Paths

_LEAST_CONFINED = frozenset({"unconfined_t", "kernel_t", "init_t", "unconfined_service_t"})


@dataclass(frozen=True, slots=True)
class Confinement:
    """What was found.

    Attributes:
        lockdown: `none`, `integrity`, `confidentiality`; empty if the kernel has no lockdown.
        sig_enforce: `module.sig_enforce` is on.
        ima_appraise: IMA demands a signature of its own on modules; None if its policy may not be read.
        ima_appended: and takes one appended to the module (`modsig`).
        selinux: `enforcing`, `permissive`, or empty if it is off.
        selinux_domain: the type that this process runs in, where SELinux is on.
        selinux_checks: the loaded policy knows the permission `module_load`.
    """

    lockdown: str
    sig_enforce: bool
    ima_appraise: bool | None
    ima_appended: bool
    selinux: str
    selinux_domain: str
    selinux_checks: bool

    @property
    def selinux_confined(self) -> bool:
        """SELinux asks whether this domain may load modules, and the domain is not one that may do everything."""
        return self.selinux == "enforcing" and self.selinux_checks and self.selinux_domain not in _LEAST_CONFINED


def confinement(paths: Paths) -> Confinement:
    """Read it from the kernel's files."""
    words = read_kernel_file(paths.sys / "kernel/security/lockdown").split()
    lockdown = next((word.strip("[]") for word in words if word.startswith("[")), "")
    appraise, appended = _ima(paths)
    enforce = read_kernel_file(paths.sys / "fs/selinux/enforce")
    context = read_kernel_file(paths.proc / "self/attr/current").rstrip("\0").split(":")
    return Confinement(
        lockdown=lockdown,
        sig_enforce=read_kernel_file(paths.sys / "module/module/parameters/sig_enforce") == "Y",
        ima_appraise=appraise,
        ima_appended=appended,
        selinux={"1": "enforcing", "0": "permissive"}.get(enforce, ""),
        selinux_domain=context[2] if enforce and len(context) >= 3 else "",
        selinux_checks=(paths.sys / "fs/selinux/class/system/perms/module_load").exists(),
    )


def _ima(paths: Paths) -> tuple[bool | None, bool]:
    """Whether IMA appraises modules (Documentation/ABI/testing/ima_policy), and whether an appended signature will do."""
    policy = paths.sys / "kernel/security/ima/policy"
    if not policy.exists():
        return False, False
    text = read_kernel_file(policy)
    if not text:  # without CONFIG_IMA_READ_POLICY nobody may read it; the built-in ones are named on the command line
        line = read_kernel_file(paths.proc / "cmdline")
        return (True, False) if "ima_policy=" in line and "secure_boot" in line else (None, False)
    rules = [line.split() for line in text.splitlines() if "func=MODULE_CHECK" in line]
    demanding = [rule for rule in rules if rule[:1] == ["appraise"]]
    return bool(demanding), any("modsig" in word for rule in demanding for word in rule)
