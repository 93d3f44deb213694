"""Every table of the server. `migrations/` brings a database to this form; a test holds the two against each other.

Times are whole seconds since 1970-01-01 UTC. Identifiers are random hexadecimal text. Documents are canonical JSON in text.
Secrets stand here only as SHA-256 of 32 random bytes; of hosts there are only public keys.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite gives numbers of its own only to INTEGER PRIMARY KEY.
_Serial = BigInteger().with_variant(Integer, "sqlite")

settings = Table("settings", metadata, Column("name", Text, primary_key=True), Column("value", Text, nullable=False))
"""Among them: server_id."""

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("until", BigInteger, nullable=False),
)
"""Which server process does what only one may do: evaluate rollouts, send notices, watch the repository."""

news = Table("news", metadata, Column("key", Text, primary_key=True), Column("generation", BigInteger, nullable=False))
"""`all`, `ring:<name>`: rises when hosts that wait there are to be told."""

# Rings and hosts

rings = Table(
    "rings",
    metadata,
    Column("name", Text, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("description", Text, nullable=False, default=""),
    Column("created_at", BigInteger, nullable=False),
    Column("exposed", Boolean),  # the internet reaches its hosts; None: nobody has said
)

enrolment_keys = Table(
    "enrolment_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("secret_sha256", Text, nullable=False, unique=True),
    Column("ring", Text, ForeignKey("rings.name"), nullable=False),
    Column("note", Text, nullable=False, default=""),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("uses", Integer, nullable=False, default=0),
    Column("max_uses", Integer),  # None: without limit
    Column("networks", Text, nullable=False, default="[]"),  # JSON list of CIDR; empty: from anywhere
    Column("tags", Text, nullable=False, default="{}"),  # given to every host that enrols with it
    Column("ephemeral_seconds", Integer),  # hosts that are silent for so long expire; None: they stay
    Column("revoked_at", BigInteger),
)

hosts = Table(
    "hosts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("public_key", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("ring", Text, ForeignKey("rings.name"), nullable=False),
    Column("state", Text, nullable=False),  # enrolled, expired, decommissioned
    Column("parent", Text),  # of which host it was a clone
    Column("origin", Text),  # the first of those that are clones of one another
    Column("enrolled_at", BigInteger, nullable=False),
    Column("enrolment_key", Text),
    Column("ephemeral_seconds", Integer),
    Column("address", Text, nullable=False, default=""),
    # check-ins
    Column("counter", BigInteger, nullable=False, default=0),
    Column("boot_id", Text, nullable=False, default=""),
    Column("boots", Text, nullable=False, default="[]"),  # JSON list: boot IDs before this one, newest first, at most 8
    Column("resyncs", Integer, nullable=False, default=0),  # of the counter, on this boot
    Column(
        "cloned_at", BigInteger, nullable=False, default=0
    ),  # when people were told last that two machines are this host
    Column("last_seen", BigInteger, nullable=False, default=0),
    Column("next_due", BigInteger, nullable=False, default=0),
    Column("answer", Text, nullable=False, default=""),  # tag of the offer that the host has
    # the last report, and what is asked of it most
    Column("report", Text, nullable=False, default=""),  # its digest
    Column("machine", Text, nullable=False, default=""),
    Column("build_id", Text, nullable=False, default=""),
    Column("release", Text, nullable=False, default=""),
    Column("version", Text, nullable=False, default=""),
    Column("architecture", Text, nullable=False, default=""),
    Column("level", Integer, nullable=False, default=0),  # in force; 0: none
    Column("module", Text, nullable=False, default=""),
    Column("trying", Integer, nullable=False, default=0),  # level of the open intent; 0: none
    Column("phase", Text, nullable=False, default=""),  # where the agent stands
    Column("accepts_return", Boolean, nullable=False, default=False),
    Column("supported", Boolean),
    Column("hardware", Text, nullable=False, default=""),
    Column("role", Text, nullable=False, default=""),
    Column("distro", Text, nullable=False, default=""),
    Column("agent", Text, nullable=False, default=""),
    Column("trouble", Text, nullable=False, default=""),  # the worst remark's kind
    Column("refuses", Text, nullable=False, default="[]"),  # JSON list: levels that it does not load by itself
    # the last module report; lists of names by their digest in `module_sets`
    Column("modules", Text, nullable=False, default="", server_default=text("''")),  # its tag; empty: there is none
    Column("loaded", Text, nullable=False, default="", server_default=text("''")),  # empty: not known
    Column("barred", Text, nullable=False, default="", server_default=text("''")),  # empty: none
    Column("absent", Text, nullable=False, default="", server_default=text("''")),  # empty: none
    Column("sealed", Boolean, nullable=False, default=False, server_default=false()),  # nothing more can be loaded
    Column("unpatched", Text, nullable=False, default="[]", server_default=text("'[]'")),  # JSON list
    Column("installed", Text, nullable=False, default="", server_default=text("''")),  # newest kernel's package version
    Index(None, "ring", "state"),
    Index(None, "build_id", "level"),
    Index(None, "name"),
    Index(None, "origin"),
    Index(
        "ix_hosts_ephemeral",
        "ephemeral_seconds",
        sqlite_where=text("ephemeral_seconds IS NOT NULL"),
        postgresql_where=text("ephemeral_seconds IS NOT NULL"),
    ),
    # No index on what every check-in changes, and room in each page: PostgreSQL then updates a row where it is (HOT).
    postgresql_with={"fillfactor": 70},
)

host_tags = Table(
    "host_tags",
    metadata,
    Column("host", Text, ForeignKey("hosts.id"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Index(None, "name", "value"),
)

reports = Table(
    "reports",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("host", Text, ForeignKey("hosts.id"), nullable=False),
    Column("counter", BigInteger, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),  # of the state report in it
    Column("body", LargeBinary, nullable=False),  # the check-in, byte for byte as it was signed
    Column("signature", Text, nullable=False),
    UniqueConstraint("host", "counter"),
)
"""Every check-in that brought a state report: evidence that the server cannot have made up."""

# Levels, as the repository's signed metadata has them

kernel_builds = Table(
    "kernel_builds",
    metadata,
    Column("build_id", Text, primary_key=True),
    Column("release", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("ref", Text, nullable=False),
    Column("architecture", Text, nullable=False),
    Column("first_seen", BigInteger, nullable=False),
)

levels = Table(
    "levels",
    metadata,
    Column("build_id", Text, ForeignKey("kernel_builds.build_id"), primary_key=True),
    Column("level", Integer, primary_key=True),
    Column("module", Text, nullable=False),
    Column("manifest_sha256", Text, nullable=False),
    Column("module_sha256", Text, nullable=False),
    Column("published", BigInteger, nullable=False),
    Column("channel", Text, nullable=False, default=""),
    Column("base", Integer),
    Column("pinned", Boolean, nullable=False),
    Column("imported_at", BigInteger, nullable=False),
    Column("manifest", LargeBinary, nullable=False),  # as it is signed
)

level_fixes = Table(
    "level_fixes",
    metadata,
    Column("build_id", Text, primary_key=True),
    Column("level", Integer, primary_key=True),
    Column("fix", Text, primary_key=True),
    Index(None, "fix"),
)

level_cves = Table(
    "level_cves",
    metadata,
    Column("build_id", Text, primary_key=True),
    Column("level", Integer, primary_key=True),
    Column("cve", Text, primary_key=True),
    # JSON list: in which the level replaces functions for it; empty: not known
    Column("objects", Text, nullable=False, default="[]", server_default=text("'[]'")),
    Index(None, "cve"),
)

recalls = Table(
    "recalls",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("extent", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("fix", Text, nullable=False, default=""),
    Column("build_id", Text, nullable=False, default=""),
    Column("level", Integer, nullable=False, default=0),
    Column("withdrawn_at", BigInteger),
)

ring_levels = Table(
    "ring_levels",
    metadata,
    Column("ring", Text, ForeignKey("rings.name"), primary_key=True),
    Column("build_id", Text, primary_key=True),
    Column("level", Integer, nullable=False),
    Column("rollout", Text, nullable=False, default=""),
    Column("since", BigInteger, nullable=False),
)
"""What every host of a ring may have, since a rollout's stage there ended well: what a new host is offered at once."""

