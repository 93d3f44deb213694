"""The whole preflight of a level: everything that speaks against loading it on this host now, found at once, each named.

`preflight` holds the reasons that need nothing but the kernel's switches; here are those that need a look around: other users
of the functions, files of modules that may be loaded later, confinement, memory and disk. What could not be found out is
said too, as a finding that does not keep the level out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from kmend.agent import health, modulefiles, preflight, stopping
from kmend.agent.confinement import Confinement, confinement
from kmend.agent.livekernel import read_kernel_file
from kmend.agent.modulefiles import ModuleFile
from kmend.agent.preflight import Refusal
from kmend.agent.session import Session
from kmend.agent.tracers import Tracers, tracers
from kmend.core.manifest import Manifest

MEMORY_SPARE = 16 * 1024 * 1024
DISK_SPARE = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a look around found.

    Attributes:
        later: file by name of each module that the level patches and that is not loaded; None where there is no such file.
        memory: available, in bytes; 0 if it is not known.
        disk: free for the state folder, in bytes; None if it is not known.
        manager: the container manager that runs us, empty for none.
    """

    confinement: Confinement
    tracers: Tracers
    later: dict[str, ModuleFile | None]
    memory: int
    disk: int | None
    manager: str


@dataclass(frozen=True, slots=True)
class Examined:
    """The answer of `kmend preflight`.

    Attributes:
        level: that was examined, 0 for the host alone.
        fit: nothing keeps it out.
    """

    level: int
    module: str
    fit: bool
    findings: tuple[Refusal, ...]
    format: str = "kmend-preflight/1"


def examine(session: Session, manifest: Manifest | None, *, signed: bool) -> Examined:
    """Everything that speaks against loading `manifest` now; without one, what speaks against loading anything."""
    facts, policy = session.facts(), session.config.policy
    seen = look(session, manifest)
    if manifest is None:
        found = list(preflight.host_refusals(facts, policy))
    else:
        targets = {target.name: session.kernel.module_build_id(target.name) for target in manifest.objects}
        view = session.kernel.view()
        found = list(preflight.load_refusals(facts, policy, view, session.running, manifest, targets, signed=signed))
    found += judge(seen, manifest)
    stop = stopping.stop(session.paths)
    if stop is not None:
        found.append(Refusal("stopped", f"nothing is loaded: {stop.source}", "remove the parameter or the file"))
    ordered = sorted(found, key=lambda finding: not finding.fatal)
    return Examined(
        level=manifest.level if manifest is not None else 0,
        module=manifest.module.name if manifest is not None else "",
        fit=not any(finding.fatal for finding in found),
        findings=tuple(ordered),
    )


def look(session: Session, manifest: Manifest | None) -> Surroundings:
    """Look around."""
    paths = session.paths
    functions: frozenset[str] = frozenset()
    later: dict[str, ModuleFile | None] = {}
    if manifest is not None:
        functions = frozenset(function.name for target in manifest.objects for function in target.functions)
        folder = paths.modules / session.running.release
        for target in manifest.objects:
            if target.name != "vmlinux" and session.kernel.module_build_id(target.name) is None:
                later[target.name] = modulefiles.chosen(folder, target.name)
    patched = {item[1].rpartition(",")[0] for patch in session.kernel.view().patches for item in patch.functions}
    try:
        disk: int | None = (state := os.statvfs(paths.state)).f_bavail * state.f_frsize
    except OSError:
        disk = None
    return Surroundings(
        confinement=confinement(paths),
        tracers=tracers(paths, functions, patched),
        later=later,
        memory=health.meminfo(paths).get("MemAvailable", 0),
        disk=disk,
        manager=read_kernel_file(paths.root / "run/systemd/container"),
    )


def judge(seen: Surroundings, manifest: Manifest | None) -> tuple[Refusal, ...]:
    """What of it speaks against a load. Pure."""
    found: list[Refusal] = []
    if seen.manager:
        hint = "run kmend on the machine that runs the container; it patches the kernel for all of them"
        found.append(Refusal("container-manager", f"kmend runs inside a container of {seen.manager}", hint))
    found += _confined(seen.confinement)
    if manifest is None:
        return tuple(found)
    for tracer in seen.tracers.found:
        if tracer.exclusive:
            hint = "end that tracer, or the kernel answers EBUSY; /sys/kernel/tracing/enabled_functions shows it"
            found.append(Refusal("function-taken", tracer.what, hint))
        else:
            hint = "what it shows may change; nothing keeps the level out"
            found.append(Refusal("function-traced", tracer.what, hint, fatal=False))
    for unknown in seen.tracers.unknown:
        found.append(Refusal("tracers-unknown", f"not known: {unknown}", fatal=False))
    pins = {target.name: target.build_id for target in manifest.objects}
    for name, file in seen.later.items():
        found += _later(name, pins[name], file)
    need = 3 * manifest.module.size + MEMORY_SPARE
    if 0 < seen.memory < need:
        text = (
            f"{seen.memory // 2**20} MiB of memory are available, and {-(-need // 2**20)} MiB are wanted for the load"
        )
        found.append(Refusal("memory", text, "free some"))
    need = 2 * manifest.module.size + DISK_SPARE
    if seen.disk is not None and seen.disk < need:
        text = f"{seen.disk // 2**20} MiB are free for /var/lib/kmend, and {-(-need // 2**20)} MiB are wanted"
        found.append(Refusal("disk", text, "free some: the record of what is done comes before the load"))
    return tuple(found)


def _confined(seen: Confinement) -> list[Refusal]:
    found = []
    if seen.ima_appraise and not seen.ima_appended:
        text = (
            "IMA's policy demands a signature on module files which kmend's modules, loaded from memory, cannot carry"
        )
        found.append(
            Refusal(
                "ima-appraise", text, "let its rule for MODULE_CHECK take an appended one: appraise_type=imasig|modsig"
            )
        )
    if seen.ima_appraise is None:
        found.append(
            Refusal("ima-unknown", "not known: whether IMA appraises modules (its policy cannot be read)", fatal=False)
        )
    if seen.selinux_confined:
        text = f"SELinux is enforcing, and asks whether {seen.selinux_domain} may load modules (system module_load)"
        hint = f"if it denies it: allow {seen.selinux_domain} module_load of class system, and of its memory files"
        found.append(Refusal("selinux", text, hint, fatal=False))
    return found


def _later(name: str, pin: str | None, file: ModuleFile | None) -> list[Refusal]:
    """A module that is not loaded: the one that would be must be the one that the level was built for."""
    if file is None or pin is None:
        return []
    if file.build_id is None:
        return [
            Refusal(
                "module-file-unknown",
                f"not known: which build of {name} would be loaded; {file.path} {file.why}",
                fatal=False,
            )
        ]
    if file.build_id == pin:
        return []
    text = (
        f"module {name} is not loaded, and {file.path}, which depmod chose, is not the one that the level was built for"
    )
    return [
        Refusal(
            "other-module-file", text, "see what put it there (DKMS, updates/), and run depmod -a after removing it"
        )
    ]
