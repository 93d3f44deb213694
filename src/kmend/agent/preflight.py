"""May this host load, or take off, a livepatch now? Facts in, refusals out; `gather` reads the facts."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from kmend.agent.config import PolicyConfig
from kmend.agent.livekernel import LiveKernel, RunningKernel, View, read_kernel_file
from kmend.agent.paths import Paths
from kmend.agent.recovery import TAINT_DIE
from kmend.core.manifest import Manifest

CAP_SYS_MODULE = 16
# Inode numbers of the initial namespaces, fixed by the kernel (include/linux/proc_ns.h, PROC_*_INIT_INO).
_INIT_NAMESPACES = {"pid": 0xEFFFFFFC, "user": 0xEFFFFFFD}
_VOLATILE = frozenset({"tmpfs", "ramfs", "rootfs"})


@dataclass(frozen=True, slots=True)
class Facts:
    """What preflight looks at.

    Attributes:
        container: the agent does not run in the host's own namespaces.
        capture_kernel: this is a kdump kernel, which only saves a crash dump.
        may_load: this process has CAP_SYS_MODULE.
        livepatch: the kernel has the livepatch interface.
        ftrace: `kernel.ftrace_enabled`; livepatching hooks in by ftrace.
        modules_disabled: `kernel.modules_disabled`, which only a reboot takes back.
        signatures_enforced: the kernel loads only modules signed by a key that it trusts.
        tainted: the kernel's taint flags.
        volatile_state: the state folder does not survive a reboot.
        machine: `uname -m`.
    """

    container: bool
    capture_kernel: bool
    may_load: bool
    livepatch: bool
    ftrace: bool
    modules_disabled: bool
    signatures_enforced: bool
    tainted: int
    volatile_state: bool
    machine: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason not to go on: a code for machines, a sentence and a hint for people.

    Attributes:
        fatal: False for what a person should know and what does not keep a level out.
    """

    code: str
    message: str
    hint: str = ""
    fatal: bool = True


def gather(paths: Paths, kernel: LiveKernel) -> Facts:
    """Read the facts from the kernel's files."""
    return Facts(
        container=any(_namespace(paths, kind) not in (number, None) for kind, number in _INIT_NAMESPACES.items()),
        capture_kernel=(paths.proc / "vmcore").exists() or "elfcorehdr=" in read_kernel_file(paths.proc / "cmdline"),
        may_load=bool(_capabilities(paths) >> CAP_SYS_MODULE & 1),
        livepatch=kernel.supports_livepatch(),
        ftrace=kernel.setting("ftrace_enabled") != "0",
        modules_disabled=kernel.setting("modules_disabled") == "1",
        signatures_enforced=_signatures_enforced(paths),
        tainted=tainted(kernel),
        volatile_state=_filesystem(paths, paths.state) in _VOLATILE,
        machine=platform.machine(),
    )


def tainted(kernel: LiveKernel) -> int:
    """The kernel's taint flags."""
    text = kernel.setting("tainted")
    return int(text) if text.isdigit() else 0


def host_refusals(facts: Facts, policy: PolicyConfig) -> tuple[Refusal, ...]:
    """Why this host must not touch its kernel at all, whatever the level."""
    refusals = []
    if facts.capture_kernel:
        refusals.append(Refusal("capture-kernel", "this is a kdump kernel, which only saves a crash dump"))
    if facts.container:
        refusals.append(
            Refusal(
                "container", "kmend runs inside a container, which shares its host's kernel", "run kmend on the host"
            )
        )
    if not facts.livepatch:
        refusals.append(
            Refusal(
                "no-livepatch", "the running kernel has no livepatch interface (CONFIG_LIVEPATCH)", "use another kernel"
            )
        )
    if not facts.may_load:
        refusals.append(Refusal("privilege", "kmend may not load modules (CAP_SYS_MODULE)", "run it as root"))
    if facts.modules_disabled:
        refusals.append(
            Refusal(
                "modules-disabled",
                "module loading is switched off (kernel.modules_disabled)",
                "only a reboot undoes it",
            )
        )
    if not facts.ftrace:
        refusals.append(
            Refusal("ftrace-off", "ftrace is switched off, and livepatching needs it", "sysctl kernel.ftrace_enabled=1")
        )
    if facts.tainted & TAINT_DIE:
        refusals.append(
            Refusal("oopsed", "this kernel has reported an oops since boot; kmend does not touch it any more", "reboot")
        )
    if facts.volatile_state and not policy.volatile_state:
        refusals.append(
            Refusal(
                "volatile-state",
                "the state folder does not survive a reboot, so that a crash could not be told afterwards",
                "keep /var/lib/kmend on a disk, or set policy.volatile_state = true",
            )
        )
    return tuple(refusals)


