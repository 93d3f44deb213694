"""Put built livepatches into a repository: check, store, sign, make current.

The decisions (`check_succession`) are pure; the rest writes files in an order in which a kill at any point leaves the old
state valid: content first, then bins, snapshot, and `timestamp.json` last.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import TargetFile

from kmend.core import durable
from kmend.core.cache import locked
from kmend.core.document import decode, encode, plain
from kmend.core.errors import MalformedError, SystemProblemError
from kmend.core.manifest import FileRecord, LevelRecord, Levels, Manifest, missing_fixes, sha256_hex
from kmend.core.recall import Extent, Recall, Recalls
from kmend.trust import current as on_disk
from kmend.trust import layout, module_signature, online
from kmend.trust.client import read_manifest
from kmend.trust.current import Tree
from kmend.trust.signing import modules, roots, tree
from kmend.trust.signing.keyfiles import KeyFolder, ModuleKey, renew_root
from kmend.trust.signingerrors import NoRepositoryError, PublishRefusedError, SigningError

MAX_MODULE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class BuildOutput:
    """What a build left in its folder: the manifest, the unsigned module, and the corresponding source."""

    folder: Path
    manifest: Manifest
    manifest_content: bytes
    module: bytes
    source: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class AgentFile:
    """A package of the agent, or the script that installs it."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class PublishedLevel:
    """One level that is now in the repository."""

    build_id: str
    ref: str
    level: int
    module: str
    cves: tuple[str, ...]
    signed: bool


@dataclass(frozen=True, slots=True)
class Published:
    """What a publish did.

    Attributes:
        timestamp_version: of the state that is current now.
        timestamp_expires: when it must have been refreshed, in seconds since 1970-01-01 UTC.
        warnings: what a person should do soon.
        agent: names of the files that install the agent.
    """

    levels: tuple[PublishedLevel, ...]
    timestamp_version: int
    timestamp_expires: int
    warnings: tuple[str, ...]
    agent: tuple[str, ...] = ()


def read_build(folder: Path) -> BuildOutput:
    """Read and check a build's folder: `manifest.json`, `<module name>.ko`, and the corresponding source in `source/`.

    Raises:
        PublishRefusedError: the module or the source is not what the manifest describes.
        PublishRefusedError: it is no such folder, or not whole.
    """
    content = _read_part(folder, "manifest.json", layout.MAX_MANIFEST_BYTES)
    try:
        manifest = decode(Manifest, content, max_bytes=layout.MAX_MANIFEST_BYTES)
    except MalformedError as problem:
        raise PublishRefusedError(f"{folder / 'manifest.json'}: {problem.message}", hint=problem.hint) from None
    path = folder / f"{manifest.module.name}.ko"
    module = _read_part(folder, path.name, MAX_MODULE_BYTES)
    if module.endswith(module_signature.MAGIC):
        raise PublishRefusedError(
            f"{path} is signed already", hint="publish the unsigned module; signatures lie beside it"
        )
    if (len(module), sha256_hex(module)) != (manifest.module.size, manifest.module.sha256):
        raise PublishRefusedError(
            f"{path} is not the module that manifest.json describes (SHA-256 {sha256_hex(module)}, "
            f"expected {manifest.module.sha256})",
            hint="build it again, and publish the folder as it is",
        )
    return BuildOutput(folder, manifest, content, module, _read_source(folder / "source", manifest))


def read_agent_file(path: Path) -> AgentFile:
    """Read a file that installs the agent.

    Raises:
        PublishRefusedError: it cannot be read, is too large, or has a name that an address cannot hold.
    """
    try:
        layout.agent_target(path.name)
        return AgentFile(path.name, durable.read_bounded(path, max_bytes=layout.MAX_AGENT_BYTES))
    except (MalformedError, SystemProblemError) as problem:
        raise PublishRefusedError(problem.message, hint="give what 'make packages' left in dist/") from None


def _read_part(folder: Path, name: str, max_bytes: int) -> bytes:
    try:
        return durable.read_bounded(folder / name, max_bytes=max_bytes)
    except SystemProblemError as problem:
        raise PublishRefusedError(
            f"{folder} is not the whole folder of a livepatch: {problem.message}",
            hint="name the folder that 'kmend-factory build -o' wrote, with everything in it",
        ) from problem


