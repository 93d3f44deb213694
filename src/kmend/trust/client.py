"""A host's view of a repository: refreshed and verified metadata, then levels, manifests, modules and signatures.

    with open_repository(url, bootstrap=root, state=folder) as repository:
        levels = repository.levels(build_id)

python-tuf does the TUF client workflow. It keeps its metadata with plain renames (no fsync) and replaces `root.json` in two
steps, so it works on a scratch copy here; what it verified is then stored durably, file by file, also when a later step
failed. A power cut therefore never costs the host its memory of what it has seen, which is its protection against rollback.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import Updater
from tuf.ngclient.config import UpdaterConfig

from kmend.core import durable
from kmend.core.document import decode, from_plain
from kmend.core.errors import MalformedError, SystemProblemError
from kmend.core.manifest import FileRecord, LevelRecord, Levels, Manifest, sha256_hex
from kmend.core.recall import Recalls
from kmend.trust import clockcheck, layout
from kmend.trust.errors import (
    CertificateError,
    MismatchError,
    MissingError,
    RootError,
    TooLargeError,
)
from kmend.trust.freshness import MAX_METADATA_BYTES, ROOT_EVERY_SECONDS, MetadataFetcher
from kmend.trust.partials import Partials
from kmend.trust.recalls import MAX_RECALL_BYTES, META_NAME, read_recalls, stated_version
from kmend.trust.translation import translated
from kmend.trust.transport import Partial, Transport

MAX_ROOT_BYTES = 512_000
SIGNED_FIELD = "x-kmend-signed"
"""Member of our timestamp metadata: when it was signed, in seconds since 1970-01-01 UTC."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Freshness:
    """How fresh the verified metadata is.

    Attributes:
        expires: when the timestamp metadata expires, in seconds since 1970-01-01 UTC.
        root_expires: the same for the root metadata.
    """

    root_version: int
    timestamp_version: int
    expires: int
    root_expires: int


