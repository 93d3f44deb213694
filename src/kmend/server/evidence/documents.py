"""What the files of a pack hold. `docs/decisions/0029-evidence-pack.md` says what each of them rests on."""

from __future__ import annotations

from dataclasses import dataclass

from kmend.server.access.audit import Head
from kmend.server.evidence.container import Entry

FORMAT = "kmend-evidence/2"
"""A pack of another form is not verified. 2: what hosts say of their modules counts."""
ABOUT, MANIFEST, SIGNATURE, COUNTERSIGNATURES = "about.json", "manifest.json", "signature.json", "countersignatures"
AUDIT, POPULATION, INVENTORY, REPORTS, TIMELINES = "audit", "population", "inventory", "reports", "timelines"
KERNELS, STATES, CVES, MANIFESTS, LEVELS, METADATA = "kernels", "states", "cves", "manifests", "levels", "metadata"
APPROVALS, ROLLOUTS, FEEDS = "approvals", "rollouts", "feeds.json"
POLICIES, EXCEPTIONS, DUE, SURROUNDINGS = "policies", "exceptions", "due", "surroundings"
TOP = frozenset({
    ABOUT, FEEDS, AUDIT, POPULATION, INVENTORY, REPORTS, TIMELINES, KERNELS, STATES, CVES, MANIFESTS, LEVELS, METADATA,
    APPROVALS, ROLLOUTS, POLICIES, EXCEPTIONS, DUE, SURROUNDINGS,
})  # fmt: skip
"""Files and folders that a manifest lists."""


@dataclass(frozen=True, slots=True)
class About:
    """`about.json`: what the pack is of.

    Attributes:
        server: its ID, part of every signature of a host.
        since, until: of the period, in seconds since 1970-01-01 UTC; the second is not part of it.
        ring: empty for the whole fleet.
        covered: machines of the inventory that have an agent which reports.
        audit: the newest record of the audit log when the pack was made: write it down, and later packs can be held against it.
        rules: version of the rules by which verdicts are made.
        keep_days: the server forgets reports after so many days.
    """

    server: str
    made_at: int
    made_by: str
    since: int
    until: int
    ring: str
    hosts: int
    reports: int
    inventory: int
    covered: int
    audit: Head
    rules: str
    kmend: str
    keep_days: int
    format: str = FORMAT


@dataclass(frozen=True, slots=True)
class PackManifest:
    """`manifest.json`: every file before it, in their order."""

    server: str
    made_at: int
    files: tuple[Entry, ...]
    format: str = FORMAT


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature over `manifest.json`: the server's, or a person's.

    Attributes:
        manifest: SHA-256 of it.
        public_key: ed25519, hexadecimal.
        name: who signs, as they call themselves; the server's ID for the server.
        note: what they state.
        signature: over `signed_bytes`, hexadecimal.
    """

    manifest: str
    public_key: str
    name: str
    note: str
    at: int
    signature: str = ""


@dataclass(frozen=True, slots=True)
class HostRow:
    """A host of the fleet (`population/`), in the order of their IDs.

    Attributes:
        public_key: that verifies its reports; the audit log has it from its enrolment on.
        last_seen: its last check-in, by the server's word.
        reports: how many of its reports the pack has; last_report: the counter of the last, 0 for none.
        machine: digest of the machine, as that report gives it.
        build_id, release, version, level: as that report has them; empty and 0 without one.
    """

    id: str
    name: str
    ring: str
    state: str
    tags: dict[str, str]
    enrolled_at: int
    last_seen: int
    public_key: str
    parent: str
    reports: int
    last_report: int
    machine: str
    build_id: str
    release: str
    version: str
    level: int


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that the organisation knows of (`inventory/`).

    Attributes:
        machine: digest of the machine, as hosts give it; empty if it is not known.
        owner, scope: for people.
        host: the host that it is; empty: it has no agent.
    """

    name: str
    machine: str
    address: str
    owner: str
    scope: str
    host: str


@dataclass(frozen=True, slots=True)
class ReportRow:
    """A check-in with a state report (`reports/`), by host and counter.

    Attributes:
        signature: the host's, over `kmend.core.wire.signed_bytes` of the body.
        body: byte for byte as it was signed; it is UTF-8.
    """

    host: str
    counter: int
    received_at: int
    signature: str
    body: str


