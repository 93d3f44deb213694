"""The survey itself: choose, build in several processes, load, count. What was done before is not done again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Protocol

from kmend import lab
from kmend.core import document
from kmend.core.durable import make_folder, write_durably
from kmend.core.errors import MalformedError
from kmend.core.kernel import KernelRef
from kmend.core.manifest import Manifest
from kmend.core.workers import worker_pool
from kmend.factory.build import Vendor
from kmend.factory.build.compile import compile_originals
from kmend.factory.kernels.packages import fetch_package, kernel_packages
from kmend.factory.kernels.prepared import prepare, prepare_index
from kmend.factory.survey.changes import ChangedFile, changed_files, changed_headers, fix_of, pairs
from kmend.factory.survey.judging import Judge
from kmend.factory.survey.loading import Candidate, load_all
from kmend.factory.survey.record import FileResult, LoadRecord, Outcome, Survey, total

_ORIGINALS_AT_ONCE = 24
_TOOL = ("build", "build/safety", "derive", "elf", "fixes", "kernels", "survey")
"""Folders of the factory whose code decides what a survey finds."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What to survey.

    Attributes:
        kernel: the kernel build to mend; vendor: the vendor's own newer one.
        folder: receives livepatches and results; another survey of the same kernels goes on in it.
        only: paths, or folders that end with `/`; empty for all.
        limit: at most so many files; 0 for all. every: take each n-th file only.
        load: load what was built.
        processes: how many files are built at once.
        with_companions: give a file that does not compile what it needs of the newer kernel's other changes.
    """

    kernel: KernelRef
    vendor: KernelRef
    folder: Path
    only: tuple[str, ...] = ()
    limit: int = 0
    every: int = 1
    load: bool = True
    processes: int = 2
    with_companions: bool = True


class Progress(Protocol):
    """Is told what happens; the command line shows it."""

    def begin(self, title: str, count: int) -> None:
        """A step of `count` parts begins."""

    def advance(self, told: str) -> None:
        """A part is done."""


def survey(settings: Settings, progress: Progress) -> Survey:
    """Take every changed file as one fix.

    Raises:
        KmendError: a kernel cannot be prepared, or no virtual machine can be had.
    """
    kernel = prepare(settings.kernel)
    index = prepare_index(settings.vendor)
    chosen = changed_files(kernel, index.package, settings.only)
    changes = chosen[:: settings.every][: settings.limit or None]
    make_folder(settings.folder / "results")
    inputs = f"{kernel.identity.build_id} {index.identity.build_id} {_tool_digest()} {settings.with_companions}"
    versions = (kernel.package, index.package)
    companions: tuple[str, ...] = ()
    if settings.with_companions:
        every = chosen if not settings.only else changed_files(kernel, index.package)
        companions = (*changed_headers(kernel, index.package), *(change.path for change in every))
    keys = {change.path: _key(inputs, change, versions) for change in changes}
    results = {change.path: _kept(settings.folder, keys[change.path]) for change in changes}
    todo = [change for change in changes if results[change.path] is None]
    progress.begin("compiling originals", len(todo))
    for start in range(0, len(todo), _ORIGINALS_AT_ONCE):
        part = todo[start : start + _ORIGINALS_AT_ONCE]
        compile_originals(kernel, [change.path for change in part])
        for change in part:
            progress.advance(change.path)
    progress.begin("building", len(todo))
    for result in _build_all(settings, todo, companions):
        write_durably(_result_path(settings.folder, keys[result.path]), document.encode(result))
        results[result.path] = result
        progress.advance(f"{result.path}: {result.outcome.value}")
    finished = {path: result for path, result in results.items() if result is not None}
    if settings.load:
        _load(settings, finished, keys, progress)
    files = tuple(finished[change.path] for change in changes)
    return Survey(kernel.identity, index.identity, total(files), files)


def _key(inputs: str, change: ChangedFile, versions: tuple[str, str]) -> str:
    return hashlib.sha256(f"{inputs} {fix_of(change, versions).digest} {change.objects}".encode()).hexdigest()[:32]


def _tool_digest() -> str:
    """A digest of the code that decides the results."""
    digest = hashlib.sha256()
    root = resources.files("kmend.factory")
    for room in _TOOL:
        for entry in sorted(root.joinpath(room).iterdir(), key=lambda entry: entry.name):
            if entry.name.endswith(".py"):
                digest.update(f"{room}/{entry.name}\0".encode() + entry.read_bytes())
    return digest.hexdigest()


def _result_path(folder: Path, key: str) -> Path:
    return folder / "results" / f"{key}.json"


def _kept(folder: Path, key: str) -> FileResult | None:
    try:
        return document.decode(FileResult, _result_path(folder, key).read_bytes())
    except (OSError, MalformedError):
        return None


def livepatch_folder(folder: Path, path: str) -> Path:
    """Where the livepatch of a source file is put."""
    return folder / "livepatches" / path.replace("/", "_")


def _build_all(settings: Settings, todo: Sequence[ChangedFile], companions: tuple[str, ...]) -> Iterator[FileResult]:
    """The results in the order in which they are ready; an error that nobody foresaw is one file's result too."""
    if not todo:
        return
    with worker_pool(min(settings.processes, len(todo))) as pool:
        jobs: dict[Future[FileResult], ChangedFile] = {
            pool.submit(_build_one, settings, change, companions): change for change in todo
        }
        for job in as_completed(jobs):
            change, problem = jobs[job], job.exception()
            if problem is None:
                yield job.result()
            else:
                told = f"{type(problem).__name__}: {problem}"
                yield FileResult(change.path, change.objects, Outcome.FAILED, message=told)


