"""A kernel's source as the distro compiled it: single files of it, or the tree, out of the source package.

`linux-source-X.Y` holds one tar archive with all of Debian's patches applied. Decompressing it takes some seconds, so
files are taken out in one pass, and kept; what a version does not have is kept too.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import signal
import subprocess
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, cast

from kmend.core.cache import cache_root, locked
from kmend.core.durable import write_durably
from kmend.core.errors import MalformedError, SystemProblemError
from kmend.core.interruption import supervised
from kmend.core.scratch import scratch_folder
from kmend.factory.kernels.packages import Package, PackageProblemError, fetch_package, members

NOT_FOR_X86 = (
    "Documentation/[!K]*",
    "arch/xtensa",
    "arch/[a-wyz]*/[!c]*",
    "arch/[a-wyz]*/c[!r]*",
    "arch/[a-wyz]*/crypto/[!K]*",
    "tools/perf",
    "tools/testing",
)
"""What a tree that compiles for x86 can do without: the documentation, programs for people, and the other architectures, except
the Kconfig files among them that `Kconfig` and `crypto/Kconfig` include whatever the architecture is (6.1)."""
_BULKY = {"CONFIG_DRM_AMDGPU": "drivers/gpu/drm/amd/include"}
"""Folders of hundreds of megabytes, and the option without which nothing includes them."""
MAX_PATH = 4096
MAX_CHANGELOG = 64 * 1024 * 1024
"""Bytes of a changelog that are read; the oldest entries, at its end, may be cut."""
MAX_FILES = 100_000
UNPACK_TIMEOUT = 1800
_VERSION = re.compile(r"(?P<series>[0-9]{1,3}\.[0-9]{1,4})\.[0-9]{1,5}[A-Za-z0-9.+~-]{1,60}")


def source_package(version: str) -> str:
    """The source package's name for a package version: 6.1.176-1 -> linux-source-6.1.

    Raises:
        MalformedError: not a version of Debian's kernel packages.
    """
    match = _VERSION.fullmatch(version)
    if match is None:
        raise MalformedError(
            f"{version[:80]!r} is not a version of Debian's kernel packages", hint="write it like 6.1.176-1"
        )
    return f"linux-source-{match['series']}"


def source_file(version: str, path: str) -> bytes:
    """One file of the source of a package version.

    Raises:
        PackageProblemError: the version has no such file, or the package cannot be had.
    """
    content = source_files(version, [path])[path]
    if content is None:
        raise PackageProblemError(
            f"the source of {version} has no file {path}", hint="paths are relative to the kernel's source tree"
        )
    return content


def source_files(version: str, paths: Iterable[str]) -> dict[str, bytes | None]:
    """Several files of the source of a package version, in one pass; None for those that it does not have.

    Raises:
        MalformedError: a path leaves the tree.
        PackageGoneError: the archive does not offer that version (any more).
        PackageProblemError: the package cannot be downloaded or read.
        SystemProblemError: a file cannot be stored.
    """
    source_package(version)
    asked = sorted({check_path(path) for path in paths})
    if len(asked) > MAX_FILES:
        raise MalformedError(
            f"{len(asked)} files are asked for at once; at most {MAX_FILES} are taken out", hint="ask for fewer"
        )
    kept = cache_root() / "sources" / version
    found = {path: _kept(kept, path) for path in asked}
    missing = [path for path, content in found.items() if content is _UNKNOWN]
    if missing:
        with locked(cache_root() / "sources" / f".{version}.lock"):
            _take_out(version, kept, missing)
        found.update({path: _kept(kept, path) for path in missing})
    return {path: content if isinstance(content, bytes) else None for path, content in found.items()}


def changelog(version: str) -> str:
    """The Debian changelog of a package version, newest entry first.

    Raises:
        PackageGoneError: the archive does not offer that version (any more).
        PackageProblemError: the package cannot be downloaded or read.
    """
    kept = cache_root() / "sources" / version / "changelog"
    name = source_package(version)
    if not kept.is_file():
        package = fetch_package(name, version)
        path = f"usr/share/doc/{name}/changelog.Debian.gz"
        packed = next((content for _, content in members(package, path.__eq__)), None)
        if packed is None:
            raise PackageProblemError(f"{package.path} holds no {path}")
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
                content = stream.read(MAX_CHANGELOG)
        except (OSError, EOFError, zlib.error) as problem:
            raise PackageProblemError(f"{path} in {package.path} is damaged: {problem}") from problem
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_durably(kept, content)
    return kept.read_text(encoding="utf-8", errors="replace")


def unpack_sources(version: str, folder: Path, excluded: Sequence[str] = NOT_FOR_X86) -> None:
    """Write the source tree of a package version into `folder`, which must exist.

    Args:
        version: of the package.
        folder: receives the files of the tree's top (`Makefile`, `kernel/` and so on).
        excluded: patterns of what to leave out, relative to the tree's top; `*` does not match a slash.

    Raises:
        PackageGoneError: the archive does not offer that version (any more).
        PackageProblemError: the package cannot be downloaded or read.
        SystemProblemError: the tree cannot be stored.
    """
    package = fetch_package(source_package(version), version)
    options = [f"--exclude={package.name}/{pattern}" for pattern in excluded]
    _tar(package, ["--strip-components=1", "--anchored", "--wildcards", "--no-wildcards-match-slash", *options], folder)


@contextmanager
def source_stream(package: Package) -> Iterator[IO[bytes]]:
    """The tar archive of the source tree that a source package holds, decompressed, as a stream.

    Raises:
        PackageProblemError: the package cannot be read to its end.
    """
    with tempfile.TemporaryFile() as complaints, ExitStack() as guarded:
        children = _started(_decompressing(package), guarded, complaints)
        stream = cast(IO[bytes], children[-1].stdout)
        with stream:
            yield stream
            while stream.read(1024 * 1024):
                pass
        # dpkg-deb may end by SIGPIPE: the archive is not the package's last file, or is followed by padding.
        if any([child.wait() for child in children][1:]):
            raise PackageProblemError(
                f"the source in {package.path} cannot be read: {_text(complaints)[:300]}",
                hint="if the package is damaged, delete it: it will be downloaded again",
            )


def not_needed(config: Mapping[str, str]) -> tuple[str, ...]:
    """Patterns of what a tree with that configuration can do without."""
    return (*NOT_FOR_X86, *(folder for option, folder in _BULKY.items() if config.get(option, "n") == "n"))


def check_path(path: str) -> str:
    """`path`, if it is a plain path inside the source tree.

    Raises:
        MalformedError: it is absolute, leaves the tree, or is written in a roundabout way.
    """
    parts = PurePosixPath(path).parts
    if (
        not path
        or len(path) > MAX_PATH
        or path.startswith("/")
        or ".." in parts
        or not all(" " <= c != "\x7f" and c != "\\" for c in path)
        or "/".join(parts) != path
    ):
        raise MalformedError(
            f"{path[:120]!r} is not a path inside the source tree",
            hint="write it relative to the kernel's source tree, like net/unix/af_unix.c",
        )
    return path


class _Unknown:
    """Neither kept nor known to be absent."""


_UNKNOWN = _Unknown()


def _kept(kept: Path, path: str) -> bytes | _Unknown | None:
    try:
        return (kept / "files" / path).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None if (kept / "absent" / f"{path}.absent").exists() else _UNKNOWN


def _take_out(version: str, kept: Path, paths: Sequence[str]) -> None:
    package = fetch_package(source_package(version), version)
    kept.mkdir(parents=True, exist_ok=True)
    with scratch_folder("taking", kept) as temporary:
        wanted = temporary / "wanted"
        wanted.write_bytes(b"".join(f"{package.name}/{path}\0".encode() for path in paths))
        tree = temporary / "tree"
        tree.mkdir()
        _tar(
            package,
            ["--no-recursion", "--occurrence", "--null", "--verbatim-files-from", f"--files-from={wanted}"],
            tree,
            missing_allowed=True,
        )
        for path in paths:
            source = tree / package.name / path
            if source.is_file() and not source.is_symlink():
                _place(source, kept / "files" / path)
            else:
                wanted.write_bytes(b"")
                _place(wanted, kept / "absent" / f"{path}.absent")


def _place(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
    except OSError as problem:
        raise SystemProblemError(f"cannot store {target}: {problem.strerror}") from problem


def _tar(package: Package, options: Sequence[str], folder: Path, *, missing_allowed: bool = False) -> None:
    """Run tar on the archive inside the package: package -> archive -> decompressed -> tar, as one pipeline.

    Popen, because a gigabyte flows between the four programs. tar may have all it wants before the end; then xz
    ends by SIGPIPE, and those before it as they like. That a file is missing is believed only if the archive was
    read to its end without error.
    """
    stages = [*_decompressing(package), ["tar", "--extract", "--no-same-owner", *options]]
    with tempfile.TemporaryFile() as upstream, tempfile.TemporaryFile() as last:
        statuses = _pipe(stages, folder, upstream, last)
        complaint = _text(upstream) if any(statuses[:-1]) else ""
        problems = _text(last).splitlines()
    if not any(statuses[:-1]) and missing_allowed:
        problems = [line for line in problems if not _about_missing(line)]
        if not problems:
            return
    stopped_early = statuses[-2] == -signal.SIGPIPE
    if statuses[-1] == 0 and (stopped_early or not any(statuses)):
        return
    if any("No space left" in line for line in problems):
        raise SystemProblemError(
            f"the disk is full: the source in {package.path.name} could not be unpacked",
            hint=f"free space for {folder} ({shutil.disk_usage(folder).free // 1024**2} MB left; a tree needs 1 to 1.5 GB)",
        )
    raise PackageProblemError(
        f"the source in {package.path} cannot be unpacked: {complaint[:300]} {' '.join(problems)[:300]}",
        hint="if the package is damaged, delete it: it will be downloaded again",
    )


def _decompressing(package: Package) -> list[list[str]]:
    """The programs that lead from the package to the source's tar archive."""
    return [
        ["dpkg-deb", "--fsys-tarfile", os.fspath(package.path)],
        ["tar", "--extract", "--to-stdout", "--occurrence", f"./usr/src/{package.name}.tar.xz"],
        # Threads of xz hand over blocks in memory that is mapped anew for each: twice as much work as decompressing.
        ["xz", "--decompress", "--stdout", "--threads=1"],
    ]


