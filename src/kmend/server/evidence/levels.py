"""The levels in a pack: signed by the offline keys, as hosts ran them, and closing what is said that they close."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kmend.core.errors import MalformedError
from kmend.core.manifest import LevelRecord, Manifest, sha256_hex
from kmend.server.evidence import documents, signing, timelines
from kmend.server.evidence.documents import LEVELS, MANIFESTS, METADATA, CveRow, State, Surroundings
from kmend.server.evidence.errors import EvidenceError
from kmend.server.evidence.fleet import Fleet
from kmend.server.evidence.published import NotPublishedError, Published, unpacked
from kmend.server.evidence.reading import Reader
from kmend.trust import current, layout
from kmend.trust.client import read_manifest
from kmend.trust.errors import MismatchError
from kmend.trust.signingerrors import SigningError


@dataclass(frozen=True, slots=True)
class SignedLevel:
    """A level that verifies.

    Attributes:
        module: its name; sha256: of the unsigned file.
        cves: that it closes, each with the objects that it patches for it.
        published: seconds since 1970-01-01 UTC.
    """

    level: int
    module: str
    sha256: str
    cves: Mapping[str, tuple[str, ...]]
    published: int


@dataclass(slots=True)
class Signed:
    """All of them: kernel build -> number -> level.

    Attributes:
        people: keys that people keep offline, by the trust root: public key -> role.
    """

    root_version: int
    people: dict[str, str]
    builds: dict[str, dict[int, SignedLevel]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(len(levels) for levels in self.builds.values())

    def cves(self, build_id: str) -> dict[int, Mapping[str, tuple[str, ...]]]:
        """What each level of a build closes."""
        return {number: level.cves for number, level in self.builds.get(build_id, {}).items()}


def read(reader: Reader, root: bytes) -> Signed:
    """Verify the repository's metadata, and each manifest by it.

    Raises:
        EvidenceError: something is not signed as it must be.
    """
    try:
        trusted = current.read_root(root)
    except SigningError as problem:
        raise EvidenceError(problem.message) from None
    with unpacked(_files(reader), root) as published:
        newest = published.root or trusted
        # The newest only: a key that was taken out of it may have been stolen.
        found = Signed(newest.signed.version, signing.people_of(newest))
        for build_id in sorted(_builds(reader)):
            found.builds[build_id] = dict(_levels(reader, published, build_id))
    return found


def check_ran(fleet: Fleet, signed: Signed) -> str:
    """Hold what hosts say that they ran against the signed levels.

    Raises:
        EvidenceError: a host ran something that the publisher has not signed.
    """
    ran = set()
    for host in fleet.hosts.values():
        for stay in host.stays:
            if not stay.level:
                continue
            level = signed.builds.get(stay.build_id, {}).get(stay.level)
            if level is None or level.module != stay.module or stay.sha256 not in ("", level.sha256):
                raise EvidenceError(
                    f"host {host.row.id} ran level {stay.level} (report {stay.counter}), which is not the signed one"
                )
            ran.add((stay.build_id, stay.level))
    return f"{len(ran)} levels were run, each of them as it is signed"


def check_states(reader: Reader, fleet: Fleet, signed: Signed) -> str:
    """Make every state again, from what CVEs mean for its build and from the signed levels; and what modules change in it.

    Raises:
        EvidenceError: one says something else.
    """
    meanings = reader.meanings()
    states = reader.states()
    named: set[str] = set()
    for (build_id, level), found in states.items():
        if found != timelines.state(build_id, level, meanings.get(build_id, ()), signed.cves(build_id)):
            raise EvidenceError(
                f"what is open with level {level} on kernel build {build_id} does not follow from the signed levels"
            )
        named.update(found.open, found.live_patched)
    if len(states) != sum(1 for _ in reader.rows(State, documents.STATES)):
        raise EvidenceError("a state is there twice")
    around = {
        name: timelines.surroundings(item, meanings.get(item.build_id, ()), signed.cves(item.build_id))
        for name, item in fleet.around.items()
    }
    if list(reader.rows(Surroundings, documents.SURROUNDINGS)) != [around[name] for name in sorted(around)]:
        raise EvidenceError(
            "what hosts' modules change in a state does not follow from their reports and the signed levels"
        )
    told = [row.cve for row in reader.rows(CveRow, documents.CVES)]
    if told != sorted(named):
        raise EvidenceError("the list of CVEs is not that of the states")
    return f"{len(states)} states and {len(around)} surroundings, with {len(named)} CVEs, follow from the signed levels"


def cves_of_level(reader: Reader, build_id: str, level: int) -> tuple[str, ...]:
    """What a level closes, by its manifest in the pack; nothing is verified."""
    return reader.document(Manifest, f"{MANIFESTS}/{build_id}/{level:06}.json").cves


def _files(reader: Reader) -> Iterator[tuple[str, bytes]]:
    """The repository's files, where they lie in it."""
    for name in reader.pack.parts(METADATA):
        yield name, reader.pack.read(name)
    for name in reader.pack.parts(LEVELS):
        content = reader.pack.read(name)
        build_id = name.split("/")[1].removesuffix(".json")
        yield f"{layout.TARGETS}/kernels/{build_id}/{sha256_hex(content)}.levels.json", content


def _builds(reader: Reader) -> set[str]:
    return {name.split("/")[1] for name in reader.pack.parts(MANIFESTS)} | {
        name.split("/")[1].removesuffix(".json") for name in reader.pack.parts(LEVELS)
    }


def _levels(reader: Reader, published: Published, build_id: str) -> Iterator[tuple[int, SignedLevel]]:
    try:
        records = published.levels(build_id)
    except MalformedError as problem:
        raise NotPublishedError(f"kernel build {build_id[:40]!r}: {problem.message}") from None
    names = {f"{MANIFESTS}/{build_id}/{number:06}.json": number for number in records}
    if strange := sorted(set(reader.pack.parts(f"{MANIFESTS}/{build_id}")) ^ names.keys()):
        raise NotPublishedError(f"{strange[0]} is missing, or of a level that is not signed")
    for name, number in names.items():
        yield number, _level(reader.pack.read(name), build_id, records[number])


def _level(content: bytes, build_id: str, record: LevelRecord) -> SignedLevel:
    if (len(content), sha256_hex(content)) != (record.manifest.size, record.manifest.sha256):
        raise NotPublishedError(f"the manifest of level {record.level} of {build_id} is not the signed one")
    try:
        manifest = read_manifest(content, build_id, record)
    except MismatchError as problem:
        raise NotPublishedError(problem.message) from None
    cves = {cve: manifest.objects_of(cve) for cve in manifest.cves}
    return SignedLevel(record.level, manifest.module.name, record.module.sha256, cves, record.published)
