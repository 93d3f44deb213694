"""What the demonstration keeps: everything that its verdict needs, and nothing that it has concluded itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The guest at one moment.

    Attributes:
        seconds: since the demonstration began.
        boot_id: `/proc/sys/kernel/random/boot_id`.
        modules: `/proc/modules`.
        livepatch: path below `/sys/kernel/livepatch` -> content; folders have none.
        echo: process ID and start time (clock ticks since boot) of the long-running service.
        probes: probe -> what it printed (name -> answer).
    """

    seconds: float
    boot_id: str
    modules: str
    livepatch: dict[str, str]
    echo: str
    probes: dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class Step:
    """One act of the story.

    Attributes:
        name: short, for the verdict; command: what was run, empty for none; status: its exit status.
        output: what it printed.
        after: the guest afterwards.
    """

    name: str
    command: str
    status: int
    output: str
    seconds: float
    after: Snapshot


@dataclass(frozen=True, slots=True)
class Exchange:
    """The connection between the host and the service in the guest.

    Attributes:
        sent, answered: messages.
        error: what broke it; empty if nothing did.
        times: when each answer came, seconds since the demonstration began.
    """

    sent: int
    answered: int
    error: str
    times: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LevelRecord:
    """A livepatch as it was built: module name, digest, and what its manifest states."""

    level: int
    module: str
    sha256: str
    functions: tuple[str, ...]
    cves: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """The whole demonstration."""

    kernel: str
    build_id: str
    levels: tuple[LevelRecord, ...] = ()
    steps: tuple[Step, ...] = ()
    exchange: Exchange | None = None
    kernel_log: str = ""
    status: str = ""
    format: str = "kmend-demo/1"