def _read_source(folder: Path, manifest: Manifest) -> tuple[bytes, ...]:
    """The corresponding source, without which a level must not be passed on (GPL-2.0, section 3)."""
    digests = {file.content.sha256 for file in manifest.source}
    if not manifest.fix_digests <= digests:
        raise PublishRefusedError(
            f"the manifest of {manifest.module.name} does not name its corresponding source",
            hint="build it again with this version of kmend-factory",
        )
    if len(manifest.source) > layout.MAX_SOURCE_FILES:
        raise PublishRefusedError(
            f"{len(manifest.source)} files of corresponding source; {layout.MAX_SOURCE_FILES} are accepted"
        )
    found = []
    for file in manifest.source:
        text = _read_part(folder, file.name, layout.MAX_SOURCE_BYTES)
        if FileRecord(sha256_hex(text), len(text)) != file.content:
            raise PublishRefusedError(
                f"{folder / file.name} is not the file that manifest.json describes (SHA-256 {sha256_hex(text)}, "
                f"expected {file.content.sha256})",
                hint="build it again, and publish the folder as it is",
            )
        found.append(text)
    return tuple(found)


def check_succession(previous: Sequence[Manifest], candidate: Manifest, recalls: Recalls | None = None) -> None:
    """Whether `candidate` may follow the levels already published for its kernel build, in rising order.

    Args:
        recalls: those that stand: a recalled fix may be left out.

    Raises:
        PublishRefusedError: not newer, on a base that is not there, or without fixes that the level before has.
    """
    if not previous:
        if candidate.base is not None:
            raise PublishRefusedError(
                f"level {candidate.level} is built on level {candidate.base}, which is not published"
            )
        return
    newest = previous[-1]
    if candidate.kernel != newest.kernel:
        raise PublishRefusedError(
            f"level {candidate.level} calls its kernel {candidate.kernel.release} {candidate.kernel.version}, "
            f"level {newest.level} calls it {newest.kernel.release} {newest.kernel.version}"
        )
    if candidate.level <= newest.level:
        raise PublishRefusedError(
            f"level {candidate.level} is not newer than level {newest.level}, which is published",
            hint=f"build it as level {newest.level + 1}",
        )
    if candidate.base is not None and candidate.base not in {manifest.level for manifest in previous}:
        raise PublishRefusedError(f"level {candidate.level} is built on level {candidate.base}, which is not published")
    missing = missing_fixes(newest, candidate) - (recalls.fixes if recalls is not None else frozenset())
    if missing:
        lost = [fix for fix in newest.fixes if fix.digest in missing]
        cves = sorted({cve for fix in lost for cve in fix.cves} - set(candidate.cves))
        named = "; ".join(f"{fix.title} ({', '.join(fix.cves) or 'no CVE'})" for fix in lost)
        raise PublishRefusedError(
            f"level {candidate.level} lacks fixes that level {newest.level} has: {named}. "
            + (f"It would reopen {', '.join(cves)}." if cves else "It would reopen no CVE by name."),
            hint="build it with these fixes in its series",
        )


