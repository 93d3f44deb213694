"""`make lint`: nothing compiled among what the agent carries, and all of it for the oldest interpreter that we support.

    packaging/check_dependencies.py

Looks at the wheels themselves: their digests, their own word on what they are (PEP 427, the file WHEEL), the versions of Python
that they say they need, and their content.
"""

from __future__ import annotations

import email
import sys
import tempfile
import zipfile
from pathlib import Path

import tomllib
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import agent_tree


def main() -> None:
    """Check every wheel; the first problem ends it."""
    project = tomllib.loads((agent_tree.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = oldest_of(project["requires-python"])
    try:
        locked = agent_tree.dependencies()
        for item in locked:
            check(agent_tree.WHEELS / item.wheel, item.sha256, oldest)
    except agent_tree.TreeError as problem:
        sys.exit(f"check_dependencies: {problem}")
    names = ", ".join(f"{item.name} {item.version}" for item in locked)
    sys.stdout.write(f"Pure Python from {oldest} on: {names}\n")


def oldest_of(requires: str) -> Version:
    """The oldest interpreter that `requires-python` admits."""
    versions = [Version(f"3.{minor}") for minor in range(40)]
    return next(version for version in versions if version in SpecifierSet(requires))


def check(wheel: Path, sha256: str, oldest: Version) -> None:
    """Check one wheel.

    Raises:
        TreeError: it is missing, another one, compiled, or not for `oldest`.
    """
    with tempfile.TemporaryDirectory(prefix="kmend-wheel-") as scratch:
        agent_tree.unpack(wheel, sha256, Path(scratch))
    with zipfile.ZipFile(wheel) as archive:
        (said,) = [name for name in archive.namelist() if name.endswith(".dist-info/WHEEL")]
        statement = email.message_from_bytes(archive.read(said))
        metadata = email.message_from_bytes(archive.read(said.removesuffix("WHEEL") + "METADATA"))
    if statement["Root-Is-Purelib"] != "true" or "py3-none-any" not in (statement.get_all("Tag") or []):
        raise agent_tree.TreeError(f"{wheel.name} says of itself that it is not pure Python")
    if oldest not in SpecifierSet(metadata["Requires-Python"] or ""):
        raise agent_tree.TreeError(
            f"{wheel.name} needs Python {metadata['Requires-Python']}, and kmend runs from {oldest} on"
        )


if __name__ == "__main__":
    main()
