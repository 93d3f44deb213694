"""Exact distro packages, through the machine's own package client, kept in the cache and read without installing them.

What a package must be is said by the package lists, which the client verified against the archive's signature when it
fetched them; so a package is used only after its SHA-256 was found equal to theirs. A stamp beside the cached file
(size, modification time, digest) remembers that, so that using it again costs no more than a `stat`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from kmend.core import document
from kmend.core.cache import cache_root, locked
from kmend.core.durable import write_durably
from kmend.core.errors import KmendError, MalformedError, SystemProblemError
from kmend.core.interruption import supervised
from kmend.core.kernel import KernelRef
from kmend.core.manifest import check_digest
from kmend.core.process import ProgramFailedError, run

_logger = logging.getLogger(__name__)

ARCHITECTURES = ("amd64", "all")
MAX_MEMBER = 2 * 1024**3
"""Largest file that is read out of a package, in bytes; the largest known is the debug vmlinux with 0.6 GB."""
DOWNLOAD_TIMEOUT = 7200.0
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]{1,127}")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+~:-]{0,127}")
_RELEASE = re.compile(r"(?P<abi>(?P<series>\d+\.\d+)\.\d+-[a-z0-9.+~]+)-(?P<flavour>[a-z0-9-]+)")


class PackageProblemError(KmendError):
    """A package cannot be obtained or read."""

    kind = "package-problem"
    default_hint = "delete the package from the cache ('kmend-factory cache' says where): it will be downloaded again"


class PackageNameError(PackageProblemError):
    """What was asked for cannot be the name or version of a package, or of a kernel that can be prepared."""

    kind = "package-name"
    exit_status = 2
    default_hint = "a kernel is named debian:6.1.0-50-cloud-amd64@6.1.176-1, a version 6.1.176-1"


class PackageGoneError(PackageProblemError):
    """The archive does not offer that package in that version (any more).

    Attributes:
        name: of the package.
        version: the one that was asked for; empty if any would have done.
        offered: the versions that the package lists do name.
    """

    kind = "package-gone"

    def __init__(self, name: str, version: str, offered: Sequence[str], *, hint: str = "") -> None:
        if offered:
            default = f"the archive offers {', '.join(offered)}"
        else:
            default = (
                "the package lists do not name it at all; run 'apt-get update', or configure an archive that has it"
            )
        super().__init__(
            f"no package {name}{f' in version {version}' if version else ''} to download", hint=hint or default
        )
        self.name = name
        self.version = version
        self.offered = tuple(offered)


@dataclass(frozen=True, slots=True)
class Package:
    """A verified package in the cache.

    Attributes:
        path: the `.deb` file.
        sha256: of that file, as the signed package lists give it.
    """

    name: str
    version: str
    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class KernelPackages:
    """The names of the packages from which a kernel is prepared; all have the kernel ref's package version."""

    image: str
    debug: str
    headers: str
    headers_common: str
    source: str

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (self.image, self.debug, self.headers, self.headers_common, self.source)


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What was true of a cached package when it was verified."""

    size: int
    mtime_ns: int
    sha256: str

    def __post_init__(self) -> None:
        check_digest(self.sha256)


@dataclass(frozen=True, slots=True)
class _Record:
    """What the package lists say of a package."""

    architecture: str
    size: int
    digests: frozenset[str]


def kernel_packages(ref: KernelRef) -> KernelPackages:
    """The packages of a Debian kernel.

    Raises:
        PackageProblemError: the ref is not Debian's, or its release is not of Debian's form.
    """
    match = _RELEASE.fullmatch(ref.release)
    if ref.distro != "debian" or match is None:
        raise PackageNameError(
            f"{ref} is not a kernel whose packages are known",
            hint="Debian's kernels are, if their release has the form of debian:6.1.0-50-cloud-amd64@6.1.176-1",
        )
    common = "common-rt" if match["flavour"].startswith("rt-") else "common"
    return KernelPackages(
        image=f"linux-image-{ref.release}-unsigned",
        debug=f"linux-image-{ref.release}-dbg",
        headers=f"linux-headers-{ref.release}",
        headers_common=f"linux-headers-{match['abi']}-{common}",
        source=f"linux-source-{match['series']}",
    )


def available_versions(name: str) -> tuple[str, ...]:
    """The versions of a package that the package lists name, newest first; empty if none.

    Raises:
        PackageProblemError: the package client is missing or failed.
    """
    return _offers([name])[name]


def missing_packages(names: Sequence[str], version: str) -> list[str]:
    """Those of the packages that are neither in the cache nor offered in that version.

    Raises:
        PackageProblemError: the package client is missing or failed.
    """
    absent = [name for name in names if _cached(name, version) is None]
    offers = _offers(absent) if absent else {}
    return [name for name in absent if version not in offers[name]]


def choose_kernel(preferences: Sequence[str]) -> KernelRef:
    """The first kernel of a preference list that can be prepared: all its packages are cached or offered.

    Archives drop old versions; a list of kernels that serve the same purpose keeps demos and tests alive. A ref
    without a package version takes the newest that is complete. What was chosen, and what was passed over, is logged.

    Returns:
        the ref, with its package version.

    Raises:
        PackageGoneError: none of them can be prepared.
    """
    passed: list[str] = []
    for text in preferences:
        ref = KernelRef.parse(text)
        packages = kernel_packages(ref)
        if ref.package is not None and all(_cached(name, ref.package) is not None for name in packages.names):
            return _chosen(ref, passed)
        versions = (ref.package,) if ref.package is not None else available_versions(packages.image)
        for version in versions:
            missing = missing_packages(packages.names, version)
            if not missing:
                return _chosen(KernelRef(ref.distro, ref.release, version), passed)
            passed.append(f"{ref.distro}:{ref.release}@{version} (no {', '.join(missing)})")
        if not versions:
            passed.append(f"{ref} (no {packages.image})")
    raise PackageGoneError(
        f"of any of the kernels {', '.join(preferences)}",
        "",
        (),
        hint="; ".join(passed) + "; run 'apt-get update', or configure an archive of old versions",
    )


def same_flavour(ref: KernelRef, version: str) -> KernelRef:
    """The kernel of `ref`'s series and flavour in another package version, whose release has another ABI number.

    Raises:
        PackageGoneError: neither the cache nor the archive has one.
    """
    kernel_packages(ref)
    match = _RELEASE.fullmatch(ref.release)
    series, flavour = (match["series"], match["flavour"]) if match else ("", "")
    _check_names("linux-image", version)
    pattern = re.compile(rf"linux-image-(?P<release>{re.escape(series)}\.\d+-[a-z0-9.+~]+-{re.escape(flavour)})-dbg")
    cached = [path.name.partition("_")[0] for path in _folder().glob(f"linux-image-*_{_escaped(version)}_*.deb")]
    offered = _client(["apt-cache", "pkgnames", f"linux-image-{series}"]).split()
    names = [name for name in dict.fromkeys([*cached, *offered]) if pattern.fullmatch(name)]
    offers = _offers(names) if names else {}
    for name in names:
        found = pattern.fullmatch(name)
        if found is not None and (version in offers[name] or _cached(name, version) is not None):
            return KernelRef(ref.distro, found["release"], version)
    raise PackageGoneError(f"linux-image-{series}.*-{flavour}-dbg", version, ())


def _chosen(ref: KernelRef, passed: Sequence[str]) -> KernelRef:
    if passed:
        _logger.warning("kernel %s is used; not complete in the archive: %s", ref, "; ".join(passed))
    else:
        _logger.info("kernel %s is used", ref)
    return ref


def fetch_package(name: str, version: str) -> Package:
    """A package in exactly that version: from the cache if it is there, else downloaded; verified in both cases.

    An interrupted download leaves nothing that is taken for a package; it begins anew.

    Raises:
        PackageGoneError: the archive does not offer it.
        PackageProblemError: the download failed, or what came is not what the signed package lists promise.
        SystemProblemError: the disk is full.
    """
    cached = _cached(name, version)
    if cached is not None:
        return cached
    folder = _folder()
    with locked(folder / f".{name}_{_escaped(version)}.lock"):
        cached = _cached(name, version)
        if cached is not None:
            return cached
        record = _record(name, version)
        path = folder / f"{name}_{_escaped(version)}_{record.architecture}.deb"
        if path.is_file():
            digest = _sha256(path)
            if digest in record.digests:
                return _stamped(name, version, path, digest)
            _logger.warning("%s is damaged or incomplete; it is downloaded again", path)
            path.unlink()
        return _download(name, version, path, record)


def members(package: Package, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """The regular files of a package that are `wanted`, as they come, without unpacking the rest.

    Args:
        package: the package to read.
        wanted: is asked with each file's path, without a leading `./` or `/` (`usr/lib/debug/...`).

    Raises:
        PackageProblemError: the package cannot be read, or holds a path that leaves its folder.
    """
    for name, size, stream in _stream(package, wanted):
        content = stream.read(size)
        if len(content) != size:
            raise PackageProblemError(f"{package.path} ends in the middle of {name}")
        yield name, content


def unpack(package: Package, folder: Path, wanted: Callable[[str], bool]) -> int:
    """Write the regular files of a package that are `wanted` under `folder`, with their paths and execute permission.

    Links are left out: those in kernel packages point into other packages.

    Returns:
        how many files were written.

    Raises:
        PackageProblemError: the package cannot be read, or holds a path that leaves its folder.
        SystemProblemError: a file cannot be written.
    """
    count = 0
    made: set[Path] = set()
    for name, _size, stream in _stream(package, wanted):
        path = folder / name
        try:
            if path.parent not in made:
                path.parent.mkdir(parents=True, exist_ok=True)
                made.add(path.parent)
            with path.open("wb") as output:
                shutil.copyfileobj(stream, output, 1024 * 1024)
        except OSError as problem:
            raise SystemProblemError(
                f"cannot write {path}: {problem.strerror}", hint="free space on that disk, or set KMEND_CACHE"
            ) from problem
        count += 1
    return count


@contextmanager
def archive_stream(package: Package) -> Iterator[IO[bytes]]:
    """The package's tar archive as a stream. Popen, since gigabytes pass through and the reader may stop early."""
    command = ["dpkg-deb", "--fsys-tarfile", os.fspath(package.path)]
    with tempfile.TemporaryFile() as complaints:
        try:
            child = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=complaints,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as problem:
            raise SystemProblemError(f"cannot run dpkg-deb: {problem.strerror}") from problem
        with supervised(child):
            pipe = cast(IO[bytes], child.stdout)
            with pipe:
                yield pipe
                while pipe.read(1024 * 1024):
                    pass
            if child.wait() != 0:
                complaints.seek(0)
                complaint = complaints.read(4000).decode(errors="replace").strip()
                raise PackageProblemError(
                    f"{package.path} cannot be read: {complaint}", hint="delete it, it will be downloaded again"
                )


