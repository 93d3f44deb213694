"""Lays out the files of the packages as they will lie on a host, the same whoever does it, where and when."""

from __future__ import annotations

import gzip
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import agent_tree
from packager import manual
from packager.definition import PACKAGING, ROOT, Definition
from packager.errors import PackagingError

TREE = "usr/lib/kmend"


@dataclass(frozen=True, slots=True)
class LaidOut:
    """What was laid out.

    Attributes:
        root: the folder that stands for `/`.
        configs: absolute paths of the configuration files.
        units, enabled: names of all systemd units, and of those that are on after the first install.
    """

    definition: Definition
    root: Path
    configs: tuple[str, ...]
    units: tuple[str, ...]
    enabled: tuple[str, ...]

    def files(self) -> list[Path]:
        """Every file and link, sorted by its path."""
        return sorted(path for path in self.root.rglob("*") if path.is_symlink() or path.is_file())

    def script(self, name: str) -> str:
        """A maintainer script, with what they share in front of it."""
        shared = (PACKAGING / "maintainer/lifecycle.sh").read_text(encoding="utf-8")
        shared = shared.replace("@UNITS@", " ".join(self.units)).replace("@ENABLED@", " ".join(self.enabled))
        own = (PACKAGING / "maintainer" / name).read_text(encoding="utf-8")
        return f"#!/bin/sh\nset -e\n\n{shared}\n{own}"


def lay_out(definition: Definition, root: Path) -> LaidOut:
    """Lay everything out below `root`, which must not exist yet.

    Raises:
        PackagingError: a file that the definition names is missing.
        TreeError: the agent's dependencies are not at hand.
    """
    agent_tree.make(root / TREE, "/usr/bin/python3")
    _stamp_version(root, definition.version)
    (root / "usr/bin").mkdir()
    (root / "usr/bin/kmend").symlink_to("../lib/kmend/kmend")
    configs = [path for rule in definition.files for path in _install(rule.source, rule.target, root) if rule.config]
    for path, _ in definition.folders:
        (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    documents = root / "usr/share/doc" / definition.name
    _compress(documents / "changelog.gz", definition.changelog)
    _compress(root / "usr/share/man/man8/kmend.8.gz", manual.page(definition))
    _write(root / "usr/share/bash-completion/completions/kmend", manual.completion("bash"))
    _write(root / "usr/share/zsh/vendor-completions/_kmend", manual.completion("zsh"))
    units = tuple(sorted(path.name for path in (root / "usr/lib/systemd/system").iterdir()))
    _normalise(root, definition)
    return LaidOut(definition, root, tuple(configs), units, _enabled(units))


def _stamp_version(root: Path, version: str) -> None:
    """The package's version is what `kmend --version` says."""
    path = root / TREE / "lib/kmend/__init__.py"
    text = path.read_text(encoding="utf-8")
    kept = [line for line in text.splitlines() if not line.startswith("__version__")]
    if len(kept) != len(text.splitlines()) - 1:
        raise PackagingError("kmend/__init__.py does not say its version in one line")
    _write(path, "\n".join([*kept, f'__version__ = "{version}"']) + "\n")


def _install(source: str, target: str, root: Path) -> list[str]:
    found = sorted(ROOT.glob(source))
    if not found and "*" not in source:
        raise PackagingError(f"{source} does not exist")
    installed = []
    for path in found:
        place = target + path.name if target.endswith("/") else target
        (root / place.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, root / place.lstrip("/"))
        installed.append(place)
    return installed


def _enabled(units: tuple[str, ...]) -> tuple[str, ...]:
    """The units that the preset files of packaging/systemd enable."""
    lines = [line for path in (PACKAGING / "systemd").glob("*.preset") for line in path.read_text().splitlines()]
    named = [words[1] for line in lines if (words := line.split())[:1] == ["enable"]]
    unknown = set(named) - set(units)
    if unknown:
        raise PackagingError(f"the preset enables {', '.join(sorted(unknown))}, which is not there")
    return tuple(sorted(named))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _compress(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def _normalise(root: Path, definition: Definition) -> None:
    """Modes and dates that depend on nothing but the definition."""
    folders = {root / path.lstrip("/"): mode for path, mode in definition.folders}
    for path in [root, *root.rglob("*")]:
        if path.is_symlink():
            pass
        elif path.is_dir():
            path.chmod(folders.get(path, 0o755))
        else:
            path.chmod(0o755 if path == root / TREE / "kmend" else 0o644)
        os.utime(path, (definition.epoch, definition.epoch), follow_symlinks=False)
