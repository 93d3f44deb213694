"""Everything that can be configured, and what each member may be; `kmend.agent.configfiles` reads it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from kmend.agent.policy import ApplyPolicy
from kmend.core.errors import MalformedError
from kmend.trust.errors import NetworkSettingsError
from kmend.trust.proxies import read_proxies


@dataclass(frozen=True, slots=True)
class RepositoryConfig:
    """Where livepatches come from.

    Attributes:
        url: `https`, `http` or `file` URL of the repository; empty if none is configured.
        root: path of the trust root given at install.
        signer: whose detached module signatures to use; empty for the publisher's.
    """

    url: str = ""
    root: str = "/etc/kmend/root.json"
    signer: str = ""

    def __post_init__(self) -> None:
        try:
            scheme = urlsplit(self.url).scheme
        except ValueError as problem:
            raise MalformedError(f"url cannot be read: {problem}") from None
        if self.url and scheme not in ("https", "http", "file"):
            raise MalformedError(f"url has the scheme {scheme!r}; https, http and file can be read")
        if not self.root.startswith("/"):
            raise MalformedError("root must be an absolute path")


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """What this host allows.

    Attributes:
        replace_foreign: load although livepatches that are not kmend's are active; loading takes them off.
        stuck_transition: `wait` (the kernel goes on trying), or `revert` after `timing.give_up`; it is never forced.
        on_oops: after an oops or a BUG while a level is being tried: `report` (the level goes into quarantine, the kernel is
            left alone), or `revert`.
        on_warning: after a warning, hung task, lockup or stall then: `report`, or `revert` (and quarantine).
        recall: when the publisher recalls what is loaded, and says so: `revert`, or `report`. Loading it again is out of
            the question either way.
        server_return: `allow`: the server may send this host back to the level before while a level is being tried; `refuse`.
        volatile_state: load although the state folder does not survive a reboot, which disables the crash guard.
    """

    replace_foreign: bool = False
    volatile_state: bool = False
    stuck_transition: str = "wait"
    on_oops: str = "report"
    on_warning: str = "report"
    recall: str = "revert"
    server_return: str = "allow"

    def __post_init__(self) -> None:
        if self.server_return not in ("allow", "refuse"):
            raise MalformedError("server_return must be allow or refuse")
        for name in ("on_oops", "on_warning", "recall"):
            if getattr(self, name) not in ("report", "revert"):
                raise MalformedError(f"{name} must be report or revert")
        if self.stuck_transition not in ("wait", "revert"):
            raise MalformedError("stuck_transition must be wait or revert")


@dataclass(frozen=True, slots=True)
class TimingConfig:
    """Times, in seconds unless the name says otherwise.

    Attributes:
        transition: how long a command watches a transition before it leaves it to the kernel.
        remove_after: how long a replaced module stays, since tasks inside `do_exit()` may still return into it.
        signal: after how long, and how often, a kernel that does not do so by itself is asked for its fake signal, which
            makes sleeping tasks leave the kernel for a moment.
        give_up: how long a transition may take before `policy.stuck_transition` decides.
        soak: how long a new level counts as being tried; a crash in that time puts it in quarantine.
        stale_after_hours: how old the last good check may be.
        connect: limit for a connection to the repository.
        read: limit between two pieces of its answer.
    """

    transition: int = 60
    remove_after: int = 60
    signal: int = 15
    give_up: int = 21_600
    soak: int = 300
    stale_after_hours: int = 72
    connect: int = 10
    read: int = 30

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            if not 0 <= getattr(self, item.name) <= 86_400:
                raise MalformedError(f"{item.name} must be 0 to 86400")


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """How the repository is reached.

    Attributes:
        proxy: URL of a proxy, perhaps with user and password; empty takes the environment's, `none` goes direct.
        no_proxy: hosts reached without it, in addition to the environment's NO_PROXY: names, addresses, networks.
        proxy_credentials: path of a file with `user:password` for the proxy.
        ca_file: path of certificates to trust.
        system_ca: trust the system's certificates too.
        client_certificate: path of the certificate that this host shows.
        client_key: path of the key for it, if it is not in the same file.
        total: limit for one file, in seconds; every `min_rate` bytes give one second more.
        min_rate: in bytes a second.
        attempts: how often one file is asked for.
    """

    proxy: str = ""
    no_proxy: tuple[str, ...] = ()
    proxy_credentials: str = ""
    ca_file: str = ""
    system_ca: bool = True
    client_certificate: str = ""
    client_key: str = ""
    total: int = 120
    min_rate: int = 4096
    attempts: int = 4

    def __post_init__(self) -> None:
        for name in ("proxy_credentials", "ca_file", "client_certificate", "client_key"):
            if getattr(self, name) and not getattr(self, name).startswith("/"):
                raise MalformedError(f"{name} must be an absolute path")
        if not self.system_ca and not self.ca_file:
            raise MalformedError("without system_ca there must be a ca_file")
        for name, least, most in (("total", 1, 86_400), ("min_rate", 1, 1_000_000_000), ("attempts", 1, 20)):
            if not least <= getattr(self, name) <= most:
                raise MalformedError(f"{name} must be {least} to {most}")
        try:
            read_proxies(self.proxy, self.no_proxy, "", {})
        except NetworkSettingsError as problem:
            raise MalformedError(f"{problem.message}; {problem.hint}") from None


@dataclass(frozen=True, slots=True)
class HooksConfig:
    """Commands of the administrator's, run without a shell.

    Attributes:
        before: each must succeed, or the level is not loaded.
        after: run when the level is in force.
        on_failure: of one of those: `report`, or `revert` (and quarantine).
        seconds: how long each may take.
    """

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    on_failure: str = "report"
    seconds: int = 60

    def __post_init__(self) -> None:
        if self.on_failure not in ("report", "revert"):
            raise MalformedError("on_failure must be report or revert")
        if not 1 <= self.seconds <= 3600:
            raise MalformedError("seconds must be 1 to 3600")


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """The resident part.

    Attributes:
        interval: how often the repository is looked at, in seconds; each host has its own time within it.
    """

    interval: int = 900

    def __post_init__(self) -> None:
        if not 60 <= self.interval <= 86_400:
            raise MalformedError("interval must be 60 to 86400")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The server that leads this host's fleet; `kmend enrol` writes it.

    Attributes:
        url: `https` URL (`http` only for tests and behind a proxy of one's own); empty: this host decides alone.
        ca_file: path of the certificate authority that the server's certificate is held against, and no other; empty for those
            of `[network]`.
        role: what this host is for (`web`, `database`), so that the first hosts of a rollout are not all alike.
        news: hold a request at the server, so that news is here in a second; else the server is asked at this host's times.
        modules: tell it which modules are loaded, and which can be; else it takes it that each can be.
    """

    url: str = ""
    ca_file: str = ""
    role: str = ""
    news: bool = True
    modules: bool = True

    def __post_init__(self) -> None:
        try:
            scheme = urlsplit(self.url).scheme
        except ValueError as problem:
            raise MalformedError(f"url cannot be read: {problem}") from None
        if self.url and scheme not in ("https", "http"):
            raise MalformedError(f"url has the scheme {scheme!r}; a server is reached by https")
        if self.ca_file and not self.ca_file.startswith("/"):
            raise MalformedError("ca_file must be an absolute path")
        if len(self.role) > 100 or not self.role.isprintable():
            raise MalformedError("role must be one line of at most 100 characters")


@dataclass(frozen=True, slots=True)
class PublishConfig:
    """What other programs are told besides `/run/kmend/state.json` and `cvelist`.

    Attributes:
        prometheus: path of a file for node_exporter's textfile collector, ending in `.prom`; empty for none.
        effective_version: write `/run/kmend/effective_version`, the release with the level in force.
    """

    prometheus: str = ""
    effective_version: bool = False

    def __post_init__(self) -> None:
        if self.prometheus and not (self.prometheus.startswith("/") and self.prometheus.endswith(".prom")):
            raise MalformedError("prometheus must be an absolute path that ends in .prom, as the collector wants it")


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be configured."""

    repository: RepositoryConfig = field(default_factory=RepositoryConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    apply: ApplyPolicy = field(default_factory=ApplyPolicy)
    timing: TimingConfig = field(default_factory=TimingConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    hooks: HooksConfig = field(default_factory=HooksConfig)
    service: ServiceConfig = field(default_factory=ServiceConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
