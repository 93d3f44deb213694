"""From the definition to the packages."""

from __future__ import annotations

import tempfile
from pathlib import Path

from packager import deb, definition, rpm, staging

FORMATS = {"deb": deb.build, "rpm": rpm.build}


def build(output: Path, formats: tuple[str, ...], version: str | None = None) -> list[Path]:
    """Make packages of each format in `output`.

    Raises:
        PackagingError: the definition is wrong, or a tool is missing or fails.
        TreeError: the agent's dependencies are not at hand.
    """
    wanted = definition.read(version)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kmend-packages-") as scratch:
        laid_out = staging.lay_out(wanted, Path(scratch) / "root")
        return [FORMATS[name](laid_out, Path(scratch) / name, output) for name in formats]
