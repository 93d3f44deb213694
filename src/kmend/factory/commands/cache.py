"""`kmend-factory cache`: what the cache holds."""

from __future__ import annotations

from pathlib import Path

import click

from kmend.core.cache import cache_root
from kmend.factory.commands.output import json_option, print_json
from kmend.factory.desk.companion import STORE

_HOLDS = {
    "companions": "debug companions of livepatches, by module name, for decode; made again by reproduce",
    "kernels": "prepared kernels: index, source tree, compiled originals, debug files; made again by kernel prepare",
    "lab": "what virtual machines are made of; made again when one is booted",
    "packages": "the distro's packages; downloaded again, if the archive still has them",
    "sources": "source files taken out of packages",
    "surveys": "results and livepatches of surveys",
}


@click.command()
@json_option
def command(as_json: bool) -> None:
    """What the cache holds, by folder; everything in it can be made or downloaded again."""
    root = cache_root()
    companions = len(list((root / STORE).glob("*/manifest.json")))
    sizes = {path.name: _size(path) for path in sorted(root.iterdir()) if path.is_dir()}
    if as_json:
        print_json({"folder": str(root), "bytes": sizes, "companions": companions})
        return
    click.echo(str(root))
    for name, size in sizes.items():
        count = f"{companions} " if name == STORE else ""
        click.echo(f"  {name:12} {size / 1e9:7.2f} GB  {count}{_HOLDS.get(name, '')}".rstrip())
    click.echo(f"  {'in all':12} {sum(sizes.values()) / 1e9:7.2f} GB")


def _size(folder: Path) -> int:
    """Bytes on disk, sparse files by what they take."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if path.is_file() or path.is_symlink())