def _pipe(stages: Sequence[Sequence[str]], folder: Path, upstream: IO[bytes], last: IO[bytes]) -> list[int]:
    """The exit statuses of the stages; the last one works in `folder`; complaints go to the two files."""
    with ExitStack() as guarded:
        children = _started(stages, guarded, upstream, final=(folder, last))
        try:
            return [child.wait(timeout=UNPACK_TIMEOUT) for child in reversed(children)][::-1]
        except subprocess.TimeoutExpired:
            raise PackageProblemError(f"not unpacked within {UNPACK_TIMEOUT} s: {stages[0][-1]}") from None


def _started(
    stages: Sequence[Sequence[str]],
    guarded: ExitStack,
    complaints: IO[bytes],
    final: tuple[Path, IO[bytes]] | None = None,
) -> list[subprocess.Popen[bytes]]:
    """The stages as a running pipeline, ended when `guarded` is left.

    Args:
        final: where the last stage works, and where its complaints go; it prints nothing then, else what it prints is to be read.
    """
    environment = dict(os.environ, LC_ALL="C.UTF-8")
    children: list[subprocess.Popen[bytes]] = []
    for number, stage in enumerate(stages):
        folder, errors = final if final and number == len(stages) - 1 else (None, complaints)
        try:
            child = subprocess.Popen(
                stage,
                stdin=children[-1].stdout if children else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if folder else subprocess.PIPE,
                stderr=errors,
                cwd=folder,
                env=environment,
                start_new_session=True,
                bufsize=1024 * 1024,
            )
        except OSError as problem:
            raise SystemProblemError(f"cannot run {stage[0]}: {problem.strerror}") from problem
        guarded.enter_context(supervised(child))
        if children and children[-1].stdout is not None:
            children[-1].stdout.close()
        children.append(child)
    return children


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read(64 * 1024 * 1024).decode(errors="replace").strip()


def _about_missing(line: str) -> bool:
    return line.endswith((": Not found in archive", ": Exiting with failure status due to previous errors"))
