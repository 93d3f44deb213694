"""What this host says of itself to its server, from the same facts as `kmend status`."""

from __future__ import annotations

import os
import socket

from kmend import __version__
from kmend.agent import preflight, statefile, status
from kmend.agent.choice import Obstacle
from kmend.agent.identity import Boots
from kmend.agent.livekernel import read_kernel_file
from kmend.agent.quarantine import Entry
from kmend.agent.session import CleanShutdown, Session
from kmend.agent.status import Status
from kmend.core.wire import (
    MAX_ITEMS,
    MAX_TEXT,
    Failure,
    HeldLevel,
    HostFacts,
    Remark,
    RunningBuild,
    StateReport,
    WithheldLevel,
)


def report(session: Session, machine: str, boots: Boots, at: int) -> StateReport:
    """This host's state now.

    Args:
        machine: digest of the machine.
        at: what it says of its time; the same for a state that has not changed.
    """
    return from_status(
        session,
        status.describe(session, repository=session.config.repository.url),
        facts(session, machine),
        boots,
        at,
    )


def from_status(session: Session, now: Status, told: HostFacts, boots: Boots, at: int) -> StateReport:
    """The same, of a status that was described already."""
    livepatch = now.livepatch
    shutdown = statefile.load(session.paths.state / "shutdown.json", CleanShutdown) if _readable(session) else None
    clean = None
    if boots.previous:
        clean = shutdown is not None and shutdown.boot_id == boots.previous
    return StateReport(
        at=at,
        boot_id=now.boot_id,
        kernel=RunningBuild(
            now.kernel.build_id, line(now.kernel.release), line(now.kernel.version), line(os.uname().machine)
        ),
        facts=told,
        state=now.state,
        loaded=_held(session, livepatch.level, livepatch.module)
        if livepatch is not None and livepatch.state == "in-force" and livepatch.level
        else None,
        trying=_trying(session),
        failures=tuple(failure(entry) for entry in newest(now.quarantine) if entry.build_id == now.kernel.build_id),
        withheld=tuple(withheld(obstacle) for obstacle in now.blocked[:MAX_ITEMS]),
        remarks=tuple(Remark(line(item.code), line(item.message)) for item in now.conditions[:MAX_ITEMS]),
        clean_boot=clean,
        tainted=preflight.tainted(session.kernel),
        stopped=line(now.stopped),
        accepts_return=session.config.policy.server_return == "allow",
        supported=now.supported,
    )


def facts(session: Session, machine: str) -> HostFacts:
    """What sort of machine this is."""
    root = session.paths.root
    vendor, product = (
        read_kernel_file(root / f"sys/class/dmi/id/{name}").strip() for name in ("sys_vendor", "product_name")
    )
    return HostFacts(
        name=line(socket.gethostname()) or "localhost",
        machine=machine,
        hardware=line(f"{vendor} {product}".strip()),
        role=line(session.config.server.role),
        distro=line(_distro(read_kernel_file(root / "etc/os-release"))),
        processors=os.cpu_count() or 0,
        memory_mib=_memory(read_kernel_file(root / "proc/meminfo")),
        agent=__version__,
    )


def _readable(session: Session) -> bool:
    return os.access(session.paths.state / "shutdown.json", os.R_OK)


def _trying(session: Session) -> HeldLevel | None:
    intent = session.journal.intent
    if intent is None or intent.boot_id != session.boot_id or intent.action == "unload":
        return None
    return HeldLevel(intent.level, intent.module, intent.sha256, intent.state.value)


def _held(session: Session, level: int, module: str) -> HeldLevel:
    manifest = session.store.manifest(module)
    return HeldLevel(level, module, manifest.module.sha256 if manifest is not None else "")


def newest(entries: tuple[Entry, ...]) -> list[Entry]:
    """As many entries of the quarantine as a report holds."""
    return sorted(entries, key=lambda entry: -entry.at)[:MAX_ITEMS]


def failure(entry: Entry) -> Failure:
    """An entry of the quarantine, as it is reported."""
    return Failure(entry.level, entry.module, entry.cause.value, line(entry.message), entry.at)


def withheld(obstacle: Obstacle) -> WithheldLevel:
    """A level that is passed over, as it is reported."""
    rules = tuple(rule.rule.value for rule in obstacle.rules)
    if not rules:
        rules = ("recall",) if obstacle.recalled else ("quarantine",) if obstacle.quarantined else ("regression",)
    return WithheldLevel(obstacle.level, rules, obstacle.until)


def _distro(release: str) -> str:
    members = dict(line.split("=", 1) for line in release.splitlines() if "=" in line)
    return " ".join(members.get(name, "").strip('"') for name in ("ID", "VERSION_ID")).strip()


def _memory(meminfo: str) -> int:
    for line in meminfo.splitlines():
        words = line.split()
        if words[:1] == ["MemTotal:"] and len(words) > 1 and words[1].isdigit():
            return int(words[1]) // 1024
    return 0


def line(text: str) -> str:
    """One line, as long as a message takes."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:MAX_TEXT]