class Repository:
    """Verified access; made by `open_repository`."""

    def __init__(
        self, url: str, updater: Updater, transport: Transport, state: Path, freshness: Freshness, scratch: Path
    ) -> None:
        self._url = url
        self._updater = updater
        self._transport = transport
        self._state = state
        self.freshness = freshness
        self._scratch = scratch

    def catalogue(self) -> Iterator[TargetFile]:
        """Every target that the repository has, as its signed metadata describes it; for a server, which keeps them all.

        Raises:
            TrustError: see `kmend.trust.errors`.
        """
        targets = Metadata[Targets].from_file(str(self._scratch / "targets.json")).signed
        bins = targets.delegations.succinct_roles if targets.delegations is not None else None
        if bins is None:
            raise MismatchError("the repository does not spread its targets over bins", hint="it is not one of kmend's")
        left = set(bins.get_roles())
        number = 0
        while left:
            # python-tuf loads and verifies a bin when it is asked for a target of it, whether there is such a target or not.
            path = f"catalogue/{number}"
            number += 1
            name = bins.get_role_for_target(path)
            if name in left:
                left.discard(name)
                self._find(path, 0)
                yield from Metadata[Targets].from_file(str(self._scratch / f"{name}.json")).signed.targets.values()

    def levels(self, build_id: str, *, keep: bool = True) -> Levels | None:
        """The levels published for one kernel build; None if the repository has none for it.

        Args:
            keep: remember the document, so that it need not be fetched again while it stays the same.

        Raises:
            TrustError: see `kmend.trust.errors`.
        """
        path = layout.levels_target(build_id)
        target = self._find(path, layout.MAX_LEVELS_BYTES)
        if target is None:
            return None
        content = self._cached_levels(build_id, target) if keep else self._content(target, b"")
        try:
            levels = decode(Levels, content, max_bytes=layout.MAX_LEVELS_BYTES)
            stated = from_plain(layout.TargetCustom, _custom(target.custom))
            expected = layout.TargetCustom.of(levels)
        except MalformedError as problem:
            raise MismatchError(f"{path}: {problem.message}") from None
        if levels.build_id != build_id or stated != expected:
            raise MismatchError(f"{path} does not say what its signed metadata says of it")
        return levels

    def recalls(self) -> Recalls:
        """What the publisher has recalled.

        Raises:
            TrustError: it cannot be fetched, or is not signed by who may recall.
        """
        root = Metadata[Root].from_file(str(self._scratch / "root.json")).signed
        version = stated_version(Metadata[Snapshot].from_file(str(self._scratch / "snapshot.json")).signed)
        if version == 0:
            return Recalls()
        kept = self._scratch / META_NAME
        with contextlib.suppress(OSError, MismatchError):
            return read_recalls(kept.read_bytes(), root, version)
        address = self._address(f"{layout.METADATA}/{version}.{META_NAME}")
        content = self._transport.get(address, MAX_RECALL_BYTES).content
        recalls = read_recalls(content, root, version)
        kept.write_bytes(content)  # stored durably with the rest at the end
        return recalls

    def manifest(self, build_id: str, record: LevelRecord) -> Manifest:
        """The manifest of one level.

        Raises:
            TrustError: it cannot be fetched, or is not what the levels say of it.
        """
        return read_manifest(self.manifest_content(record), build_id, record)

    def manifest_content(self, record: LevelRecord) -> bytes:
        """The bytes of one level's manifest, its digest checked."""
        return self.file(record.manifest, limit=layout.MAX_MANIFEST_BYTES)

    def module(self, record: LevelRecord) -> bytes:
        """The unsigned module of one level, its digest checked."""
        return self.file(record.module, limit=layout.MAX_MODULE_BYTES)

    def source(self, manifest: Manifest) -> dict[str, bytes]:
        """The corresponding source of one level: file name -> content, every digest checked; see `fetch_source`."""
        return fetch_source(self._url, manifest, self._transport)

    def signature(self, module_sha256: str, signer: str = "") -> bytes:
        """The kernel's detached signature of a module, empty if there is none.

        It is not covered by the repository's metadata, on purpose: the kernel checks it against its own keys.
        """
        url = self._address(layout.signature_path(module_sha256, signer))
        try:
            return self._transport.get(url, layout.MAX_SIGNATURE_BYTES).content
        except MissingError:
            return b""

    def file(self, record: FileRecord, *, limit: int) -> bytes:
        """A content-addressed file, its size bounded before and its digest checked after the fetch.

        A download that broke off earlier is continued.
        """
        return fetch_file(self._url, record, self._transport, limit=limit, partials=Partials(self._state / "partial"))

    def target(self, path: str, *, limit: int, kept: bytes = b"") -> bytes | None:
        """A target by its path, verified; None if no role that may name it does.

        Args:
            limit: the most bytes that it may have.
            kept: what this host has; returned without a fetch if it is what the metadata says.

        Raises:
            TrustError: see `kmend.trust.errors`.
        """
        target = self._find(path, limit)
        return self._content(target, kept) if target is not None else None

    def timestamp(self) -> bytes:
        """The verified timestamp metadata, as it lies in the repository."""
        return (self._scratch / "timestamp.json").read_bytes()

    def _translated(self) -> contextlib.AbstractContextManager[None]:
        return translated(time.time(), self._transport.server_seconds)

    def _address(self, path: str) -> str:
        return f"{self._url}/{path}"

    def _cached_levels(self, build_id: str, target: TargetFile) -> bytes:
        kept = self._state / "levels" / f"{build_id}.json"
        before = b""
        with contextlib.suppress(SystemProblemError):
            before = durable.read_bounded(kept, max_bytes=layout.MAX_LEVELS_BYTES)
        content = self._content(target, before)
        if content != before:
            durable.make_folder(kept.parent)
            durable.write_durably(kept, content)
        return content

    def _find(self, path: str, limit: int) -> TargetFile | None:
        with self._translated():
            target = self._updater.get_targetinfo(path)
        if target is not None and target.length > limit:
            raise TooLargeError(f"{path} is said to be {target.length} bytes; {limit} are accepted")
        return target

    def _content(self, target: TargetFile, kept: bytes) -> bytes:
        with contextlib.suppress(exceptions.LengthOrHashMismatchError):
            target.verify_length_and_hashes(kept)
            return kept
        name = quote(target.get_prefixed_paths()[0])
        content = self._transport.get(self._address(f"{layout.TARGETS}/{name}"), target.length).content
        with self._translated():
            target.verify_length_and_hashes(content)
        return content