def _build_one(settings: Settings, change: ChangedFile, companions: tuple[str, ...]) -> FileResult:
    """Runs in a process of its own, where kernel and index are opened once."""
    worker = _Worker.of(settings, companions)
    folder = livepatch_folder(settings.folder, change.path)
    for old in folder.glob("*.*") if folder.exists() else ():
        old.unlink()
    return worker.judge.judge(change, folder)


class _Worker:
    """What a process keeps between files."""

    _current: _Worker | None = None

    def __init__(self, settings: Settings, companions: tuple[str, ...]) -> None:
        kernel, index = prepare(settings.kernel), prepare_index(settings.vendor)
        self.judge = Judge(kernel, Vendor.of(index), pairs(kernel, index.package, companions))

    @classmethod
    def of(cls, settings: Settings, companions: tuple[str, ...]) -> _Worker:
        if cls._current is None:
            cls._current = cls(settings, companions)
        return cls._current


def _load(settings: Settings, results: dict[str, FileResult], keys: Mapping[str, str], progress: Progress) -> None:
    """Load what was built and not loaded before, and note how it went."""
    todo = [r for r in results.values() if r.module and r.load is None]
    progress.begin("loading", len(todo))
    if not todo:
        return
    names = kernel_packages(settings.kernel)
    unpacked = lab.unpack(fetch_package(names.image, settings.kernel.package or "").path)

    def done(path: str, record: LoadRecord) -> None:
        outcome = Outcome.BUILT if record.clean else Outcome.FAILED
        message = "" if record.clean else record.problem
        results[path] = replace(results[path], load=record, outcome=outcome, message=message)
        write_durably(_result_path(settings.folder, keys[path]), document.encode(results[path]))
        progress.advance(f"{path}: {message or 'loaded'}")

    load_all(unpacked, [_candidate(settings, result, unpacked) for result in todo], done)


def _candidate(settings: Settings, result: FileResult, unpacked: lab.UnpackedKernel) -> Candidate:
    folder = livepatch_folder(settings.folder, result.path)
    manifest = document.decode(Manifest, (folder / "manifest.json").read_bytes())
    targets = [patched.name for patched in manifest.objects if patched.name != "vmlinux"]
    files = lab.modules_to_load(unpacked.modules, targets) if targets else ()
    return Candidate(
        result.path,
        folder / f"{manifest.module.name}.ko",
        tuple(unpacked.modules / file for file in files),
        bool(manifest.pinned),
    )
