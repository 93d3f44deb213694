"""Shortcuts give what the long way gives: kbuild without the top Makefile, and a module taken alone out of its package."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from kmend.core.cache import locked
from kmend.core.kernel import KernelRef
from kmend.factory.elf import read_object
from kmend.factory.elf.headers import read_headers
from kmend.factory.kernels.kbuild import TOP, by_starting_folder
from kmend.factory.kernels.modulefiles import ModuleFileError, module_image
from kmend.factory.kernels.packages import fetch_package, kernel_packages, members
from kmend.factory.kernels.prepared import Kernel, KernelIndex

FILES = 50


@pytest.mark.slow
def test_files_are_the_same_and_made_by_the_same_command(prepared: Kernel) -> None:
    """Byte for byte, debug information included, over built-in files and modules of the whole tree."""
    tree = prepared.tree.path
    known = [path for path in sorted(prepared.units) if path.endswith(".c") and (tree / path).is_file()]
    plain = [path for path in known if path not in prepared.built_as and not path.startswith("arch/x86/")]
    chosen = random.Random(1).sample(plain, FILES)
    targets = [path.removesuffix(".c") + ".o" for path in chosen]
    targets = by_starting_folder(tree, {}, targets)[TOP]
    with locked(prepared.folder / "tree.lock"):
        prepared.tree.make(*targets)
        by_make = _taken(tree, targets)
        prepared.tree.kbuild(*targets)
        by_kbuild = _taken(tree, targets)
    assert len(by_make) > FILES - 5
    assert by_kbuild == by_make


def _taken(tree: Path, targets: Sequence[str]) -> dict[str, tuple[bytes, str]]:
    """The objects and the commands that made them, taken out of the tree."""
    found = {}
    for target in targets:
        path = tree / target
        note = path.with_name(f".{path.name}.cmd")
        found[target] = (path.read_bytes(), note.read_text())
        path.unlink()
        note.unlink()
    return found


@pytest.mark.slow
def test_a_module_alone(prepared: Kernel, tmp_path: Path) -> None:
    """It is the package's file but for its debug sections."""
    (tmp_path / "index").symlink_to(prepared.folder / "index")
    index = KernelIndex(tmp_path, prepared.identity, prepared.package)
    name = next(module.name for module in prepared.modules if "_" in module.name)
    taken = module_image(index, name)
    assert [path.name for path in (tmp_path / "modules").iterdir()] == [f"{name}.ko"]
    assert module_image(index, name) == taken
    path = next(module.path for module in prepared.modules if module.name == name)
    debug = fetch_package(kernel_packages(KernelRef.parse(prepared.identity.ref)).debug, prepared.package)
    ((_, whole),) = members(debug, f"usr/lib/debug/{path.removeprefix('usr/')}".__eq__)
    assert len(taken) == len(whole)
    for header in read_headers(whole)[1]:
        part = slice(header.offset, header.offset + header.size)
        hollow = header.name.startswith((".debug", ".rela.debug", ".BTF"))
        assert taken[part] == (bytes(header.size) if hollow else whole[part]) or header.type == 8
    assert read_object(taken).symbols
    with pytest.raises(ModuleFileError, match="no module of_no_kernel"):
        module_image(index, "of_no_kernel")