def fetch_file(
    url: str, record: FileRecord, transport: Transport, *, limit: int, partials: Partials | None = None
) -> bytes:
    """A content-addressed file of the repository at `url`; only as trustworthy as who named its digest.

    Args:
        limit: the most bytes that such a file may have.
        partials: where a download that breaks off is kept, to be continued next time.

    Raises:
        TrustError: it is larger than `limit` bytes, cannot be fetched, or has another content.
    """
    if record.size > limit:
        raise TooLargeError(f"file {record.sha256} is said to be {record.size} bytes; {limit} are accepted")
    address = f"{url}/{layout.file_path(record.sha256)}"
    partial = partials.load(record.sha256, record.size) if partials is not None else Partial()
    continued = bool(partial.content)
    content = b""
    try:
        content = transport.get(address, record.size, partial=partial).content
    except TooLargeError:
        if not partial.resumed:
            raise
    except BaseException:
        if partials is not None:
            partials.keep(record.sha256, partial)
        raise
    if _differs(content, record) and partial.resumed:
        # Continued from something else; only the whole can show whether the repository has the right file.
        content = transport.get(address, record.size).content
    if continued and partials is not None:
        partials.drop()
    if _differs(content, record):
        raise MismatchError(
            f"file {record.sha256} arrived with other content: {len(content)} bytes, {sha256_hex(content)}",
            hint="it was damaged or changed in the repository or on the way; compare it with the publisher's",
        )
    return content


def _differs(content: bytes, record: FileRecord) -> bool:
    return len(content) != record.size or sha256_hex(content) != record.sha256


def fetch_source(url: str, manifest: Manifest, transport: Transport) -> dict[str, bytes]:
    """The corresponding source that `manifest` names: file name -> content.

    Levels that were published before manifests named it have their patches in the repository all the same, by the digests
    of their fixes; then those are returned, and a `series`.

    Raises:
        TrustError: a file is missing, too large, or has another content.
    """
    if len(manifest.source) > layout.MAX_SOURCE_FILES:
        raise TooLargeError(
            f"the manifest names {len(manifest.source)} files of source; {layout.MAX_SOURCE_FILES} are accepted"
        )
    if manifest.source:
        return {
            file.name: fetch_file(url, file.content, transport, limit=layout.MAX_SOURCE_BYTES)
            for file in manifest.source
        }
    found = {}
    for number, fix in enumerate(manifest.fixes, start=1):
        content = transport.get(f"{url}/{layout.file_path(fix.digest)}", layout.MAX_SOURCE_BYTES).content
        if sha256_hex(content) != fix.digest:
            raise MismatchError(f"file {fix.digest} arrived with other content: {sha256_hex(content)}")
        found[f"{number:04}.patch"] = content
    return {"series": "".join(f"{name}\n" for name in found).encode(), **found}


def read_manifest(content: bytes, build_id: str, record: LevelRecord) -> Manifest:
    """Decode a manifest and hold it against the level record that names it.

    Raises:
        MismatchError: it is for another kernel build, level or module, or not a manifest at all.
    """
    try:
        manifest = decode(Manifest, content, max_bytes=layout.MAX_MANIFEST_BYTES)
    except MalformedError as problem:
        raise MismatchError(f"manifest of level {record.level}: {problem.message}", hint=problem.hint) from None
    if manifest.kernel.build_id != build_id:
        raise MismatchError(f"manifest of level {record.level} is for kernel build {manifest.kernel.build_id}")
    if manifest.level != record.level:
        raise MismatchError(f"manifest of level {record.level} calls itself level {manifest.level}")
    if (manifest.module.sha256, manifest.module.size) != (record.module.sha256, record.module.size):
        raise MismatchError(f"manifest of level {record.level} names another module")
    return manifest