def pending_refusal(view: View) -> Refusal | None:
    """A transition is under way; the kernel answers every load and every disable with EBUSY meanwhile."""
    moving = view.moving
    if moving is None:
        return None
    direction = "coming into force" if moving.enabled else "being taken off"
    return Refusal(
        "transition-pending",
        f"livepatch {moving.name} is still {direction}; until its transition is over the kernel takes no other",
        "kmend status names the tasks that hold it up",
    )


def load_refusals(
    facts: Facts,
    policy: PolicyConfig,
    view: View,
    running: RunningKernel,
    manifest: Manifest,
    module_build_ids: dict[str, str | None],
    *,
    signed: bool,
) -> tuple[Refusal, ...]:
    """Why this level must not be loaded now.

    Args:
        module_build_ids: build IDs of the loaded ones among the modules that the level patches.
        signed: the module carries a kernel signature.
    """
    refusals = list(host_refusals(facts, policy))
    pending = pending_refusal(view)
    if pending is not None:
        refusals.append(pending)
    if manifest.kernel.build_id != running.build_id or manifest.kernel.architecture != facts.machine:
        refusals.append(
            Refusal("other-kernel", f"the level is for kernel build {manifest.kernel.build_id}, not {running.build_id}")
        )
    if view.foreign and not policy.replace_foreign:
        refusals.append(
            Refusal(
                "foreign-livepatch",
                f"livepatches that are not kmend's are active and would be taken off: {', '.join(view.foreign)}",
                "remove them with their own tool, or set policy.replace_foreign = true",
            )
        )
    if view.module(manifest.module.name) is not None:
        refusals.append(Refusal("resident", f"module {manifest.module.name} is resident already", "see kmend status"))
    for target in manifest.objects:
        actual = module_build_ids.get(target.name)
        if target.build_id is not None and actual is not None and actual != target.build_id:
            refusals.append(
                Refusal("other-module", f"the loaded module {target.name} is not the one that the level was built for")
            )
    if facts.signatures_enforced and not signed:
        refusals.append(
            Refusal(
                "unsigned",
                "this kernel loads only signed modules (Secure Boot, or module.sig_enforce), "
                "and the repository has no signature for this one",
                "sign it with a key whose certificate is enrolled on this host (kmend-factory keys sign-modules) and name "
                "that signer in repository.signer, or ask the publisher",
            )
        )
    return tuple(refusals)


def _namespace(paths: Paths, kind: str) -> int | None:
    try:
        target = (paths.proc / "self/ns" / kind).readlink().name
    except OSError:
        return None
    number = target.partition("[")[2].rstrip("]")
    return int(number) if number.isdigit() else None


def _capabilities(paths: Paths) -> int:
    for line in read_kernel_file(paths.proc / "self/status").splitlines():
        if line.startswith("CapEff:"):
            try:
                return int(line.split(":", 1)[1], 16)
            except ValueError:
                return 0
    return 0


def _signatures_enforced(paths: Paths) -> bool:
    if read_kernel_file(paths.sys / "module/module/parameters/sig_enforce") == "Y":
        return True
    lockdown = read_kernel_file(paths.sys / "kernel/security/lockdown")
    return "[integrity]" in lockdown or "[confidentiality]" in lockdown


def _filesystem(paths: Paths, folder: Path) -> str:
    """The type of the file system that holds `folder` (or its first existing parent), from `/proc/self/mountinfo`."""
    wanted = "/" + str(folder.relative_to(paths.root)) if folder.is_relative_to(paths.root) else str(folder)
    best, kind = "", ""
    for line in read_kernel_file(paths.proc / "self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        words, rest = left.split(), right.split()
        if len(words) < 5 or not rest:
            continue
        point = words[4].rstrip("/") or "/"
        inside = point == "/" or wanted == point or wanted.startswith(point + "/")
        if inside and len(point) >= len(best):
            best, kind = point, rest[0]
    return kind