def _stream(package: Package, wanted: Callable[[str], bool]) -> Iterator[tuple[str, int, IO[bytes]]]:
    with archive_stream(package) as pipe:
        try:
            with tarfile.open(fileobj=pipe, mode="r|") as archive:
                for member in archive:
                    name = safe_path(package, member.name)
                    archive.members = []  # type: ignore[attr-defined]  # a stream is read once; keep no list of it
                    if not member.isreg() or not wanted(name):
                        continue
                    if member.size > MAX_MEMBER:
                        raise PackageProblemError(f"{name} in {package.path} is {member.size} bytes, which is too much")
                    stream = archive.extractfile(member)
                    if stream is not None:
                        yield name, member.size, stream
        except tarfile.TarError as problem:
            raise PackageProblemError(
                f"{package.path} is not a readable package: {problem}", hint="delete it, it will be downloaded again"
            ) from problem


def safe_path(package: Package, name: str) -> str:
    path = name.removeprefix("./")
    if path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise PackageProblemError(f"{package.path} holds the unsafe path {name[:200]!r}")
    return path


def _folder() -> Path:
    folder = cache_root() / "packages"
    folder.mkdir(exist_ok=True)
    return folder


def _escaped(version: str) -> str:
    return version.replace(":", "%3a")


def _check_names(name: str, version: str) -> None:
    if not _NAME.fullmatch(name):
        raise PackageNameError(f"{name[:80]!r} is not a package's name")
    if version and not _VERSION.fullmatch(version):
        raise PackageNameError(f"{version[:80]!r} is not a package's version")


