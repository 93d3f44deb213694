"""Everything that can be configured of the server: `/etc/kmend/server.toml`, described in packaging/server/server.toml."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import tomllib

from kmend.core import sections
from kmend.core.errors import KmendError, MalformedError
from kmend.server.feeds.places import CHANGELOG, FEEDS, is_changelog, place_of
from kmend.server.notices.mail import is_address

DEFAULT_PATH = Path("/etc/kmend/server.toml")
DEFAULT_DATA = "/var/lib/kmend-server"
DESCRIBED = "packaging/server/server.toml"


class ServerConfigError(KmendError):
    """The server's configuration cannot be used."""

    kind: ClassVar[str] = "config"
    exit_status = 2


@dataclass(frozen=True, slots=True)
class ServerSection:
    """The program.

    Attributes:
        data: folder for everything that the server keeps itself.
        listen: addresses with ports.
        public_url: where hosts and people find this server; empty before `init`.
        interval: how often a host checks in, in seconds; each host has its own time within it.
        processes: how many serve beside each other on this machine.
        proxies: networks of load balancers, whose X-Forwarded-For is believed.
    """

    data: str = DEFAULT_DATA
    listen: tuple[str, ...] = ("0.0.0.0:8443",)
    public_url: str = ""
    interval: int = 900
    processes: int = 1
    proxies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_absolute("data", self.data)
        if not self.listen:
            raise MalformedError("listen must name at least one address")
        for address in self.listen:
            read_address(address)
        if self.public_url:
            _check_url("public_url", self.public_url, ("https", "http"))
        _check_range("interval", self.interval, 10, 86_400)
        _check_range("processes", self.processes, 1, 64)
        for network in self.proxies:
            _check_network("proxies", network)


@dataclass(frozen=True, slots=True)
class TlsSection:
    """How the server shows who it is.

    Attributes:
        certificate: PEM, with the chain; empty for the one that `init` made.
        key: PEM; empty likewise.
        off: speak plain HTTP: only behind a load balancer on the same machine or network, which speaks TLS.
    """

    certificate: str = ""
    key: str = ""
    off: bool = False

    def __post_init__(self) -> None:
        for name in ("certificate", "key"):
            if getattr(self, name):
                _check_absolute(name, getattr(self, name))
        if bool(self.certificate) != bool(self.key):
            raise MalformedError("certificate and key go together")


@dataclass(frozen=True, slots=True)
class DatabaseSection:
    """Where everything is remembered.

    Attributes:
        url: `sqlite:///...` or `postgresql+psycopg://...`; empty for SQLite in the data folder.
        pool: connections that one process keeps.
    """

    url: str = ""
    pool: int = 8

    def __post_init__(self) -> None:
        if self.url and not self.url.startswith(("sqlite:///", "postgresql+psycopg://")):
            raise MalformedError("url must begin with sqlite:/// or postgresql+psycopg://")
        _check_range("pool", self.pool, 2, 256)


@dataclass(frozen=True, slots=True)
class RepositorySection:
    """The signed repository.

    Attributes:
        source: its folder, or its URL; empty for the folder `repository` in the data folder.
        url: where hosts find it, if not below this server: another web server, or a CDN.
        poll: how often a source that is no folder is looked at, in seconds.
        refresh_hours: how often snapshot and timestamp are signed anew; 0: never, somebody else does.
        signer: whose detached module signatures hosts are told to use; empty for the publisher's.
    """

    source: str = ""
    url: str = ""
    poll: int = 60
    refresh_hours: int = 12
    signer: str = ""

    def __post_init__(self) -> None:
        if self.source and not self.source.startswith("/"):
            _check_url("source", self.source, ("https", "http"))
        if self.url:
            _check_url("url", self.url, ("https", "http"))
        _check_range("poll", self.poll, 5, 86_400)
        _check_range("refresh_hours", self.refresh_hours, 0, 144)


@dataclass(frozen=True, slots=True)
class ObjectStoreSection:
    """An S3-compatible store that repository files are pushed to and, if `serve` is set, handed out from.

    Attributes:
        endpoint: URL of the service; empty if there is none.
        prefix: before every name in the bucket.
        credentials: path of a file with two lines: the access key's ID and its secret.
        serve: hand out repository files from the store instead of the folder.
    """

    endpoint: str = ""
    bucket: str = ""
    region: str = "us-east-1"
    prefix: str = ""
    credentials: str = ""
    serve: bool = False

    def __post_init__(self) -> None:
        if self.endpoint:
            _check_url("endpoint", self.endpoint, ("https", "http"))
        elif self.serve:
            raise MalformedError("serve needs an endpoint")
        if self.credentials:
            _check_absolute("credentials", self.credentials)


