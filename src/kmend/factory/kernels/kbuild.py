"""kbuild without the top Makefile: what that one exports, and from which folder a file is to be reached.

For every call, the top Makefile checks the configuration and asks the compiler and the tools for their abilities, and then hands
everything on to `scripts/Makefile.build` by exported variables. With these at hand that Makefile can be called directly, and
makes the same file by the same command with a fraction of the work.
"""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath

_OF_ONE_MAKE = frozenset({"MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "PWD", "OLDPWD", "SHLVL", "_"})
"""Variables that a make exports about itself."""
_FOLDERS_OF_ARCHITECTURE = ("ARCH_CORE", "ARCH_LIB", "ARCH_DRIVERS")
"""What the top `Kbuild` (6.1) descends into beside `arch/x86`."""
_LISTED = re.compile(r"(?<![^\s=])([\w-]+(?:/[\w-]+)*)/(?=\s|$)", re.MULTILINE)
TOP = "."


def exported_variables(make: Callable[[str, str], None]) -> dict[str, str]:
    """What the top Makefile exports to those of the folders.

    Args:
        make: runs make with a rule given by `--eval` (first) and its target as the goal (second).
    """
    with tempfile.NamedTemporaryFile(prefix="kmend-exported-") as listed:
        make(f"kmend-exported: ; @env -0 > {shlex.quote(listed.name)}", "kmend-exported")
        entries = Path(listed.name).read_text().split("\0")
    exported = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    return {name: value for name, value in exported.items() if name not in _OF_ONE_MAKE}


def by_starting_folder(tree: Path, exported: Mapping[str, str], targets: Iterable[str]) -> dict[str, list[str]]:
    """The targets by the folder whose Makefile is to be called first, which is the tree's top for nearly all.

    kbuild (6.1, "single targets") descends into every folder that begins like the target. Where a Makefile names both a folder
    and one below it (`char/` and `char/ipmi/`), it comes to the target by two ways at once, of which one knows nothing of the
    target's flags; so the lower folder is where to begin.
    """
    names = [folder.rstrip("/") for name in _FOLDERS_OF_ARCHITECTURE for folder in exported.get(name, "").split()]
    listed: dict[PurePosixPath, frozenset[str]] = {PurePosixPath(TOP): frozenset((*names, "arch/x86"))}
    found: dict[str, list[str]] = {}
    for target in targets:
        found.setdefault(_starting_folder(tree, listed, PurePosixPath(target).parent), []).append(target)
    return found


def _starting_folder(tree: Path, listed: dict[PurePosixPath, frozenset[str]], home: PurePosixPath) -> str:
    for folder in (home, *home.parents):
        for above in folder.parents:
            names = listed.get(above)
            if names is None:
                names = listed[above] = _named_folders(tree / above)
            below = folder.relative_to(above)
            if str(below) in names and any(str(part) in names for part in below.parents):
                return str(folder)
    return TOP


def _named_folders(folder: Path) -> frozenset[str]:
    """The folders that a folder's Makefile names."""
    # kbuild prefers the name Kbuild.
    for name in ("Kbuild", "Makefile"):
        try:
            return frozenset(_LISTED.findall((folder / name).read_text(errors="replace")))
        except OSError:
            continue
    return frozenset()