def _cached(name: str, version: str) -> Package | None:
    """The package, if the cache has it and its stamp still fits."""
    _check_names(name, version)
    for architecture in ARCHITECTURES:
        path = _folder() / f"{name}_{_escaped(version)}_{architecture}.deb"
        try:
            status = path.stat()
            stamp = document.decode(_Stamp, _stamp_path(path).read_bytes())
        except (OSError, MalformedError):
            continue
        if (stamp.size, stamp.mtime_ns) == (status.st_size, status.st_mtime_ns):
            return Package(name, version, path, stamp.sha256)
    return None


def _stamp_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.verified")


def _stamped(name: str, version: str, path: Path, digest: str) -> Package:
    status = path.stat()
    write_durably(_stamp_path(path), document.encode(_Stamp(status.st_size, status.st_mtime_ns, digest)))
    return Package(name, version, path, digest)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1024 * 1024):
            digest.update(block)
    return digest.hexdigest()


def _offers(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    for name in names:
        _check_names(name, "")
    offers: dict[str, list[str]] = {name: [] for name in names}
    for line in _client(["apt-cache", "madison", *names]).splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) == 3 and not fields[2].endswith(" Sources") and fields[0] in offers:
            offers[fields[0]].append(fields[1])
    return {name: tuple(dict.fromkeys(versions)) for name, versions in offers.items()}


