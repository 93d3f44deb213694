"""Make the agent as a directory tree: `kmend` and pure-Python packages, for any host with Python 3.10 or later.

    packaging/agent_tree.py DIR [--python /usr/bin/python3]

The dependencies are copied from the environment this runs in, which `make setup` made from constraints.txt; versions are
checked against that file. Nothing compiled may get in, so one tree serves every architecture.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("core", "trust", "agent")
LEFT_OUT = ("trust/signing",)
LAUNCHER = """#!{python} -I
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))

from kmend.agent.main import main

sys.exit(main())
"""


def main() -> None:
    """Make the tree, or say why not."""
    parser = argparse.ArgumentParser(description="Make the agent as a directory tree.")
    parser.add_argument("folder", type=Path, help="where; must not exist yet, or be empty")
    parser.add_argument("--python", default="/usr/bin/python3", help="interpreter on the host (default %(default)s)")
    options = parser.parse_args()
    if options.folder.exists() and any(options.folder.iterdir()):
        sys.exit(f"{options.folder} is not empty")
    make(options.folder, options.python)
    files = [path for path in options.folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    sys.stdout.write(f"{options.folder}: {len(files)} files, {size / 1e6:.1f} MB\n")


def make(folder: Path, python: str) -> None:
    """Copy the agent's rooms and its dependencies."""
    library = folder / "lib"
    package = library / "kmend"
    ignore = shutil.ignore_patterns("__pycache__")
    for room in ROOMS:
        shutil.copytree(ROOT / "src/kmend" / room, package / room, ignore=ignore)
    for name in ("__init__.py", "py.typed"):
        shutil.copy(ROOT / "src/kmend" / name, package / name)
    for name in LEFT_OUT:
        shutil.rmtree(package / name)
    pinned = constraints()
    for name in dependencies("kmend"):
        copy_distribution(name, pinned, library)
    compiled = [path for path in library.rglob("*") if path.suffix in (".so", ".pyd")]
    if compiled:
        sys.exit(f"compiled files got in: {', '.join(str(path) for path in compiled)}")
    launcher = folder / "kmend"
    launcher.write_text(LAUNCHER.format(python=python))
    launcher.chmod(0o755)


def constraints() -> dict[str, str]:
    """The pinned versions, by canonical name."""
    lines = (ROOT / "constraints.txt").read_text().split()
    return {canonical(line.split("==")[0]): line.split("==")[1] for line in lines}


def dependencies(name: str) -> list[str]:
    """What a distribution needs without its extras, and what that needs."""
    found: list[str] = []
    waiting = [name]
    while waiting:
        for requirement in importlib.metadata.requires(waiting.pop()) or []:
            text, _, marker = requirement.partition(";")
            needed = canonical(re.split(r"[^A-Za-z0-9._-]", text.strip(), maxsplit=1)[0])
            # The only marker without an extra is tomli's, for Python 3.10.
            if "extra" in marker or "python_version" in marker or needed in found:
                continue
            found.append(needed)
            waiting.append(needed)
    return sorted(found)


def copy_distribution(name: str, pinned: dict[str, str], library: Path) -> None:
    """Copy one installed distribution's files."""
    distribution = importlib.metadata.distribution(name)
    if pinned.get(name) != distribution.version:
        sys.exit(f"{name} {distribution.version} is installed; constraints.txt says {pinned.get(name)}. Run make setup")
    for file in distribution.files or []:
        if ".." in file.parts or "__pycache__" in file.parts:
            continue
        target = library / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(str(file.locate())), target)


def canonical(name: str) -> str:
    """A distribution's name as packaging compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