@dataclass(frozen=True, slots=True)
class MailSection:
    """How e-mail is sent.

    Attributes:
        host: of the mail server; empty if no e-mail is sent.
        security: `starttls`, `tls` or `none`.
        sender: the address in From.
        user: for the login; empty for none.
        password_file: path of a file with the password.
    """

    host: str = ""
    port: int = 587
    security: str = "starttls"
    sender: str = ""
    user: str = ""
    password_file: str = ""

    def __post_init__(self) -> None:
        _check_range("port", self.port, 1, 65_535)
        if self.security not in ("starttls", "tls", "none"):
            raise MalformedError("security must be starttls, tls or none")
        if self.sender and not is_address(self.sender):
            raise MalformedError("sender is not an e-mail address")
        if self.password_file:
            _check_absolute("password_file", self.password_file)


@dataclass(frozen=True, slots=True)
class NoticesSection:
    """What webhooks may reach.

    Attributes:
        allow_networks: networks that are not public and may be reached all the same.
        allow_http: send to `http` URLs too.
        attempts: how often one notice is tried.
        seconds: limit for one attempt.
    """

    allow_networks: tuple[str, ...] = ()
    allow_http: bool = False
    attempts: int = 12
    seconds: int = 10

    def __post_init__(self) -> None:
        for network in self.allow_networks:
            _check_network("allow_networks", network)
        _check_range("attempts", self.attempts, 1, 100)
        _check_range("seconds", self.seconds, 1, 120)


@dataclass(frozen=True, slots=True)
class FeedsSection:
    """Where what others publish of vulnerabilities is fetched from. What is empty is not fetched.

    Attributes:
        cna: the kernel CNA's `vulns.git`: path of a checkout, of a bare repository, of an archive; or a URL of one of these.
        debian: the kernel's changelog: `apt`, a path, or a URL.
        changelogs: of other releases of Debian than `debian` is of: the branch of their kernel, such as `6.12` -> path or URL.
        kev: CISA's catalogue of what is exploited.
        epss: FIRST's daily scores.
        ssvc: CISA's vulnrichment, in the forms of `cna`.
        bod: CISA's table of BOD 26-04, as CSV.
        hours: how often each is asked whether there is something new.
        seconds: limit for one fetch; who delivers more than 16 KiB a second gets longer.
        ca_file: path of certificates to trust besides the system's.
    """

    cna: str = ""
    debian: str = ""
    changelogs: dict[str, str] = field(default_factory=dict)
    kev: str = ""
    epss: str = ""
    ssvc: str = ""
    bod: str = ""
    hours: int = 6
    seconds: int = 900
    ca_file: str = ""

    def __post_init__(self) -> None:
        for branch in self.changelogs:
            if not is_changelog(f"{CHANGELOG}-{branch}"):
                raise MalformedError(f"changelogs: {branch[:40]!r} is no branch of the kernel, such as 6.12")
        for name, source in self.configured.items():
            place_of(name, source)
        _check_range("hours", self.hours, 1, 168)
        _check_range("seconds", self.seconds, 10, 3600)
        if self.ca_file:
            _check_absolute("ca_file", self.ca_file)

    @property
    def configured(self) -> dict[str, str]:
        """Feeds that are fetched, and where from."""
        others = {f"{CHANGELOG}-{branch}": source for branch, source in sorted(self.changelogs.items())}
        found: dict[str, str] = {}
        for name in FEEDS:
            if source := getattr(self, name):
                found[name] = source
            if name == CHANGELOG:
                found |= others
        return found


@dataclass(frozen=True, slots=True)
class LimitsSection:
    """What one process takes on before it says: later.

    Attributes:
        requests: under way at once, those that wait for news among them.
        waiting: check-ins that wait for the database; more are answered 503 with Retry-After.
        held: requests that wait for news.
    """

    requests: int = 20_000
    waiting: int = 4096
    held: int = 15_000

    def __post_init__(self) -> None:
        _check_range("requests", self.requests, 16, 1_000_000)
        _check_range("waiting", self.waiting, 16, 1_000_000)
        _check_range("held", self.held, 0, 1_000_000)


@dataclass(frozen=True, slots=True)
class RetentionSection:
    """How long things are kept, in days; the audit log is kept for good.

    Attributes:
        reports: state reports; the last of each host always stays.
        history: what verdicts rested on before; since when a CVE has stood open is known for longer.
        notices: what was sent.
    """

    reports: int = 400
    history: int = 400
    notices: int = 30

    def __post_init__(self) -> None:
        _check_range("reports", self.reports, 1, 36_500)
        _check_range("history", self.history, 1, 36_500)
        _check_range("notices", self.notices, 1, 36_500)


@dataclass(frozen=True, slots=True)
class MetricsSection:
    """Who may read `/metrics`: this machine always; others with a token, if there is one.

    Attributes:
        token_file: path of a file with the token; empty: this machine alone.
    """

    token_file: str = ""

    def __post_init__(self) -> None:
        if self.token_file:
            _check_absolute("token_file", self.token_file)