# Rollouts

plans = Table(
    "plans",
    metadata,
    Column("name", Text, primary_key=True),
    Column("stages", Text, nullable=False),  # JSON: kmend.server.rollouts.plan
    Column("automatic", Boolean, nullable=False, default=False),  # new levels start a rollout by it at once
    Column("created_at", BigInteger, nullable=False),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("plan", Text, nullable=False),  # JSON: its stages, as they were when it was made
    Column("state", Text, nullable=False),  # draft, awaiting-approval, running, finished, aborted, expired
    Column("override", Text, nullable=False, default=""),  # paused (a person), halted (by itself): stronger than state
    Column("stage", Integer, nullable=False, default=0),
    Column("stage_opened_at", BigInteger, nullable=False, default=0),
    Column("emergency", Boolean, nullable=False, default=False),
    Column("reason", Text, nullable=False, default=""),  # of the last change, for people
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("return_soaking", Boolean, nullable=False, default=True),  # when it halts, hosts that soak are sent back
    Column("version", BigInteger, nullable=False, default=0),
    Index(None, "state"),
)

rollout_targets = Table(
    "rollout_targets",
    metadata,
    Column("rollout", Text, ForeignKey("rollouts.id"), primary_key=True),
    Column("build_id", Text, primary_key=True),
    Column("level", Integer, nullable=False),
    Index(None, "build_id"),
)

