"""Verifying a pack, without a server and without a network: each claim against whatever proves it.

Signatures of the server itself count for one thing only: where the pack comes from. The rest is held against hosts' own
signatures, the publisher's, the audit log's chain, and a person's signature over the whole. Each check is run though another one
has failed before, so that all that is wrong is named at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kmend.core.errors import KmendError
from kmend.server.access.audit import Head
from kmend.server.evidence import auditlog, documents, fleet, levels, signing
from kmend.server.evidence.auditlog import Log
from kmend.server.evidence.chains import Gap
from kmend.server.evidence.documents import About
from kmend.server.evidence.errors import EvidenceError
from kmend.server.evidence.fleet import Fleet
from kmend.server.evidence.levels import Signed
from kmend.server.evidence.reading import Reader, check_files


@dataclass(frozen=True, slots=True)
class Trusted:
    """What whoever verifies has from elsewhere.

    Attributes:
        root: the trust root, as its publisher hands it out.
        keys: public keys of people who may countersign besides those whom the trust root names; key -> what to call it.
        heads: of the audit log, as they were kept earlier.
        server_alone: go without a countersignature: what only the server says is then believed.
        gaps: that reports of hosts are missing is told, and no fault.
    """

    root: bytes
    keys: Mapping[str, str]
    heads: Sequence[Head] = ()
    server_alone: bool = False
    gaps: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """A check.

    Attributes:
        check: its name, which does not change.
        message: what was found; if it is not good, what exactly is wrong.
    """

    check: str
    good: bool
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """All checks.

    Attributes:
        about: what the pack says that it is of; None if that cannot be read.
        gaps: where reports of hosts are missing, the first thousand.
    """

    verified: bool
    about: About | None
    findings: tuple[Finding, ...]
    gaps: tuple[Gap, ...] = ()


class _Desk:
    """Runs the checks, and remembers what the later ones need of the earlier."""

    def __init__(self, reader: Reader, trusted: Trusted) -> None:
        self.reader = reader
        self.trusted = trusted
        self.about: About | None = None
        self.log: Log | None = None
        self.signed: Signed | None = None
        self.fleet: Fleet | None = None
        self.findings: list[Finding] = []

    def run(self, name: str, check: Callable[[], str]) -> None:
        """One check: what it returns is for people, what it raises is what is wrong."""
        try:
            self.findings.append(Finding(name, True, check()))
        except KmendError as problem:
            self.findings.append(Finding(name, False, problem.message))

    def known_about(self) -> About:
        if self.about is None:
            raise EvidenceError("about.json cannot be read, so this could not be checked")
        return self.about

    def known_log(self) -> Log:
        if self.log is None:
            raise EvidenceError("the audit log does not verify, so this could not be checked")
        return self.log

    def known_signed(self) -> Signed:
        if self.signed is None:
            raise EvidenceError("the levels do not verify, so this could not be checked")
        return self.signed

    def known_fleet(self) -> Fleet:
        if self.fleet is None:
            raise EvidenceError("the hosts' reports do not verify, so this could not be checked")
        return self.fleet

    def files(self) -> str:
        """Every file is as the manifest lists it, and no other is there."""
        manifest = check_files(self.reader)
        self.about = self.reader.about()
        if self.about.format != documents.FORMAT:
            raise EvidenceError(
                f"the pack is of the form {self.about.format[:40]}, and this program reads {documents.FORMAT}"
            )
        if self.about.server != manifest.server or self.about.made_at != manifest.made_at:
            raise EvidenceError("about.json and the manifest do not speak of the same pack")
        return f"{len(manifest.files)} files, as the manifest lists them"

    def server(self) -> str:
        """The server's signature, by a key that the audit log knows."""
        content, manifest = self.reader.manifest()
        signature = self.reader.signature()
        if not signing.holds(signing.SERVER, content, signature) or signature.name != manifest.server:
            raise EvidenceError("the server's signature is not one over this manifest")
        if signature.public_key not in self.known_log().keys:
            raise EvidenceError("the audit log knows nothing of the key that signs as the server's")
        return f"signed by server {manifest.server}"

    def people(self) -> str:
        """A person's signature, by a key that is not on the server."""
        content, _ = self.reader.manifest()
        known = {**(self.signed.people if self.signed is not None else {}), **self.trusted.keys}
        names = []
        for signature in self.reader.countersignatures():
            if not signing.holds(signing.PERSON, content, signature):
                raise EvidenceError(f"the countersignature of {signature.name!r} is not one over this manifest")
            if signature.public_key in known:
                names.append(f"{signature.name or 'somebody'} ({known[signature.public_key]} key)")
        if names:
            return f"countersigned by {', '.join(names)}"
        if self.trusted.server_alone:
            return "not asked for: feeds, what CVEs mean and what is overdue rest on the server's word"
        raise EvidenceError(
            "nobody whose key is known has countersigned it, so the server could have written parts of it anew"
        )

    def audit(self) -> str:
        """The audit log is whole, and holds the heads that were kept."""
        self.log = auditlog.read(self.reader, self.trusted.heads)
        auditlog.check_heads(self.log, self.trusted.heads)
        about = self.known_about()
        auditlog.check_made(self.log, about)
        if self.log.head != about.audit:
            raise EvidenceError(f"the audit log does not end with record {about.audit.number}, as about.json says")
        known = f"; {len(self.trusted.heads)} known records are in it" if self.trusted.heads else ""
        return f"{self.log.head.number} records, whole and in order{known}"

    def published(self) -> str:
        """The levels are signed by the keys that the trust root names."""
        self.signed = levels.read(self.reader, self.trusted.root)
        return f"{self.signed.count} levels, signed by the keys of the trust root, version {self.signed.root_version}"

    def reports(self) -> str:
        """Hosts' reports, by the hosts' own keys, which the audit log has had since they enrolled."""
        self.fleet = fleet.read(self.reader, self.known_about(), self.known_log())
        unpinned = f"; the keys of {self.fleet.unpinned} are by the server's word" if self.fleet.unpinned else ""
        return f"{self.fleet.reports} reports of {len(self.fleet.hosts)} hosts, signed by themselves{unpinned}"

    def chains(self) -> str:
        """No report was left out between two others."""
        return fleet.check_chains(self.known_fleet(), gaps=self.trusted.gaps)

    def population(self) -> str:
        """No host is missing, and each is as it says itself."""
        return fleet.check_population(self.known_fleet(), self.known_about(), self.known_log())

    def inventory(self) -> str:
        """The organisation's list is the one that was imported, and finds the hosts that it says."""
        return fleet.check_inventory(self.reader, self.known_fleet(), self.known_about(), self.known_log())

    def ran(self) -> str:
        """What hosts ran are levels that the publisher has signed, byte for byte."""
        return levels.check_ran(self.known_fleet(), self.known_signed())

    def states(self) -> str:
        """What is open in each state follows from the signed levels."""
        return levels.check_states(self.reader, self.known_fleet(), self.known_signed())

    def timelines(self) -> str:
        """Every timeline follows from its host's reports."""
        return fleet.check_timelines(self.reader, self.known_fleet())

    def approvals(self) -> str:
        """Every approval is in the audit log, and the other way round."""
        return auditlog.check_approvals(self.reader, self.known_about(), self.known_log())

    def policies(self) -> str:
        """Policies and exceptions are those of the audit log, with who approved them."""
        return auditlog.check_ruling(self.reader, self.known_about(), self.known_log())


def verify(path: Path, trusted: Trusted) -> Outcome:
    """Run every check on a pack."""
    try:
        reader = Reader(path)
    except KmendError as problem:
        return Outcome(False, None, (Finding("form", False, problem.message),))
    desk = _Desk(reader, trusted)
    desk.findings.append(Finding("form", True, f"{len(reader.pack.names)} members"))
    for name, check in (
        ("files", desk.files),
        ("audit", desk.audit),
        ("server", desk.server),
        ("levels", desk.published),
        ("people", desk.people),
        ("reports", desk.reports),
        ("chains", desk.chains),
        ("population", desk.population),
        ("inventory", desk.inventory),
        ("modules", desk.ran),
        ("states", desk.states),
        ("timelines", desk.timelines),
        ("approvals", desk.approvals),
        ("policies", desk.policies),
    ):
        desk.run(name, check)
    gaps = tuple(desk.fleet.chains.gaps) if desk.fleet is not None else ()
    return Outcome(all(item.good for item in desk.findings), desk.about, tuple(desk.findings), gaps)
