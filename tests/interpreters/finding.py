"""Interpreters on this machine, and those that Debian's newer releases have."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kmend.core.errors import KmendError
from kmend.core.process import run

OLDEST = (3, 10)
PLACES = (
    "/usr/bin",
    "/usr/local/bin",
    "~/.pyenv/versions/*/bin",
    "~/.local/share/uv/python/*/bin",
    "~/.local/share/mise/installs/python/*/bin",
    "/opt/python*/bin",
    "/opt/conda*/envs/*/bin",
)
RELEASES = ("trixie", "forky")
_ASK = (
    "import json, platform, sys; print(json.dumps("
    "[list(sys.version_info[:3]), platform.python_implementation(), sys.base_prefix]))"
)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """One interpreter.

    Attributes:
        version: major, minor, micro.
        origin: where it was found, for people.
    """

    path: Path
    version: tuple[int, int, int]
    implementation: str
    origin: str

    @property
    def minor(self) -> tuple[int, int]:
        """Its language's version."""
        return self.version[:2]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.implementation} {'.'.join(map(str, self.version))}"


def installed(more: Iterable[Path] = ()) -> list[Interpreter]:
    """Every interpreter on this machine that kmend supports, one of each version and place, the oldest first."""
    folders = [folder for place in PLACES for folder in _folders(place)]
    folders += [Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]
    candidates = [path for folder in folders for path in sorted(folder.glob("python3.*"))]
    found: dict[tuple[str, tuple[int, int, int]], Interpreter] = {}
    for path in [*more, *candidates]:
        interpreter = _ask(path)
        if interpreter is not None and interpreter.minor >= OLDEST:
            found.setdefault((interpreter.origin, interpreter.version), interpreter)
    return sorted(found.values(), key=lambda item: (item.version, str(item.path)))


def _folders(place: str) -> list[Path]:
    path = Path(place).expanduser()
    return sorted(Path("/").glob(str(path.relative_to("/"))))


def _ask(path: Path) -> Interpreter | None:
    if not path.name.removeprefix("python3.").isdigit() or not os.access(path, os.X_OK):
        return None
    try:
        version, implementation, prefix = json.loads(run([path, "-I", "-S", "-c", _ASK], timeout=30).text)
    except (KmendError, ValueError):
        return None  # a shim without a version behind it, or an interpreter that does not start
    return Interpreter(path, (version[0], version[1], version[2]), implementation, prefix)


def of_debian(release: str, folder: Path) -> Interpreter | None:
    """The interpreter of another Debian release, taken from its packages and made to run where it lies.

    Args:
        folder: kept between runs; may exist already.

    Returns:
        None if the archive does not have it.
    """
    root = folder / release
    if not (root / "usr/bin/python3").exists():
        shutil.rmtree(root, ignore_errors=True)
        root.parent.mkdir(parents=True, exist_ok=True)
        mirror = _mirror()
        if mirror is None:
            return None
        # An archive that is a frozen copy has a date that has passed; its signature is checked all the same.
        options = ["--quiet", "--mode=root", "--variant=extract", '--aptopt=Acquire::Check-Valid-Until "false"']
        try:
            run(["mmdebstrap", *options, "--include=python3", release, root, mirror], timeout=900)
        except KmendError:
            shutil.rmtree(root, ignore_errors=True)
            return None
    link = root / "usr/bin/python3"
    own = link.with_name(f"{link.readlink()}")
    library = root / "usr/lib/x86_64-linux-gnu"
    run(
        [
            "patchelf",
            "--set-interpreter",
            library / "ld-linux-x86-64.so.2",
            "--force-rpath",
            "--set-rpath",
            library,
            own,
        ],
        timeout=60,
    )
    return _ask(own)


def _mirror() -> str | None:
    """Where this machine's apt gets Debian from; None if it does not."""
    rows = run(["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"], timeout=60).text.splitlines()
    sites = [row for row in rows if row.rstrip("/").endswith("/debian")]
    return sites[0] if sites else None