@contextlib.contextmanager
def open_repository(
    url: str,
    *,
    bootstrap: bytes,
    state: Path,
    transport: Transport | None = None,
    root_every: float = ROOT_EVERY_SECONDS,
) -> Iterator[Repository]:
    """Refresh the metadata of the repository at `url` and give verified access to it.

    Args:
        url: `http`, `https` or `file` URL of the repository's folder.
        bootstrap: the trust root given at install (`root.json`); newer roots are followed from it.
        state: a folder of our own for what was verified; the caller sees to it that one process uses it at a time.
        transport: how bytes are fetched; it stays open, with its connections. None makes one for this time.
        root_every: how long the search for a new root may be left out while nothing else changes; see `freshness`.

    Raises:
        TrustError: see `kmend.trust.errors`.
        SystemProblemError: the state cannot be read or written.
    """
    if transport is None:
        with (
            contextlib.closing(Transport()) as own,
            open_repository(url, bootstrap=bootstrap, state=state, transport=own, root_every=root_every) as opened,
        ):
            yield opened
        return
    url = url.rstrip("/")
    kept = state / "metadata"
    durable.make_folder(kept)
    with tempfile.TemporaryDirectory(prefix="kmend-") as name:
        scratch = Path(name)
        _copy_in(kept, scratch)
        now = time.time()
        note = state / "conditions.json"
        base = f"{url}/{layout.METADATA}/"
        fetcher = MetadataFetcher(transport, base, _timestamp_in(scratch), note, now, root_every)
        refreshed = False
        try:
            updater = _updater(base, bootstrap, scratch, fetcher)
            with _explained(transport, kept):
                fetcher.begin(updater.config.timestamp_max_length)
                updater.refresh()
            refreshed = True
            freshness = _freshness(scratch, now)
            yield Repository(url, updater, transport, state, freshness, scratch)
        finally:
            _copy_out(scratch, kept)
            if refreshed:
                # After the timestamp that it speaks of is on disk.
                fetcher.finish()
    if remark := clockcheck.skew(time.time(), transport.server_seconds()):
        _logger.warning("%s", remark)


def _timestamp_in(scratch: Path) -> bytes | None:
    try:
        return (scratch / "timestamp.json").read_bytes()
    except OSError:
        return None


def _updater(base: str, bootstrap: bytes, scratch: Path, fetcher: MetadataFetcher) -> Updater:
    if len(bootstrap) > MAX_ROOT_BYTES:
        raise RootError(f"the trust root is {len(bootstrap)} bytes; {MAX_ROOT_BYTES} are accepted")
    try:
        return Updater(
            str(scratch),
            base,
            fetcher=fetcher,
            config=UpdaterConfig(targets_max_length=MAX_METADATA_BYTES, root_max_length=MAX_ROOT_BYTES),
            bootstrap=bootstrap,
        )
    except (exceptions.RepositoryError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise RootError(
            f"the trust root is not usable: {problem}", hint="install root.json again, as its publisher hands it out"
        ) from None


def _copy_in(kept: Path, scratch: Path) -> None:
    for folder in ("", "root_history"):
        source = kept / folder
        if not source.is_dir():
            continue
        (scratch / folder).mkdir(exist_ok=True)
        for path in sorted(source.glob("*.json")):
            with contextlib.suppress(SystemProblemError):
                # What cannot be read is fetched again; python-tuf verifies every local file before it uses it.
                content = durable.read_bounded(path, max_bytes=MAX_METADATA_BYTES)
                (scratch / folder / path.name).write_bytes(content)


def _copy_out(scratch: Path, kept: Path) -> None:
    for path in sorted(scratch.rglob("*.json")):
        target = kept / path.relative_to(scratch)
        content = path.read_bytes()
        try:
            unchanged = target.read_bytes() == content
        except OSError:
            unchanged = False
        if not unchanged:
            durable.make_folder(target.parent)
            durable.write_durably(target, content)


def _freshness(scratch: Path, now: float) -> Freshness:
    root = Metadata[Root].from_file(str(scratch / "root.json")).signed
    timestamp = Metadata[Timestamp].from_file(str(scratch / "timestamp.json")).signed
    behind = clockcheck.behind(_signed(timestamp), now)
    if behind is not None:
        raise behind
    return Freshness(
        root_version=root.version,
        timestamp_version=timestamp.version,
        expires=int(timestamp.expires.timestamp()),
        root_expires=int(root.expires.timestamp()),
    )


def _signed(timestamp: Timestamp) -> int | None:
    signed = timestamp.unrecognized_fields.get(SIGNED_FIELD)
    return signed if isinstance(signed, int) and not isinstance(signed, bool) else None


def _signed_before(kept: Path) -> int | None:
    """When the newest timestamp that this host has verified was signed; None if it has none."""
    with contextlib.suppress(DeserializationError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return _signed(Metadata[Timestamp].from_file(str(kept / "timestamp.json")).signed)
    return None


@contextlib.contextmanager
def _explained(transport: Transport, kept: Path) -> Iterator[None]:
    """Errors of a refresh in the light of the clocks."""
    try:
        with translated(time.time(), transport.server_seconds):
            yield
    except CertificateError as problem:
        raise clockcheck.certificate(problem, now=time.time(), signed=_signed_before(kept)) from problem


def _custom(custom: Any) -> object:
    return custom.get("kmend") if isinstance(custom, dict) else None
