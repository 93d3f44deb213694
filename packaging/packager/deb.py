"""The deb: control files by deb-control(5), wrapped by dpkg-deb, which is reproducible by itself."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from packager.staging import LaidOut
from packager.tools import run_tool

SCRIPTS = ("postinst", "prerm", "postrm")


def build(laid_out: LaidOut, scratch: Path, output: Path) -> Path:
    """Make the deb in `output`; `scratch` must not exist yet.

    Raises:
        PackagingError: dpkg-deb is missing or fails.
    """
    definition = laid_out.definition
    shutil.copytree(laid_out.root, scratch, symlinks=True)
    control = scratch / "DEBIAN"
    control.mkdir()
    _write(control / "control", _control(laid_out))
    _write(control / "conffiles", "".join(f"{path}\n" for path in laid_out.configs))
    _write(control / "md5sums", _sums(laid_out))
    for name in SCRIPTS:
        _write(control / name, laid_out.script(f"deb.{name}"), mode=0o755)
    scratch.chmod(0o755)
    control.chmod(0o755)
    target = output / f"{definition.name}_{definition.version}_{definition.deb.architecture}.deb"
    run_tool(
        ["dpkg-deb", "--root-owner-group", "-Zxz", "-z6", "--threads-max=1", "--build", scratch, target],
        epoch=definition.epoch,
        package="dpkg",
    )
    return target


def _control(laid_out: LaidOut) -> str:
    definition = laid_out.definition
    files = [path for path in laid_out.files() if not path.is_symlink()]
    size = sum((path.stat().st_size + 1023) // 1024 for path in files) + sum(
        1 for path in laid_out.root.rglob("*") if path.is_dir() or path.is_symlink()
    )
    fields = {
        "Package": definition.name,
        "Version": definition.version,
        "Section": definition.section,
        "Priority": "optional",
        "Architecture": definition.deb.architecture,
        "Installed-Size": str(size),
        "Maintainer": definition.maintainer,
        "Homepage": definition.homepage,
        "Depends": ", ".join(definition.deb.needs),
        "Recommends": ", ".join(definition.deb.recommends),
        "Description": definition.summary,
    }
    lines = [f"{name}: {value}" for name, value in fields.items() if value]
    return "\n".join([*lines, *(f" {line}" if line else " ." for line in definition.description)]) + "\n"


def _sums(laid_out: LaidOut) -> str:
    rows = []
    for path in laid_out.files():
        name = path.relative_to(laid_out.root)
        if not path.is_symlink() and f"/{name}" not in laid_out.configs:
            # The format prescribes this digest; it is there against damage, not against people.
            rows.append(f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {name}\n")
    return "".join(rows)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
