"""`kmend-factory cache`: what the cache holds."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from kmend.core.cache import cache_root
from kmend.core.scratch import is_scratch, remove_abandoned
from kmend.factory.commands.output import json_option, print_json, say
from kmend.factory.desk.companion import STORE

_HOLDS = {
    "companions": "debug companions of livepatches, by module name, for decode; made again by reproduce",
    "facts": "kernel facts made without preparing the kernel; made again by kernel facts --quick",
    "kernels": "prepared kernels: index, source tree, compiled originals, debug files; made again by kernel prepare",
    "lab": "what virtual machines are made of; made again when one is booted",
    "packages": "the distro's packages; downloaded again, if the archive still has them",
    "sources": "source files taken out of packages",
    "surveys": "results and livepatches of surveys",
}
_SMALL = 1_000_000


@click.command()
@json_option
def command(as_json: bool) -> None:
    """What the cache holds, by folder; everything in it can be made or downloaded again.

    Temporary folders that processes left there, or in TMPDIR, because they were killed are removed.
    """
    root = cache_root()
    removed = clean(root)
    for folder in removed:
        say(f"removed what a killed process left: {folder}")
    companions = len(list((root / STORE).glob("*/manifest.json")))
    sizes = {path.name: _size(path) for path in sorted(root.iterdir()) if path.is_dir()}
    kernels = _parts_of_kernels(root / "kernels")
    if as_json:
        told = [str(folder) for folder in removed]
        print_json({"folder": str(root), "bytes": sizes, "kernels": kernels, "companions": companions, "removed": told})
        return
    click.echo(str(root))
    for name, size in sizes.items():
        count = f"{companions} " if name == STORE else ""
        click.echo(f"  {name:12} {size / 1e9:7.2f} GB  {count}{_HOLDS.get(name, '')}".rstrip())
        for kernel, parts in kernels.items() if name == "kernels" else ():
            listed = ", ".join(f"{part} {bytes_ / 1e6:.0f} MB" for part, bytes_ in parts.items())
            click.echo(f"    {kernel}: {listed}")
    click.echo(f"  {'in all':12} {sum(sizes.values()) / 1e9:7.2f} GB")


def _parts_of_kernels(folder: Path) -> dict[str, dict[str, int]]:
    """Bytes on disk of the parts of each prepared kernel, small ones together."""
    found: dict[str, dict[str, int]] = {}
    for kernel in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not kernel.is_dir() or is_scratch(kernel):
            continue
        sizes = {path.name: _size(path) for path in sorted(kernel.iterdir()) if path.is_dir()}
        parts = {name: size for name, size in sizes.items() if size >= _SMALL}
        found[kernel.name] = {**parts, "other": _size(kernel) - sum(parts.values())}
    return found


def clean(root: Path) -> tuple[Path, ...]:
    """Remove the temporary folders of dead processes, wherever kmend makes such folders."""
    kept = [root / "kernels", root / "sources", root / "lab", root / STORE]
    memory = Path("/dev/shm")  # noqa: S108 - only looked through
    inside = [path for top in kept if top.is_dir() for path in top.iterdir()]
    places = [Path(tempfile.gettempdir()), memory, root, *kept, *inside]
    return tuple(folder for place in places for folder in remove_abandoned(place))


def _size(folder: Path) -> int:
    """Bytes on disk, sparse files by what they take."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if path.is_file() or path.is_symlink())
