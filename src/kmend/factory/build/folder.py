"""The folder that a livepatch is put into: looked at before the work begins, filled at its end all or nothing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kmend.core import document
from kmend.core.durable import make_folder, read_bounded, sync_folder, write_durably
from kmend.core.errors import SystemProblemError, UsageError
from kmend.core.scratch import is_scratch, scratch_folder
from kmend.factory.build.builder import Built

MANIFEST, SOURCE, COMPANION = "manifest.json", "source", "debug"
_MODULE = re.compile(r"kmend_\d+_[0-9a-f]{8}\.ko")
_MAX_MANIFEST = 64 * 1024 * 1024


class OutputFolderError(UsageError):
    """The folder named for the result is something else, or holds something else."""

    kind = "output-folder"
    default_hint = "name a new or an empty folder with -o"


@contextmanager
def reserved_folder(folder: Path) -> Iterator[None]:
    """Make sure that a livepatch can be put into `folder`, before it is built; if nothing is, no new folder stays behind.

    Raises:
        OutputFolderError: it is a file, or holds anything but a livepatch (whole, or half written by a process that was killed).
        SystemProblemError: it cannot be made or written.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    _check_content(folder)
    make_folder(folder)
    try:
        with scratch_folder("output", folder):
            pass
        yield
    finally:
        for path in new:
            with suppress(OSError):  # only if it is empty
                path.rmdir()


def _check_content(folder: Path) -> None:
    if folder.is_symlink() and not folder.exists():
        raise OutputFolderError(f"{folder} is a link that leads nowhere")
    if not folder.exists():
        above = next(path for path in folder.parents if path.exists())
        if not above.is_dir():
            raise OutputFolderError(f"{above} is not a folder, so {folder} cannot be made")
        return
    if not folder.is_dir():
        raise OutputFolderError(f"{folder} is not a folder")
    try:
        entries = sorted(folder.iterdir())
    except OSError as problem:
        raise SystemProblemError(
            f"cannot look into {folder}: {problem.strerror}", hint="make it readable, or name another with -o"
        ) from problem
    for entry in entries:
        if not (entry.name in (MANIFEST, SOURCE, COMPANION) or _MODULE.fullmatch(entry.name) or is_scratch(entry)):
            raise OutputFolderError(f"{folder} holds {entry.name}, which does not belong to a livepatch")


def write_build(built: Built, folder: Path) -> None:
    """Store the livepatch: `manifest.json`, the unsigned module, and its corresponding source under `source/`.

    Everything is written beside its place first and then moved there, the manifest last, so that a folder with one is whole
    and a full disk changes nothing.

    Raises:
        OutputFolderError: the folder holds another livepatch, or something else.
        SystemProblemError: the disk is full.
    """
    with reserved_folder(folder):
        content = document.encode(built.manifest)
        manifest = folder / MANIFEST
        if manifest.exists() and read_bounded(manifest, max_bytes=_MAX_MANIFEST) != content:
            raise OutputFolderError(f"{folder} holds another livepatch already", hint="name a new folder with -o")
        module = f"{built.manifest.module.name}.ko"
        with scratch_folder("output", folder) as beside:
            make_folder(beside / SOURCE)
            for name, text in built.source.items():
                write_durably(beside / SOURCE / name, text)
            write_durably(beside / module, built.module)
            write_durably(beside / MANIFEST, content)
            try:
                # What stands there without a manifest was left half written; with one, it is the same and stays as it is.
                if not manifest.exists():
                    shutil.rmtree(folder / SOURCE, ignore_errors=True)
                    for old in folder.glob("*.ko"):
                        old.unlink()
                make_folder(folder / SOURCE)
                for path in sorted((beside / SOURCE).iterdir()):
                    path.replace(folder / SOURCE / path.name)
                sync_folder(folder / SOURCE)
                for name in (module, MANIFEST):
                    (beside / name).replace(folder / name)
                    sync_folder(folder)
            except OSError as problem:
                raise SystemProblemError(
                    f"cannot put the livepatch into {folder}: {problem.strerror}",
                    hint="build it again into another folder",
                ) from problem
