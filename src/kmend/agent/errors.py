"""What the agent may answer instead of doing what it was asked; each with the exit status that scripts see."""

from __future__ import annotations

from kmend.core.errors import KmendError


class AgentError(KmendError):
    """Base; `exit_status` is what the command ends with."""

    kind = "agent"
    exit_status = 1


class ConfigError(AgentError):
    """`agent.toml` or a drop-in cannot be used."""

    kind = "config"
    exit_status = 78


class BusyError(AgentError):
    """Another kmend is at work on this host."""

    kind = "busy"
    exit_status = 75


class PreflightError(AgentError):
    """This host must not load a livepatch now; nothing was changed."""

    kind = "preflight"
    exit_status = 3


class StoppedError(AgentError):
    """The kernel's command line, or a file, says that kmend must not load anything."""

    kind = "stopped"
    exit_status = 30


class NotSupportedError(AgentError):
    """The repository has nothing for the running kernel build."""

    kind = "not-supported"
    exit_status = 40


class BlockedError(AgentError):
    """There is a newer level, but this host must not load it by itself."""

    kind = "blocked"
    exit_status = 30


class RefusedByKernelError(AgentError):
    """The kernel did not take the module; it runs what it ran before."""

    kind = "refused-by-kernel"


class PendingError(AgentError):
    """A transition has not come to its end within the time given; the kernel goes on with it."""

    kind = "transition-pending"
    exit_status = 20


class UnconfirmedError(AgentError):
    """The kernel's view of what was loaded is not what the manifest says."""

    kind = "unconfirmed"


class NotPossibleError(AgentError):
    """The way asked for does not exist on this boot."""

    kind = "not-possible"
    exit_status = 3


class TerminatedError(AgentError):
    """Somebody asked the agent to stop (SIGTERM, SIGINT)."""

    kind = "terminated"
    exit_status = 143