@dataclass(frozen=True, slots=True)
class LogSection:
    """What is logged, on standard error.

    Attributes:
        level: `debug`, `info`, `warning` or `error`.
        format: `json` (one object a line) or `text`.
        requests: a line for every request of a person; those of hosts only when refused.
    """

    level: str = "info"
    format: str = "json"
    requests: bool = True

    def __post_init__(self) -> None:
        if self.level not in ("debug", "info", "warning", "error"):
            raise MalformedError("level must be debug, info, warning or error")
        if self.format not in ("json", "text"):
            raise MalformedError("format must be json or text")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Everything that can be configured, and where things lie that are not."""

    server: ServerSection = field(default_factory=ServerSection)
    tls: TlsSection = field(default_factory=TlsSection)
    database: DatabaseSection = field(default_factory=DatabaseSection)
    repository: RepositorySection = field(default_factory=RepositorySection)
    object_store: ObjectStoreSection = field(default_factory=ObjectStoreSection)
    mail: MailSection = field(default_factory=MailSection)
    notices: NoticesSection = field(default_factory=NoticesSection)
    feeds: FeedsSection = field(default_factory=FeedsSection)
    limits: LimitsSection = field(default_factory=LimitsSection)
    retention: RetentionSection = field(default_factory=RetentionSection)
    metrics: MetricsSection = field(default_factory=MetricsSection)
    log: LogSection = field(default_factory=LogSection)

    @property
    def data(self) -> Path:
        """The data folder."""
        return Path(self.server.data)

    @property
    def database_url(self) -> str:
        """Of the database in use."""
        return self.database.url or f"sqlite:///{self.data / 'kmend.sqlite'}"

    @property
    def repository_folder(self) -> Path | None:
        """The repository's folder, if it lies on this machine."""
        source = self.repository.source or str(self.data / "repository")
        return Path(source) if source.startswith("/") else None

    @property
    def repository_source(self) -> str:
        """The URL that the repository is imported from."""
        folder = self.repository_folder
        return folder.as_uri() if folder is not None else self.repository.source

    @property
    def repository_url(self) -> str:
        """Where hosts find the repository."""
        return (self.repository.url or f"{self.server.public_url.rstrip('/')}/repository").rstrip("/")

    @property
    def root(self) -> Path:
        """The trust root that this server follows and hands to hosts."""
        return self.data / "root.json"

    @property
    def online(self) -> Path:
        """The folder of the online keys."""
        return self.data / "online"

    @property
    def certificate(self) -> Path:
        """The certificate that the server shows."""
        return Path(self.tls.certificate) if self.tls.certificate else self.data / "tls" / "server.pem"

    @property
    def key(self) -> Path:
        """The certificate's key."""
        return Path(self.tls.key) if self.tls.key else self.data / "tls" / "server.key"

    @property
    def authority(self) -> Path | None:
        """The certificate of the server's own authority; None if somebody else's certificate is shown."""
        return None if self.tls.certificate or self.tls.off else self.data / "tls" / "authority.pem"


def read_config(path: Path) -> ServerConfig:
    """Read the configuration.

    Raises:
        ServerConfigError: the file is missing or holds what it must not; the message names every line and member.
    """
    if not path.exists():
        raise ServerConfigError(f"there is no configuration at {path}", hint="kmend-server init makes one")
    loaded = sections.load(ServerConfig(), [sections.Source(path, path.name)], tomllib.loads, described=DESCRIBED)
    if not loaded.problems:
        return loaded.config
    many = len(loaded.problems) > 1
    told = "".join(f"\n  {problem}" for problem in loaded.problems) if many else f" {loaded.problems[0]}"
    hint = "kmend-server check tells when it is right" if many else loaded.problems[0].hint
    raise ServerConfigError(f"the configuration {path} is not usable:{told}", hint=hint)


def read_address(text: str) -> tuple[str, int]:
    """Host and port of `host:port`, `[IPv6]:port`.

    Raises:
        MalformedError: it is no such address.
    """
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise MalformedError(f"{text[:80]!r} is not an address with a port, like 0.0.0.0:8443")
    return host, int(port)


def _check_absolute(name: str, path: str) -> None:
    if not path.startswith("/"):
        raise MalformedError(f"{name} must be an absolute path")


def _check_range(name: str, number: int, least: int, most: int) -> None:
    if not least <= number <= most:
        raise MalformedError(f"{name} must be {least} to {most}")


def _check_network(name: str, text: str) -> None:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise MalformedError(f"{name}: {text[:60]!r} is not a network, like 10.0.0.0/8") from None


def _check_url(name: str, url: str, schemes: tuple[str, ...]) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as problem:
        raise MalformedError(f"{name} cannot be read: {problem}") from None
    if parts.scheme not in schemes or not parts.hostname or parts.query or parts.fragment:
        raise MalformedError(f"{name} must be a URL like {schemes[0]}://kmend.example:8443")
