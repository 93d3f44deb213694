"""The messages between a host and its server: what they hold, how they are signed, and how large they may be.

A host has an ed25519 key of its own and signs everything that it sends; the server's database holds no secret of a host. The
body of a request is one JSON document (`kmend.core.document`), and beside it stand two headers:

    Kmend-Host: <host ID>                      not at enrolment
    Kmend-Signature: <128 hexadecimal digits>  ed25519 over `signed_bytes(purpose, server, body)`

`/v1/` in the paths is the version of all of this. A version only ever gains members, which older readers ignore
(docs/decisions/0021-host-protocol.md). Times are seconds since 1970-01-01 UTC, by the clock of whoever speaks.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field

from kmend.core.document import LATER
from kmend.core.errors import MalformedError
from kmend.core.kernel import check_build_id
from kmend.core.manifest import check_level, sha256_hex

HOST_HEADER = "Kmend-Host"
SIGNATURE_HEADER = "Kmend-Signature"
ENROL_PATH = "/v1/enrol"
CHECK_IN_PATH = "/v1/check-in"
NEWS_PATH = "/v1/news"
SPLIT_PATH = "/v1/split"

MAX_REQUEST_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 64 * 1024
MAX_TEXT = 300
MAX_ITEMS = 64
MAX_COUNTER = 2**53
MAX_LOADED = 2000
MAX_BARRED = 1000
MAX_ABSENT = 1000
MAX_MODULE_NAME = 64
NO_LINK = "0" * 64
"""What the first link of a host's chain of reports follows."""

_HOST_ID = re.compile(r"[0-9a-f]{32}")
_SERVER_ID = re.compile(r"[0-9a-f]{32}")
_KEY = re.compile(r"[0-9a-f]{64}")
_BOOT_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TAG = re.compile(r"[0-9a-f]{16,64}")
_TAG_NAME = re.compile(r"[a-z][a-z0-9._-]{0,62}")


class Purpose(str, enum.Enum):
    """What a signature is for; one of another purpose never verifies."""

    ENROL = "enrol"
    CHECK_IN = "check-in"
    NEWS = "news"
    SPLIT = "split"


def signed_bytes(purpose: Purpose, server: str, body: bytes) -> bytes:
    """What a host signs: the purpose, the server's ID (so that no other server can use it) and the body as it is sent.

    At enrolment the host does not know the server's ID yet, and signs with an empty one.
    """
    return f"kmend-host/1 {purpose.value} {server}\n".encode() + body


def check_host_id(text: str) -> str:
    """`text`, if it is a host's ID (32 lower-case hexadecimal digits); raises MalformedError otherwise."""
    return _checked(_HOST_ID, text, "a host ID")


def check_public_key(text: str) -> str:
    """`text`, if it is an ed25519 public key (64 lower-case hexadecimal digits); raises MalformedError otherwise."""
    return _checked(_KEY, text, "an ed25519 public key in hexadecimal")


def check_boot_id(text: str) -> str:
    """`text`, if it has the form of `/proc/sys/kernel/random/boot_id`; raises MalformedError otherwise."""
    return _checked(_BOOT_ID, text, "a boot ID")


def check_tag(name: str, value: str) -> None:
    """Raises MalformedError if a tag's name or value cannot be one."""
    _checked(_TAG_NAME, name, "a tag's name (small letters, digits, dot, _ and -)")
    _check_text("the value of a tag", value)