rollout_stages = Table(
    "rollout_stages",
    metadata,
    Column("rollout", Text, ForeignKey("rollouts.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("ring", Text, nullable=False),
    Column("granted", Integer, nullable=False, default=0),
    Column("in_flight", Integer, nullable=False, default=0),
    Column("succeeded", Integer, nullable=False, default=0),
    Column("failed", Integer, nullable=False, default=0),
    Column("inconclusive", Integer, nullable=False, default=0),
    Column("forgiven", Integer, nullable=False, default=0),  # failures that a person has said not to count
    Column("outcome", Text, nullable=False, default=""),  # passed, halted, skipped
    Column("ended_at", BigInteger),
)

grants = Table(
    "grants",
    metadata,
    Column("rollout", Text, ForeignKey("rollouts.id"), primary_key=True),
    Column("host", Text, ForeignKey("hosts.id"), primary_key=True),
    Column("stage", Integer, nullable=False),
    Column("build_id", Text, nullable=False),
    Column("level", Integer, nullable=False),
    Column("from_level", Integer, nullable=False),
    Column("state", Text, nullable=False),  # granted, loading, soaking, succeeded, failed, inconclusive
    Column(
        "cause", Text, nullable=False, default=""
    ),  # of a failure: reported, silent, rebooted, quarantined, returned, refused
    Column("message", Text, nullable=False, default=""),
    Column("granted_at", BigInteger, nullable=False),
    Column("state_since", BigInteger, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("diversity", Text, nullable=False, default=""),  # the value of the plan's diversity key when it was granted
    Index(None, "host"),
    Index(None, "rollout", "stage", "state"),
)

approvals = Table(
    "approvals",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("rollout", Text, ForeignKey("rollouts.id"), nullable=False),
    Column("stage", Integer, nullable=False),
    Column("actor", Text, nullable=False),
    Column("approved", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    UniqueConstraint("rollout", "stage", "actor"),
)

# People and what they did

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("secret_sha256", Text, nullable=False, unique=True),
    Column("roles", Text, nullable=False),  # JSON list: viewer, operator, approver, auditor, administrator
    Column("rings", Text, nullable=False, default="[]"),  # JSON list; empty: all
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("last_used_at", BigInteger),
    Column("revoked_at", BigInteger),
)

audit = Table(
    "audit",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),  # token:<id> <name>, host:<id>, server
    Column("action", Text, nullable=False),  # e.g. rollout.pause
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),  # canonical JSON
    Column("previous", Text, nullable=False),  # digest of the record before; of the first: 64 zeros
    Column("digest", Text, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("token", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request", Text, nullable=False),  # digest of method, path and body
    Column("status", Integer, nullable=False),
    Column("answer", LargeBinary, nullable=False),
    Column("at", BigInteger, nullable=False),
)

# Telling people

channels = Table(
    "channels",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),  # webhook, email
    Column("target", Text, nullable=False),
    Column("secret", Text, nullable=False, default=""),  # signs webhooks; written once, never shown again
    Column("events", Text, nullable=False, default="[]"),  # JSON list; empty: all
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("channel", Text, ForeignKey("channels.id"), nullable=False),
    Column("event", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("next_at", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("sent_at", BigInteger),
    Column("error", Text, nullable=False, default=""),
)

# What is known of vulnerabilities (kmend.intel)

feeds = Table(
    "feeds",
    metadata,
    Column("name", Text, primary_key=True),  # cna, debian, kev, epss, ssvc, bod
    Column("version", Text, nullable=False),
    Column("as_of", BigInteger, nullable=False),  # how old what it says is
    Column("imported_at", BigInteger, nullable=False),
    Column("records", Integer, nullable=False),
    Column("aside_count", Integer, nullable=False),
    Column("aside", Text, nullable=False),  # JSON list of [name, why], the first thousand
)

cves = Table(
    "cves",
    metadata,
    Column("cve", Text, primary_key=True),
    Column("title", Text, nullable=False),
    Column("cvss", Text, nullable=False),
    Column("files", Text, nullable=False),  # JSON list
    Column("commits", Text, nullable=False),  # JSON list
    Column("pairs", Text, nullable=False),  # as in a .dyad file
    Column("rejected", Boolean, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("published_at", BigInteger),  # by its own word; None if the record does not say
    Column("first_seen_at", BigInteger),  # when this server first read of it
)

cve_signals = Table(
    "cve_signals",
    metadata,
    Column("cve", Text, primary_key=True),
    Column("kev_added", BigInteger),
    Column("kev_due", BigInteger),
    Column("forensic", Boolean),
    Column("ransomware", Boolean),
    Column("epss", Float),
    Column("percentile", Float),
    Column("ssvc_exploitation", Text),  # none, poc, active; empty: the assessment does not say
    Column("ssvc_automatable", Text),  # no, yes; empty likewise
    Column("ssvc_impact", Text),  # partial, total; empty likewise
)

distro_uploads = Table(
    "distro_uploads",
    metadata,
    Column("branch", Text, primary_key=True),  # whose changelog tells of it: that of the changelog's newest upload
    Column("package", Text, primary_key=True),
    Column("place", Integer, nullable=False),  # rising
)

distro_fixes = Table(
    "distro_fixes",
    metadata,
    # A server of an earlier version writes none: nothing is made of such rows, and the next import takes them away
    Column("branch", Text, primary_key=True, server_default=text("''")),
    Column("package", Text, primary_key=True),
    Column("cve", Text, primary_key=True),
    Column("place", Integer, nullable=False),  # of the upload, rising
    Column("stable", Text, nullable=False),  # the stable update that brought it; empty if it is the distro's own
    Column("seen_at", BigInteger),  # when this server first read of it
    Column("uploaded_at", BigInteger),  # by the changelog's own word
    Index(None, "cve"),
)

kernel_facts = Table(
    "kernel_facts",
    metadata,
    Column("build_id", Text, primary_key=True),
    Column("package", Text, nullable=False),
    Column("imported_at", BigInteger, nullable=False),
    Column("facts", LargeBinary, nullable=False),  # the document, as zlib packs it
    Column("judged_at", BigInteger),  # of the import after which every CVE was last judged for it
)

applicability = Table(
    "applicability",
    metadata,
    Column("build_id", Text, primary_key=True),
    Column("cve", Text, primary_key=True),
    Column("affected", Boolean),  # None: not known
    Column("reason", Text, nullable=False),
    Column("presence", Text, nullable=False),
    Column("objects", Text, nullable=False),  # JSON list
    Column("evidence", Text, nullable=False),  # JSON list
    Column("in_c", Boolean, nullable=False),
    # `objects` are all that may have it
    Column("complete", Boolean, nullable=False, default=False, server_default=false()),
    Index(None, "cve"),
)
"""What a CVE means for a kernel build; computed when a feed or the facts have changed, by `kmend.intel.applicability`."""

# What verdicts rested on before (kmend.intel.timeline): a verdict's history is made of these, when somebody asks

host_periods = Table(
    "host_periods",
    metadata,
    Column("host", Text, ForeignKey("hosts.id"), primary_key=True),
    Column("at", BigInteger, primary_key=True),  # by the server's clock; it held until the host's next
    Column("state", Text, nullable=False),  # as in `hosts`; after another one than enrolled nothing is said of the host
    Column("ring", Text, nullable=False),
    Column("boot_id", Text, nullable=False),
    Column("build_id", Text, nullable=False),
    Column("level", Integer, nullable=False),  # in force; 0: none
    Column("transition", Integer, nullable=False),  # level on its way in; 0: none
    Column("refuses", Text, nullable=False),  # JSON list: as in `hosts`
    # as in `hosts`; what is loaded only where a verdict turns on it
    Column("loaded", Text, nullable=False, default="", server_default=text("''")),
    Column("barred", Text, nullable=False, default="", server_default=text("''")),
    Column("absent", Text, nullable=False, default="", server_default=text("''")),
    Column("sealed", Boolean, nullable=False, default=False, server_default=false()),
    Column("unpatched", Text, nullable=False, default="[]", server_default=text("'[]'")),
    Index(None, "at", "host"),
)
"""One row each time a host said something that verdicts depend on: what stands in `hosts`, as it was."""

applicability_changes = Table(
    "applicability_changes",
    metadata,
    Column("build_id", Text, primary_key=True),
    Column("cve", Text, primary_key=True),
    Column("until", BigInteger, primary_key=True),
    Column("affected", Boolean),
    Column("reason", Text, nullable=False),
    Column("presence", Text, nullable=False),
    Column("objects", Text, nullable=False),  # JSON list
    Column("complete", Boolean, nullable=False, default=False, server_default=false()),  # as in `applicability`
    Index(None, "until"),
)
"""Answers of `applicability` that another one has replaced since. The first one holds from the beginning of all things."""

ring_releases = Table(
    "ring_releases",
    metadata,
    Column("ring", Text, primary_key=True),
    Column("build_id", Text, primary_key=True),
    Column("level", Integer, primary_key=True),
    Column("since", BigInteger, nullable=False),
)
"""Every level that `ring_levels` has ever had."""

# What rings stand under, and what is accepted for a time

policies = Table(
    "policies",
    metadata,
    Column("id", Text, primary_key=True),
    Column("ring", Text, ForeignKey("rings.name"), nullable=False),
    Column("name", Text, nullable=False),  # one of a name is kept in a ring at a time
    Column("framework", Text, nullable=False),
    Column("rows", Text, nullable=False),  # JSON: kmend.intel.rows
    Column("assumed", Text, nullable=False),  # JSON: kmend.intel.deadlines.Assumptions
    Column("valid_from", Text, nullable=False),  # YYYY-MM-DD
    Column("valid_to", Text, nullable=False),  # not any more on that day
    Column("approved_by", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("removed_at", BigInteger),  # also when another took its place
    Index(None, "ring"),
)

exceptions = Table(
    "exceptions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("cve", Text, nullable=False),
    Column("extent", Text, nullable=False),  # host, ring, tag, everything
    Column("subject", Text, nullable=False),  # which of them
    Column("reason", Text, nullable=False),
    Column("control", Text, nullable=False),  # what is done instead
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("approved_at", BigInteger),
    Column("approved_by", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("withdrawn_at", BigInteger),
    Column("withdrawn_by", Text, nullable=False),
    Index(None, "cve"),
)

# Documents for scanners

host_documents = Table(
    "host_documents",
    metadata,
    Column("host", Text, ForeignKey("hosts.id"), primary_key=True),
    Column("version", Integer, nullable=False),  # of its OpenVEX, one more with each that says something else
    Column("digest", Text, nullable=False),  # of what it says, without version and times
    Column("issued_at", BigInteger, nullable=False),  # when this version was made first
    Column("observed_at", BigInteger, nullable=False),  # when the host was seen last before that
)

# What is asked for as evidence (kmend.server.evidence)

inventory = Table(
    "inventory",
    metadata,
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("machine", Text, nullable=False),  # digest of the machine, or the host's ID; empty: found by its name
    Column("address", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("scope", Text, nullable=False),
)
"""The organisation's own list of its machines, with or without an agent, as it was imported last."""

feed_sources = Table(
    "feed_sources",
    metadata,
    Column("name", Text, primary_key=True),
    Column("source", Text, nullable=False),  # digest of what is configured; empty: only imported by hand
    Column("tried_at", BigInteger),
    Column("checked_at", BigInteger),  # when the source last said what there is, or that it is nothing new
    Column("next_at", BigInteger, nullable=False),  # whoever fetches it sets this first, so that no other one does
    Column("failures", Integer, nullable=False),  # since it succeeded last
    Column("error", Text, nullable=False),  # of the last try; empty: it succeeded
    Column("hint", Text, nullable=False),
    Column("etag", Text, nullable=False),
    Column("modified", Text, nullable=False),
    Column("begun_at", BigInteger),  # of an import that is not finished: judged, and told of
)

directive_rows = Table(
    "directive_rows",
    metadata,
    Column("in_kev", Boolean, primary_key=True),
    Column("exposed", Boolean, primary_key=True),
    Column("automatable", Boolean, primary_key=True),
    Column("total", Boolean, primary_key=True),
    Column("days", Integer),  # None: with the next upgrade of the system
    Column("forensic", Boolean, nullable=False),
)
"""CISA's BOD 26-04, as it was imported."""

# What hosts say of their modules

module_sets = Table(
    "module_sets",
    metadata,
    Column("digest", Text, primary_key=True),  # SHA-256 of `names`
    Column("names", Text, nullable=False),  # JSON list, sorted
    Column("used_at", BigInteger, nullable=False),  # when a host has named it last, or some hours before
)
"""Lists of modules' names, each kept once however many hosts have it."""