def _record(name: str, version: str) -> _Record:
    """What the lists say; apt-cache prints a paragraph for each source that offers the package."""
    try:
        text = _client(["apt-cache", "show", f"{name}={version}"])
    except ProgramFailedError:
        raise PackageGoneError(name, version, available_versions(name)) from None
    architecture, size, digests = "", 0, set()
    for paragraph in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if re.match(r"[A-Za-z0-9-]+: ", line))
        if fields.get("Package") != name or fields.get("Version") != version or "SHA256" not in fields:
            continue
        architecture = fields.get("Architecture", "")
        digests.add(check_digest(fields["SHA256"]))
        size = int(fields["Size"]) if fields.get("Size", "").isdecimal() else 0
    if not digests or architecture not in ARCHITECTURES:
        raise PackageGoneError(name, version, available_versions(name))
    return _Record(architecture, size, frozenset(digests))


def _client(command: Sequence[str]) -> str:
    return run(command, timeout=120).text


def _download(name: str, version: str, path: Path, record: _Record) -> Package:
    """Into a folder of its own beside, so that what has the package's name is always whole."""
    partial = path.with_name(f".partial-{path.name}")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir()
    free = shutil.disk_usage(partial).free
    if free < record.size + 64 * 1024 * 1024:
        raise SystemProblemError(
            f"{path.name} needs {record.size // 1024**2} MB; {partial.parent} has {free // 1024**2} MB left",
            hint="free space there, or set KMEND_CACHE to a folder on a larger disk",
        )
    try:
        run(
            ["apt-get", "download", "-q", "-o", "Acquire::Retries=3", f"{name}={version}"],
            cwd=partial,
            timeout=DOWNLOAD_TIMEOUT,
        )
    except ProgramFailedError as problem:
        raise _download_problem(name, version, problem) from problem
    found = [file for file in partial.iterdir() if file.suffix == ".deb"]
    if len(found) != 1:
        raise PackageProblemError(f"apt-get left {len(found)} packages for {name}={version} in {partial}")
    digest = _sha256(found[0])
    if digest not in record.digests:
        shutil.rmtree(partial)
        raise PackageProblemError(
            f"{name}={version} came with SHA-256 {digest}; the signed package lists say {', '.join(record.digests)}",
            hint="run 'apt-get update'; if it stays so, the mirror or the way to it is broken",
        )
    found[0].replace(path)
    shutil.rmtree(partial)
    return _stamped(name, version, path, digest)


def _download_problem(name: str, version: str, problem: ProgramFailedError) -> KmendError:
    output = problem.output
    if "No space left" in output or "enough free space" in output:
        return SystemProblemError(
            f"the disk is full: {name}={version} could not be stored",
            hint="free space, or set KMEND_CACHE to a folder on a larger disk",
        )
    if "404" in output:
        return PackageGoneError(
            name, version, (), hint="the package lists name it but the archive dropped it; run 'apt-get update'"
        )
    lines = [line for line in output.splitlines() if line.startswith(("E:", "Err:"))]
    return PackageProblemError(
        f"{name}={version} could not be downloaded: {' '.join(lines)[-600:] or problem.message[-600:]}",
        hint="check the network and the machine's package sources, then try again",
    )