@dataclass(frozen=True, slots=True)
class Stay:
    """From a report on a host ran this.

    Attributes:
        at: by the host's clock; counter: of the report.
        level: in force, or on its way in; 0 for none.
        module: its name; sha256: of the unsigned file, empty where the host did not know it.
        pending: the kernel still changes over; nothing counts yet.
        around: the surroundings there (`surroundings/`); empty if nothing turns on the host's modules, as far as it has said.
    """

    at: int
    counter: int
    boot_id: str
    build_id: str
    level: int
    module: str
    sha256: str
    pending: bool
    around: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """A change of what is open on a host.

    Attributes:
        closed, reopened: how many CVEs; which, the two states say.
        open: how many were left.
        by: what brought it about: `first report`, `level 3`, `level 3 taken off`, `kernel <version>`.
    """

    at: int
    counter: int
    closed: int
    reopened: int
    open: int
    by: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """A host's way through the period (`timelines/`); follows from its signed reports and from `states/`."""

    host: str
    stays: tuple[Stay, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a CVE means for a kernel build (`kernels/`), by the feeds and the kernel's facts.

    Attributes:
        affected: None: not known, which counts as open.
        objects: which hold the code; complete: no other one can.
        fixed_in: the distro's first package that has it mended.
    """

    build_id: str
    cve: str
    affected: bool | None
    reason: str
    presence: str
    objects: tuple[str, ...]
    evidence: tuple[str, ...]
    fixed_in: str
    complete: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """What is open on every host that runs this, its modules aside (`states/`).

    It follows from `kernels/` and the signed manifests.
    """

    build_id: str
    level: int
    open: tuple[str, ...]
    live_patched: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Around:
    """What hosts have said of their modules, as far as anything turns on it.

    Attributes:
        build_id, level: of the state that they are in; of that build are the modules.
        absent: neither loaded nor on the disk.
        barred: not loaded, and cannot be.
        unpatched: objects that the level should patch, and that are there without being patched.
    """

    build_id: str
    level: int
    absent: tuple[str, ...]
    barred: tuple[str, ...]
    unpatched: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What such modules change in a state (`surroundings/`): follows from hosts' signed reports, `kernels/` and the manifests.

    Attributes:
        id: by which a stay names it.
        not_present: open in the state, and not here: all that has the code is absent.
        left_out: live-patched in the state, and open here: the kernel has not patched all that it should.
    """

    id: str
    around: Around
    not_present: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CveRow:
    """A CVE that is open or live-patched in one of the states (`cves/`).

    Attributes:
        published, kev_added, kev_due: seconds since 1970-01-01 UTC; None where that is not known.
    """

    cve: str
    title: str
    cvss: str
    rejected: bool
    published: int | None
    kev_added: int | None
    kev_due: int | None
    epss: float | None


@dataclass(frozen=True, slots=True)
class FeedRow:
    """A feed (`feeds.json`), as it was when the pack was made.

    Attributes:
        age: of what it says, in seconds.
    """

    name: str
    version: str
    age: int
    imported_at: int
    records: int
    set_aside: int


@dataclass(frozen=True, slots=True)
class Approval:
    """An approval of a rollout's stage (`approvals/`); the audit log has it too."""

    rollout: str
    stage: int
    actor: str
    reason: str
    at: int


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """A rollout that was there in the period (`rollouts/`).

    Attributes:
        targets: kernel build -> level.
        plan: JSON.
    """

    id: str
    name: str
    state: str
    emergency: bool
    created_at: int
    created_by: str
    changed_at: int
    reason: str
    plan: str
    targets: dict[str, int]


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """A policy that a ring stood under in the period (`policies/`); the audit log has it too.

    Attributes:
        rows, assumed: JSON: its deadlines, and what it takes for true where nobody knows.
        valid_from, valid_to: YYYY-MM-DD; not any more on the second.
        approved_by: as it was said when it was set.
        removed_at: also when another took its place; None while it stands.
    """

    id: str
    ring: str
    name: str
    framework: str
    rows: str
    assumed: str
    valid_from: str
    valid_to: str
    approved_by: str
    created_at: int
    created_by: str
    removed_at: int | None


@dataclass(frozen=True, slots=True)
class ExceptionRow:
    """An exception that was asked for before the period's end and had not ended before it began (`exceptions/`); audited too.

    Attributes:
        extent, subject: which hosts it is for.
        control: what is done instead.
        approved_at, withdrawn_at: None where it was not.
    """

    id: str
    cve: str
    extent: str
    subject: str
    reason: str
    control: str
    created_at: int
    created_by: str
    approved_at: int | None
    approved_by: str
    expires_at: int
    withdrawn_at: int | None
    withdrawn_by: str


@dataclass(frozen=True, slots=True)
class DueRow:
    """What a policy wants closed (`due/`): what was overdue when the pack was made, and what would be within thirty days.

    Attributes:
        policy: the row of a policy, by name.
        hosts: on which the CVE is open and not accepted.
        due, latest: the first and the last host's deadline, in seconds since 1970-01-01 UTC.
    """

    policy: str
    cve: str
    ring: str
    hosts: int
    due: int
    latest: int
    overdue: bool
    forensic: bool
