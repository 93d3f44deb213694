"""The debug companion of a livepatch: kept when it is built, found again by the build ID or the name that a trace shows.

    <folder>/<module>.ko.debug   the module with debug information
    <folder>/manifest.json       of the livepatch
    <folder>/patched/<path>      the patched files, as they were compiled

A build's folder has it under `debug/`. The store (`KMEND_CACHE/companions`) has a folder for each module's name, and the links
`.build-id/<2 hex>/<the rest>.debug` by which debuggers look for debug files.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from kmend.core import document
from kmend.core.cache import cache_root, locked
from kmend.core.durable import make_folder, read_bounded, write_durably
from kmend.core.errors import KmendError, MalformedError, SystemProblemError
from kmend.core.kernel import build_id_from_notes
from kmend.core.manifest import Manifest
from kmend.core.scratch import scratch_folder
from kmend.factory.build import Built
from kmend.factory.build.debugmodule import debug_module
from kmend.factory.elf import ObjectFile, read_object
from kmend.trust import layout

STORE = "companions"
MODULE_NAME = re.compile(r"kmend_[0-9]{1,6}_[0-9a-f]{8}")
MAX_DEBUG_BYTES = 256 * 1024 * 1024
_LINE_DIRECTIVE = re.compile(rb'#line (?P<line>\d+)(?: "(?P<name>[^"]*)")?')


class CompanionError(KmendError):
    """The debug companion of a livepatch is missing, damaged, or of another build."""

    kind = "companion"


@dataclass(frozen=True)
class Companion:
    """One companion, opened."""

    folder: Path
    manifest: Manifest
    _texts: dict[str, dict[str, dict[int, str]]] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """The module with debug information."""
        return self.folder / f"{self.manifest.module.name}.ko.debug"

    @cached_property
    def image(self) -> ObjectFile:
        """The same, read, without its debug sections.

        Raises:
            CompanionError: it is missing or no object file.
        """
        try:
            return read_object(read_bounded(self.file, max_bytes=MAX_DEBUG_BYTES))
        except KmendError as problem:
            raise CompanionError(
                f"the debug companion {self.file} cannot be read: {problem.message}", hint="make it again"
            ) from None

    @property
    def build_id(self) -> str | None:
        """The module's GNU build ID."""
        note = self.image.section(".note.gnu.build-id")
        return build_id_from_notes(note.content) if note is not None else None

    def text(self, path: str, line: int, *, added: bool) -> str | None:
        """A line of a patched file, None if it is not known.

        Args:
            line: its number as debug information has it; added: whether a fix wrote it (see `fixes/lines.py`).
        """
        if path not in self._texts:
            self._texts[path] = self._read_text(path)
        names = self._texts[path]
        return names.get("added" if added else "kept", {}).get(line)

    def _read_text(self, path: str) -> dict[str, dict[int, str]]:
        parts = path.split("/")
        if path.startswith("/") or ".." in parts:
            return {}
        try:
            content = read_bounded(self.folder / "patched" / path, max_bytes=MAX_DEBUG_BYTES)
        except SystemProblemError:
            return {}
        found: dict[str, dict[int, str]] = {"kept": {}, "added": {}}
        number, which = 0, "kept"
        for line in content.split(b"\n"):
            number += 1
            match = _LINE_DIRECTIVE.fullmatch(line)
            if match is None:
                found[which].setdefault(number, line.decode(errors="replace"))
                continue
            number = int(match["line"]) - 1
            if match["name"] is not None:
                which = "added" if match["name"].startswith(b"fixed/") else "kept"
        return found


def write_companion(built: Built, folder: Path) -> None:
    """Write the companion of a livepatch into `folder`, made if need be; the manifest comes last.

    Raises:
        SystemProblemError: the disk refused.
        ElfError: the compiler left no usable debug information.
    """
    name = built.manifest.module.name
    make_folder(folder)
    write_durably(folder / f"{name}.ko.debug", debug_module(built.module, built.objects))
    for path, text in built.texts.items():
        target = folder / "patched" / path
        make_folder(target.parent)
        write_durably(target, text)
    write_durably(folder / "manifest.json", document.encode(built.manifest))


def store_folder() -> Path:
    """Where companions are kept unless another folder is named."""
    return cache_root() / STORE


def keep_companion(built: Built, store: Path | None = None) -> Path:
    """Put the companion into the store, in place of one that has its name; returns its folder.

    Raises:
        SystemProblemError: the disk refused.
    """
    store = store if store is not None else store_folder()
    make_folder(store)
    name = built.manifest.module.name
    with locked(store / ".lock"), scratch_folder("companion", store) as temporary:
        fresh = temporary / name
        write_companion(built, fresh)
        try:
            shutil.rmtree(store / name, ignore_errors=True)
            fresh.rename(store / name)
            _link(store, Companion(store / name, built.manifest))
        except OSError as problem:
            raise SystemProblemError(f"cannot keep the debug companion in {store}: {problem.strerror}") from problem
    return store / name


def _link(store: Path, companion: Companion) -> None:
    build_id = companion.build_id
    if build_id is None:
        return
    link = _link_path(store, build_id)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(companion.file, link.parent))


def _link_path(store: Path, build_id: str) -> Path:
    return store / ".build-id" / build_id[:2] / f"{build_id[2:]}.debug"


def open_companion(folder: Path) -> Companion | None:
    """The companion in that folder, or in the build's folder that it is; None if there is none.

    Raises:
        CompanionError: there is one, and it is damaged.
    """
    for place in (folder, folder / "debug"):
        if not (place / "manifest.json").is_file() or not list(place.glob("*.ko.debug")):
            continue
        try:
            content = read_bounded(place / "manifest.json", max_bytes=layout.MAX_MANIFEST_BYTES)
            return Companion(place, document.decode(Manifest, content, max_bytes=layout.MAX_MANIFEST_BYTES))
        except MalformedError as problem:
            raise CompanionError(
                f"{place / 'manifest.json'}: {problem.message}", hint="make the companion again"
            ) from None
    return None


def find_companion(name: str, build_id: str | None, places: Sequence[Path]) -> Companion:
    """The companion of a module that a trace names.

    Args:
        name: the module's; build_id: its own, where the kernel told it.
        places: stores, folders of companions, or builds' folders, in which to look.

    Raises:
        CompanionError: there is none, or it is of another build.
    """
    for companion in _candidates(name, build_id, places):
        if companion.manifest.module.name != name:
            continue
        if build_id is not None and companion.build_id != build_id:
            raise CompanionError(
                f"the companion of {name} in {companion.folder} has build ID {companion.build_id}, the trace {build_id}",
                hint="the module was built by something else; build it again from its source: kmend-factory reproduce",
            )
        return companion
    looked = ", ".join(map(str, places))
    told = f" (build ID {build_id})" if build_id else ""
    raise CompanionError(
        f"there is no debug companion of {name}{told} in {looked}",
        hint="name the build's folder with --manifest, or make it: kmend-factory reproduce MANIFEST",
    )


def _candidates(name: str, build_id: str | None, places: Sequence[Path]) -> Iterator[Companion]:
    for place in places:
        folders = [place / name, place]
        if build_id is not None and (link := _link_path(place, build_id)).exists():
            folders.insert(0, link.resolve().parent)
        if place.is_dir():
            folders += sorted(path for path in place.iterdir() if (path / "debug").is_dir())
        for folder in folders:
            companion = open_companion(folder)
            if companion is not None:
                yield companion