def _checked(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise MalformedError(f"{text[:80]!r} is not {what}")
    return text


def _check_text(what: str, text: str) -> None:
    if len(text) > MAX_TEXT or not text.isprintable():
        raise MalformedError(f"{what} must be one line of at most {MAX_TEXT} characters")


def _check_items(what: str, items: tuple[object, ...]) -> None:
    if len(items) > MAX_ITEMS:
        raise MalformedError(f"there are {len(items)} {what}; {MAX_ITEMS} are accepted")


def _check_counter(number: int) -> None:
    if not 0 < number <= MAX_COUNTER:
        raise MalformedError(f"{number} is not a counter")


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What sort of machine a host is; rollouts use it so that not all first hosts are alike.

    Attributes:
        name: its host name.
        machine: digest of what stays with a machine and differs between two (never the machine ID itself): SHA-256 hex; a
            host that finds another one than at its enrolment is a clone, or its disk in another machine.
        hardware: vendor and product, or the hypervisor.
        role: of this host, as its administrator configured it.
        distro: `ID VERSION_ID` of os-release.
        agent: version of kmend.
    """

    name: str
    machine: str
    hardware: str = ""
    role: str = ""
    distro: str = ""
    processors: int = 0
    memory_mib: int = 0
    agent: str = ""

    def __post_init__(self) -> None:
        for name in ("name", "machine", "hardware", "role", "distro", "agent"):
            _check_text(name, getattr(self, name))
        if not self.name:
            raise MalformedError("a host has a name")


@dataclass(frozen=True, slots=True)
class RunningBuild:
    """The running kernel."""

    build_id: str
    release: str
    version: str
    architecture: str

    def __post_init__(self) -> None:
        check_build_id(self.build_id)
        for name in ("release", "version", "architecture"):
            _check_text(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class HeldLevel:
    """A level that is loaded, or on its way in or out.

    Attributes:
        state: of the loaded one empty; of one that is open the agent's word: armed, loading, transitioning, soaking, reverting.
        sha256: of the unsigned module.
        since: seconds for which it has been so, as far as the host knows.
    """

    level: int
    module: str
    sha256: str
    state: str = ""
    since: int = 0

    def __post_init__(self) -> None:
        check_level(self.level)
        for name in ("module", "sha256", "state"):
            _check_text(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class Failure:
    """A level that this host does not load by itself any more, and why: an entry of its quarantine.

    Attributes:
        cause: the agent's word: crashed, oopsed, warned, stuck, unconfirmed, hook, rolled-back, ...
        at: when, by the host's clock.
    """

    level: int
    module: str
    cause: str
    message: str
    at: int

    def __post_init__(self) -> None:
        check_level(self.level)
        for name in ("module", "cause", "message"):
            _check_text(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class WithheldLevel:
    """A newer level that this host's own policy, or a recall, keeps from it.

    Attributes:
        rules: by name: no-apply, channel, pin-level, pin-date, hold, window, quarantine, recall, regression.
        until: when they let it go; None if not by themselves.
    """

    level: int
    rules: tuple[str, ...]
    until: int | None = None

    def __post_init__(self) -> None:
        check_level(self.level)
        _check_items("rules", self.rules)
        for rule in self.rules:
            _check_text("a rule", rule)


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that is not as it should be on the host: a word for machines, a sentence for people."""

    kind: str
    message: str

    def __post_init__(self) -> None:
        _check_text("kind", self.kind)
        _check_text("message", self.message)


@dataclass(frozen=True, slots=True)
class StateReport:
    """Everything that a host says of itself. It is sent when it has changed, and kept with its signature as evidence.

    Attributes:
        at: the host's clock.
        boot_id: of this boot.
        clean_boot: whether the boot before ended in order; None if the host cannot tell.
        state: where the agent stands (`kmend.agent.states.State`).
        loaded: the level in force; None if none is.
        trying: the level of the open intent; None if none is open.
        failures: the quarantine, newest first.
        withheld: newest first.
        remarks: conditions, the worst first.
        tainted: the kernel's taint flags.
        stopped: what keeps kmend from loading anything; empty if nothing does.
        accepts_return: this host's policy lets the server send it back to the level before while it soaks.
        modules: empty; what a host says of its modules is a document of its own (`ModuleReport`), which this one cannot hold: a
            server that does not know a member would not find the digest that the host names.
    """

    at: int
    boot_id: str
    kernel: RunningBuild
    facts: HostFacts
    state: str
    loaded: HeldLevel | None = None
    trying: HeldLevel | None = None
    failures: tuple[Failure, ...] = ()
    withheld: tuple[WithheldLevel, ...] = ()
    remarks: tuple[Remark, ...] = ()
    clean_boot: bool | None = None
    tainted: int = 0
    stopped: str = ""
    accepts_return: bool = False
    supported: bool | None = None
    modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_boot_id(self.boot_id)
        for name in ("state", "stopped"):
            _check_text(name, getattr(self, name))
        _check_items("failures", self.failures)
        _check_items("levels withheld", self.withheld)
        _check_items("remarks", self.remarks)
        if len(self.modules) > 2000 or any(len(name) > 64 or not name.isprintable() for name in self.modules):
            raise MalformedError("the list of modules is not believable")


@dataclass(frozen=True, slots=True)
class ModuleReport:
    """Which modules a host has loaded, and which it can load (docs/decisions/0030-modules-of-a-host.md).

    It is sent apart from the state, since it is larger and changes at other times. Names are as the kernel has them, with `_`,
    sorted.

    Attributes:
        loaded: all of them; for those that no level patches, that nothing bars, and that are on the disk, as it was some hours
            ago at most.
        barred: that nothing on the host loads by name: what modprobe runs for them loads nothing, or the kernel was told to
            refuse them. Some may be loaded all the same.
        absent: of the running kernel's modules those that are not on the disk.
        sealed: nothing can be loaded any more on this boot (`kernel.modules_disabled`).
        unpatched: objects that the level in force should patch, and that are loaded without being patched.
        installed: package version of the newest kernel that is installed; empty if that is not known.
    """

    loaded: tuple[str, ...]
    barred: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    sealed: bool = False
    unpatched: tuple[str, ...] = ()
    installed: str = ""

    def __post_init__(self) -> None:
        for what, names, most in (
            ("loaded", self.loaded, MAX_LOADED),
            ("barred", self.barred, MAX_BARRED),
            ("absent", self.absent, MAX_ABSENT),
            ("unpatched", self.unpatched, MAX_LOADED),
        ):
            if len(names) > most:
                raise MalformedError(f"there are {len(names)} modules that are {what}; {most} are accepted")
            if any(not 0 < len(name) <= MAX_MODULE_NAME or not name.isprintable() for name in names):
                raise MalformedError(f"the list of modules that are {what} is not believable")
        _check_text("installed", self.installed)


@dataclass(frozen=True, slots=True)
class Enrolment:
    """`POST /v1/enrol`, signed with the new key itself, which proves that the host has it.

    Attributes:
        key: the enrolment key that an operator made.
        public_key: the host's own, ed25519, hexadecimal.
    """

    key: str
    public_key: str
    facts: HostFacts
    protocol: int = 1

    def __post_init__(self) -> None:
        check_public_key(self.public_key)
        _check_text("key", self.key)


@dataclass(frozen=True, slots=True)
class Enrolled:
    """Answer to an enrolment, and to a split. Enrolling again with the same public key gives the same answer.

    Attributes:
        host: the ID that the server gave.
        server: the server's ID, part of every signature from now on.
        ring: for information; the server may change it.
    """

    host: str
    server: str
    ring: str

    def __post_init__(self) -> None:
        check_host_id(self.host)
        _checked(_SERVER_ID, self.server, "a server's ID")
        _check_text("ring", self.ring)


@dataclass(frozen=True, slots=True)
class Split:
    """`POST /v1/split`: a machine that has found itself to be a copy asks for an identity of its own.

    Signed with the key that both copies have; `proof` is the new key's signature over the same bytes with `proof` empty.
    """

    host: str
    public_key: str
    facts: HostFacts
    proof: str = ""

    def __post_init__(self) -> None:
        check_host_id(self.host)
        check_public_key(self.public_key)


@dataclass(frozen=True, slots=True)
class CheckIn:
    """`POST /v1/check-in`.

    Attributes:
        counter: rises with every check-in of this host; stored before it is sent, never used twice.
        report: SHA-256 of the canonical bytes of the state report that holds now.
        state: that report; only if the server has not acknowledged this very one.
        answer: tag of the last answer that the host has kept; empty for none.
        timestamp: version of the repository's timestamp metadata that it has verified; 0 for none.
        modules: tag of the module report that holds now, which the host chooses: another one for another report; empty if it
            makes none.
        module_report: that report; only if the server wants it, and beside the state, so that what is kept holds both.
        after: `link` of the last check-in with a state that the server has acknowledged, NO_LINK if there is none: so a server
            cannot leave one out unseen. Only beside a state; empty from hosts of earlier versions.
    """

    host: str
    counter: int
    boot_id: str
    report: str
    state: StateReport | None = None
    answer: str = ""
    timestamp: int = 0
    modules: str = field(default="", metadata=LATER)
    module_report: ModuleReport | None = field(default=None, metadata=LATER)
    after: str = field(default="", metadata=LATER)

    def __post_init__(self) -> None:
        check_host_id(self.host)
        check_boot_id(self.boot_id)
        _check_counter(self.counter)
        _checked(_KEY, self.report, "a report's digest")
        _check_text("answer", self.answer)
        if self.modules:
            _checked(_TAG, self.modules, "the tag of a module report")
        if self.module_report is not None and (not self.modules or self.state is None):
            raise MalformedError("a module report comes with its tag, and beside the state")
        if self.after:
            _checked(_KEY, self.after, "a link of a chain of reports")


def link(message: CheckIn) -> str:
    """What a check-in with a state is in its host's chain of reports; what the next one names as `after`.

    One that is sent again, because its answer was lost, is the same link: the counter is no part of it.
    """
    beside = message.modules if message.module_report is not None else ""
    return sha256_hex(f"kmend-link/1 {message.after} {message.report} {beside}".encode())


@dataclass(frozen=True, slots=True)
class Offer:
    """What the server would have a host run. It can hold back, and choose among signed levels; nothing else.

    Attributes:
        build_id: of the kernel build that this is about.
        level: the one level that this host may load by itself now, if it is newer than what is loaded; 0: none. Not the highest:
            a level below it may have been halted.
        back: a level that this host is to take off again if it is still being tried and the host's policy allows; 0 for none.
        reason: for people.
    """

    build_id: str
    level: int
    back: int = 0
    reason: str = ""

    def __post_init__(self) -> None:
        check_build_id(self.build_id)
        for number in (self.level, self.back):
            if number:
                check_level(number)
        _check_text("reason", self.reason)


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer to a check-in. When nothing has changed `offer` is None and `answer` is the tag that the host sent.

    Attributes:
        answer: tag of `offer`.
        next: seconds until the next check-in is due.
        timestamp: the repository's current signed timestamp metadata, as it lies there, so that no server can freeze a host
            unseen: the host verifies it; when its version is not the one that the host has, the repository is looked at.
        offer: None if it is the one that the host has.
        send_state: the server does not have this state report.
        send_modules: the server does not have this module report.
    """

    answer: str
    next: int
    timestamp: str
    offer: Offer | None = None
    send_state: bool = False
    send_modules: bool = field(default=False, metadata=LATER)

    def __post_init__(self) -> None:
        if not 1 <= self.next <= 7 * 86_400:
            raise MalformedError(f"a check-in in {self.next} seconds is not believable")
        _check_text("answer", self.answer)


@dataclass(frozen=True, slots=True)
class NewsRequest:
    """`POST /v1/news`: held by the server until there is news for this host, at most `wait` seconds.

    Attributes:
        seen: what the last answer called the state of things; empty at first, which is answered at once.
        at: the host's clock; a signature is good for an hour either way.
    """

    host: str
    seen: str
    at: int
    wait: int = 300

    def __post_init__(self) -> None:
        check_host_id(self.host)
        _check_text("seen", self.seen)
        if not 1 <= self.wait <= 900:
            raise MalformedError("wait must be 1 to 900 seconds")


@dataclass(frozen=True, slots=True)
class News:
    """Answer: carries no data. The host checks in at a random moment within `spread` seconds if `seen` has changed."""

    seen: str
    spread: int = 0

    def __post_init__(self) -> None:
        _check_text("seen", self.seen)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Every answer that is an error: RFC 9457, `application/problem+json`.

    Attributes:
        type: stable, `urn:kmend:problem:<word>`; a host acts on `counter-behind`, `cloned`, `unknown-host`, `not-enrolled`.
        counter: with `counter-behind`: the last one that the server has seen; the host goes on from there.
    """

    type: str
    title: str
    status: int
    detail: str = ""
    counter: int = 0