class Publisher:
    """Writes one repository.

    Args:
        repository: its folder; created by the first publish.
        now: the time to sign with.
    """

    def __init__(self, repository: Path, keys: KeyFolder, *, now: datetime.datetime) -> None:
        self._repository = repository
        self._keys = keys
        self._now = now

    def publish(
        self, builds: Sequence[BuildOutput], *, channel: str = "", agent: Sequence[AgentFile] = ()
    ) -> Published:
        """Add levels, and what installs the agent; all or none.

        Args:
            channel: only hosts that take this channel load them by themselves; empty for all hosts.
            agent: packages, and the script that installs them; of each name the last one published counts.

        Raises:
            PublishRefusedError: a level must not be published; nothing that hosts see has changed.
            SigningError: keys or repository are not usable.
            SystemProblemError: the disk refused.
        """
        durable.make_folder(self._repository)
        with locked(self._repository / ".lock"):
            current = on_disk.load(self._repository, self._keys.root()) or tree.create(
                self._repository, self._keys, self._now
            )
            on_disk.check_root(current.root.signed, self._now)
            module_key = self._module_key() if builds else None
            ordered = sorted(builds, key=lambda build: (build.manifest.kernel.build_id, build.manifest.level))
            documents, published = self._plan(current, ordered, channel, signed=module_key is not None)
            for build in ordered:
                self._store(build, module_key)
            changes = {}
            for build_id, levels in documents.items():
                path = layout.levels_target(build_id)
                custom = plain(layout.TargetCustom.of(levels))
                changes[path] = self._store_target(path, self._encoded(levels), custom)
            for file in agent:
                path = layout.agent_target(file.name)
                custom = plain(layout.AgentCustom(file.name, sha256_hex(file.content), int(self._now.timestamp())))
                changes[path] = self._store_target(path, file.content, custom)
            tree.replace_bins(current, changes, self._keys, self._now)
            online.commit(current, self._keys, self._now)
            return self._result(current, tuple(published), tuple(file.name for file in agent))

    def refresh(self) -> Published:
        """Sign snapshot and timestamp again, with the online keys alone, so that hosts see that nothing is held back."""
        if not self._repository.is_dir():
            raise NoRepositoryError(f"there is no repository at {self._repository}", hint="publish a level first")
        current = online.refresh(self._repository, self._keys.root(), self._keys, now=self._now)
        return self._result(current, ())

    def recalls(self) -> Recalls:
        """The recalls that stand."""
        with self._existing() as current:
            return on_disk.recalls(current)

    def recall(self, extent: Extent, reason: str, *, fix: str = "", build_id: str = "", level: int = 0) -> Recalls:
        """Recall a fix, or a level of a kernel build; returns all recalls that stand.

        Raises:
            PublishRefusedError: it is not one that could be recalled.
            SigningError: the recall key or the online keys are not at hand.
        """
        with self._existing() as current:
            before = on_disk.recalls(current)
            at = int(self._now.timestamp())
            try:
                item = Recall(before.last + 1, extent, reason, at, fix, build_id, level)
                after = Recalls(before.version + 1, item.number, (*before.recalls, item))
            except MalformedError as problem:
                raise PublishRefusedError(problem.message, hint=problem.hint) from None
            self._make_current(current, after)
            return after

    def withdraw(self, number: int) -> Recalls:
        """Take back a recall; returns those that still stand.

        Raises:
            PublishRefusedError: there is none of that number.
        """
        with self._existing() as current:
            before = on_disk.recalls(current)
            kept = tuple(item for item in before.recalls if item.number != number)
            if len(kept) == len(before.recalls):
                raise PublishRefusedError(f"there is no recall {number}", hint="kmend-factory recall lists them")
            after = Recalls(before.version + 1, before.last, kept)
            self._make_current(current, after)
            return after

    def _make_current(self, current: Tree, recalls: Recalls) -> None:
        on_disk.check_root(current.root.signed, self._now)
        tree.write_recalls(current, recalls, self._keys, self._now)
        online.commit(current, self._keys, self._now)

    def renew(self) -> int:
        """Publish the next version of the trust root with a later expiry; returns its version."""
        with self._existing() as current:
            roots.lay_out(self._keys, self._repository)
            root = roots.newest(self._keys, self._repository)
            content = renew_root(root, self._keys, now=self._now)
            durable.write_durably(current.folder / f"{root.signed.version}.root.json", content)
            return root.signed.version

    def sign_modules(self, key: ModuleKey, signer: str) -> int:
        """Sign every published module for the kernel, under a signer's name; returns how many.

        Touches no metadata: an operator who mirrors a repository can do it with a key of his own.
        """
        count = 0
        with self._existing() as current:
            for build_id in current.build_ids():
                for record in self._levels(current, build_id).levels:
                    module = durable.read_bounded(self._file(record.module.sha256), max_bytes=record.module.size)
                    if sha256_hex(module) != record.module.sha256:
                        raise SigningError(f"file {record.module.sha256} of the repository is damaged")
                    self._store_signature(module, record.module.sha256, key, signer)
                    count += 1
        return count

    @contextmanager
    def _existing(self) -> Iterator[Tree]:
        """The existing repository, under its lock."""
        current = None
        if self._repository.is_dir():
            with locked(self._repository / ".lock"):
                current = on_disk.load(self._repository, self._keys.root())
                if current is not None:
                    yield current
        if current is None:
            raise NoRepositoryError(f"there is no repository at {self._repository}", hint="publish a level first")

    def _module_key(self) -> ModuleKey | None:
        key = self._keys.module_key()
        if key is not None and key.certificate.not_valid_after_utc < self._now:
            raise PublishRefusedError(
                f"the module certificate has expired on {key.certificate.not_valid_after_utc:%Y-%m-%d}",
                hint="make a new module key and enrol its certificate on the hosts",
            )
        return key

    def _plan(
        self, current: Tree, builds: Sequence[BuildOutput], channel: str, *, signed: bool
    ) -> tuple[Mapping[str, Levels], list[PublishedLevel]]:
        documents: dict[str, Levels] = {}
        manifests: dict[str, list[Manifest]] = {}
        published = []
        for build in builds:
            manifest = build.manifest
            build_id = manifest.kernel.build_id
            if build_id not in documents:
                documents[build_id] = self._levels(current, build_id)
                manifests[build_id] = [self._manifest(build_id, record) for record in documents[build_id].levels]
            check_succession(manifests[build_id], manifest, on_disk.recalls(current))
            manifests[build_id].append(manifest)
            record = LevelRecord(
                level=manifest.level,
                manifest=FileRecord(sha256_hex(build.manifest_content), len(build.manifest_content)),
                module=FileRecord(manifest.module.sha256, manifest.module.size),
                published=int(self._now.timestamp()),
                channel=channel,
            )
            documents[build_id] = Levels(build_id, (*documents[build_id].levels, record))
            published.append(
                PublishedLevel(
                    build_id, manifest.kernel.ref, manifest.level, manifest.module.name, manifest.cves, signed
                )
            )
        return documents, published

    def _levels(self, current: Tree, build_id: str) -> Levels:
        path = layout.levels_target(build_id)
        target = current.target(path)
        if target is None:
            return Levels(build_id, ())
        stored = self._repository / layout.TARGETS / target.get_prefixed_paths()[0]
        content = durable.read_bounded(stored, max_bytes=layout.MAX_LEVELS_BYTES)
        if sha256_hex(content) != target.hashes.get("sha256"):
            raise SigningError(f"{stored} is damaged", hint="restore it from a mirror or a backup")
        return decode(Levels, content, max_bytes=layout.MAX_LEVELS_BYTES)

    def _manifest(self, build_id: str, record: LevelRecord) -> Manifest:
        content = durable.read_bounded(self._file(record.manifest.sha256), max_bytes=layout.MAX_MANIFEST_BYTES)
        if sha256_hex(content) != record.manifest.sha256:
            raise SigningError(f"file {record.manifest.sha256} of the repository is damaged")
        return read_manifest(content, build_id, record)

    def _store(self, build: BuildOutput, key: ModuleKey | None) -> None:
        for content in (build.manifest_content, build.module, *build.source):
            self._store_file(content)
        if key is not None:
            self._store_signature(build.module, build.manifest.module.sha256, key, "")

    def _store_file(self, content: bytes) -> None:
        path = self._file(sha256_hex(content))
        durable.make_folder(path.parent)
        durable.write_durably(path, content)

    def _store_signature(self, module: bytes, digest: str, key: ModuleKey, signer: str) -> None:
        path = self._repository / layout.signature_path(digest, signer)
        durable.make_folder(path.parent)
        durable.write_durably(path, modules.sign_detached(module, key.key, key.certificate))

    def _encoded(self, levels: Levels) -> bytes:
        content = encode(levels)
        if len(content) > layout.MAX_LEVELS_BYTES:
            raise PublishRefusedError(f"kernel build {levels.build_id} has too many levels for one document")
        return content

    def _store_target(self, path: str, content: bytes, custom: object) -> TargetFile:
        target = TargetFile.from_data(path, content, ["sha256"])
        target.unrecognized_fields["custom"] = {"kmend": custom}
        stored = self._repository / layout.TARGETS / target.get_prefixed_paths()[0]
        durable.make_folder(stored.parent)
        durable.write_durably(stored, content)
        return target

    def _file(self, digest: str) -> Path:
        return self._repository / layout.file_path(digest)

    def _result(self, current: Tree, levels: tuple[PublishedLevel, ...], agent: tuple[str, ...] = ()) -> Published:
        soon = self._now + datetime.timedelta(days=tree.RENEW_DAYS)
        warnings = []
        if current.root.signed.expires < soon:
            warnings.append(
                f"the trust root expires on {current.root.signed.expires:%Y-%m-%d}: run kmend-factory keys renew before"
            )
        if current.targets.signed.expires < soon:
            warnings.append(
                f"the targets metadata expires on {current.targets.signed.expires:%Y-%m-%d}: publish before"
            )
        timestamp = current.timestamp.signed
        return Published(levels, timestamp.version, int(timestamp.expires.timestamp()), tuple(warnings), agent)
