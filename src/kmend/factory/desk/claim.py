"""What somebody says that he built: a manifest, its corresponding source, and the module if it is at hand."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

from kmend.core.document import decode
from kmend.core.durable import read_bounded
from kmend.core.errors import KmendError, SystemProblemError
from kmend.core.kernel import check_build_id
from kmend.core.manifest import FileRecord, Manifest, sha256_hex
from kmend.core.scratch import scratch_folder
from kmend.trust import layout, module_signature
from kmend.trust.client import Repository, fetch_file, fetch_source, open_repository
from kmend.trust.errors import MissingError
from kmend.trust.transport import Transport

MAX_MODULE_BYTES = 256 * 1024 * 1024
MAX_ROOT_BYTES = 512_000


class ClaimError(KmendError):
    """There is nothing to build again: the manifest or its source is missing, or they contradict each other."""

    kind = "claim"
    exit_status = 2
    default_hint = "name the folder that build wrote, with everything in it"


@dataclass(frozen=True, slots=True)
class Claim:
    """A livepatch as it was handed on.

    Attributes:
        source: the corresponding source, file name -> content, each as the manifest says.
        module: the module without its signature; None if it is not at hand.
        signed: whether the module carried a signature, which was cut off.
        place: where all this comes from, for people.
        verified: whether a repository's signed metadata names this very manifest.
    """

    manifest: Manifest
    source: Mapping[str, bytes]
    module: bytes | None
    signed: bool
    place: str
    verified: bool = False


def claim_of_file(
    path: Path, *, module: Path | None = None, repository: str | None = None, root: Path | None = None
) -> Claim:
    """The claim of a manifest file, or of a folder with a `manifest.json`.

    Args:
        path: a build's folder, its manifest, or a manifest among a repository's files.
        module: the module's file, signed or not; by default the one beside the manifest, or the repository's.
        repository: URL or folder from which the source and the module are taken; by default they lie beside the manifest.
        root: trust root of that repository; then its signed metadata must name this manifest.

    Raises:
        ClaimError: the manifest's source is not there, or the repository has another manifest for this level.
        MalformedError: the file is not a manifest.
        SystemProblemError: a file cannot be read.
        TrustError: the repository cannot be reached or is not what it should be.
    """
    file = path / "manifest.json" if path.is_dir() else path
    try:
        content = read_bounded(file, max_bytes=layout.MAX_MANIFEST_BYTES)
    except SystemProblemError as problem:
        raise ClaimError(problem.message, hint="name a build's folder, or its manifest.json") from problem
    manifest = decode(Manifest, content, max_bytes=layout.MAX_MANIFEST_BYTES)
    folder = file.parent
    if repository is None and root is None and (folder / "source").is_dir():
        beside = folder / f"{manifest.module.name}.ko"
        found, signed = _module_file(module or (beside if beside.exists() else None))
        return Claim(manifest, _source_beside(folder / "source", manifest), found, signed, str(folder))
    if repository is None:
        if folder.parent.name != "files" or file.name != sha256_hex(content):
            raise ClaimError(
                f"beside {file} there is no corresponding source",
                hint="name the build's folder, or the repository that has this level with --repository",
            )
        repository = str(folder.parents[1])
    url = _url(repository)
    if root is not None:
        with scratch_folder("trust") as state, _opened(url, root, state) as opened:
            _check_listed(opened, manifest, content, url)
    with closing(Transport()) as transport:
        source = fetch_source(url, manifest, transport)
        found, signed = _module_file(module)
        if found is None:
            record = FileRecord(manifest.module.sha256, manifest.module.size)
            try:
                found = fetch_file(url, record, transport, limit=MAX_MODULE_BYTES)
            except MissingError:
                found = None
    return Claim(manifest, source, found, signed, url, verified=root is not None)


def claim_of_repository(repository: str, root: Path, build_id: str, level: int | None = None) -> Claim:
    """The claim of a published level, verified from the trust root on.

    Args:
        repository: URL or folder.
        level: by default the newest one.

    Raises:
        ClaimError: there is no such level.
        TrustError: the repository cannot be reached or is not what it should be.
    """
    url = _url(repository)
    with scratch_folder("trust") as state, _opened(url, root, state) as opened:
        levels = opened.levels(check_build_id(build_id))
        records = levels.levels if levels is not None else ()
        wanted = [record for record in records if level in (None, record.level)]
        if not wanted:
            known = ", ".join(str(record.level) for record in records) or "none"
            raise ClaimError(
                f"{url} has no level {level or ''} for kernel build {build_id}".replace("  ", " "),
                hint=f"published for it: {known}",
            )
        record = wanted[-1]
        manifest = opened.manifest(build_id, record)
        return Claim(manifest, opened.source(manifest), opened.module(record), False, url, verified=True)


def _opened(url: str, root: Path, state: Path) -> AbstractContextManager[Repository]:
    return open_repository(url, bootstrap=read_bounded(root, max_bytes=MAX_ROOT_BYTES), state=state)


def _check_listed(opened: Repository, manifest: Manifest, content: bytes, url: str) -> None:
    levels = opened.levels(manifest.kernel.build_id)
    digests = {record.level: record.manifest.sha256 for record in (levels.levels if levels is not None else ())}
    found = digests.get(manifest.level)
    if found != sha256_hex(content):
        states = f"names {found} for it" if found else "does not have this level"
        raise ClaimError(
            f"the manifest of level {manifest.level} has SHA-256 {sha256_hex(content)}, but {url} {states}",
            hint="without a manifest, --kernel and --level take the published one",
        )


def _module_file(path: Path | None) -> tuple[bytes | None, bool]:
    """The module without its signature, and whether it had one."""
    if path is None:
        return None, False
    module, signature = module_signature.split(read_bounded(path, max_bytes=MAX_MODULE_BYTES))
    return module, bool(signature)


def _source_beside(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    if manifest.source:
        found = {}
        for file in manifest.source:
            text = read_bounded(folder / file.name, max_bytes=layout.MAX_SOURCE_BYTES)
            if FileRecord(sha256_hex(text), len(text)) != file.content:
                raise ClaimError(
                    f"{folder / file.name} is not the file that the manifest names",
                    hint=f"its SHA-256 is {sha256_hex(text)}, the manifest says {file.content.sha256}",
                )
            found[file.name] = text
        return found
    # A factory that did not name the source in the manifest; its fixes are named by their digests all the same.
    texts = (read_bounded(path, max_bytes=layout.MAX_SOURCE_BYTES) for path in sorted(folder.glob("*.patch")))
    patches = {sha256_hex(text): text for text in texts}
    missing = [fix.title for fix in manifest.fixes if fix.digest not in patches]
    if missing:
        raise ClaimError(f"{folder} lacks the patch of: {', '.join(missing)}")
    names = {f"{number:04}.patch": patches[fix.digest] for number, fix in enumerate(manifest.fixes, start=1)}
    return {"series": "".join(f"{name}\n" for name in names).encode(), **names}


def _url(place: str) -> str:
    """A repository's URL; a folder is one too."""
    return place.rstrip("/") if "://" in place else Path(place).resolve().as_uri()
