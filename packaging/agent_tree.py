"""Make the agent as a directory tree: `kmend` and pure-Python packages, for any host with Python 3.10 or later.

    packaging/agent_tree.py DIR [--python /usr/bin/python3]

The dependencies are the wheels that packaging/dependencies.txt names by digest and `make setup` has fetched. Nothing compiled
may get in, so one tree serves every architecture.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
WHEELS = ROOT / ".venv/agent-wheels"
ROOMS = ("core", "trust", "agent")
LEFT_OUT = ("trust/signing", "trust/online.py", "trust/keypem.py", "trust/current.py", "trust/signingerrors.py")
"""What signs: hosts only verify, and have no `cryptography`."""
MAX_WHEEL_BYTES = 16 * 1024 * 1024
COMPILED = (".so", ".pyd", ".dll", ".dylib", ".a", ".o")
LAUNCHER = """#!{python} -IS
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))

from kmend.agent.entry import main

sys.exit(main())
"""


class TreeError(Exception):
    """The tree cannot be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Locked:
    """A distribution that the agent carries, pinned by the digest of its wheel."""

    name: str
    version: str
    sha256: str

    @property
    def wheel(self) -> str:
        """The file's name; only this one serves every interpreter and architecture."""
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


def main() -> None:
    """Make the tree, or say why not."""
    parser = argparse.ArgumentParser(description="Make the agent as a directory tree.")
    parser.add_argument("folder", type=Path, help="where; must not exist yet, or be empty")
    parser.add_argument("--python", default="/usr/bin/python3", help="interpreter on the host (default %(default)s)")
    options = parser.parse_args()
    if options.folder.exists() and any(options.folder.iterdir()):
        sys.exit(f"{options.folder} is not empty")
    try:
        make(options.folder, options.python)
    except TreeError as problem:
        sys.exit(str(problem))
    files = [path for path in options.folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    sys.stdout.write(f"{options.folder}: {len(files)} files, {size / 1e6:.1f} MB\n")


def make(folder: Path, python: str, *, wheels: Path = WHEELS) -> None:
    """Copy the agent's rooms and unpack its dependencies.

    Raises:
        TreeError: a wheel is missing, is another one than is pinned, or holds something compiled.
    """
    library = folder / "lib"
    package = library / "kmend"
    ignore = shutil.ignore_patterns("__pycache__")
    for room in ROOMS:
        shutil.copytree(ROOT / "src/kmend" / room, package / room, ignore=ignore)
    for name in ("__init__.py", "py.typed"):
        shutil.copy(ROOT / "src/kmend" / name, package / name)
    for name in LEFT_OUT:
        if (package / name).is_dir():
            shutil.rmtree(package / name)
        else:
            (package / name).unlink()
    for locked in dependencies():
        unpack(wheels / locked.wheel, locked.sha256, library)
    launcher = folder / "kmend"
    launcher.write_text(LAUNCHER.format(python=python))
    launcher.chmod(0o755)


def dependencies(path: Path = ROOT / "packaging/dependencies.txt") -> tuple[Locked, ...]:
    """What packaging/dependencies.txt pins, in its order."""
    found = []
    for line in path.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"([a-z0-9-]+)==([0-9a-z.]+) --hash=sha256:([0-9a-f]{64})", line)
        if match is None:
            raise TreeError(f"{path.name}: not NAME==VERSION --hash=sha256:DIGEST: {line}")
        found.append(Locked(*match.groups()))
    return tuple(found)


def unpack(wheel: Path, sha256: str, library: Path) -> None:
    """Unpack one wheel after its digest was checked.

    Raises:
        TreeError: it is missing, too large, not the pinned one, or holds something that must not get in.
    """
    if not wheel.is_file():
        raise TreeError(f"{wheel.name} is not in {wheel.parent}: run make setup")
    content = wheel.read_bytes() if wheel.stat().st_size <= MAX_WHEEL_BYTES else b""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise TreeError(f"{wheel} is not the file that packaging/dependencies.txt names: remove it and run make setup")
    with zipfile.ZipFile(wheel) as archive:
        for item in archive.infolist():
            name = PurePosixPath(item.filename)
            if name.is_absolute() or ".." in name.parts:
                raise TreeError(f"{wheel.name} holds {item.filename}, which leads out of the tree")
            if name.suffix in COMPILED or ".so." in name.name:
                raise TreeError(f"{wheel.name} holds {item.filename}, which is compiled")
            if item.is_dir() or name.name == ".gitignore" or name.suffix == ".sh":
                continue
            target = library / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(item))


if __name__ == "__main__":
    main()
