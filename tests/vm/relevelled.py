"""A livepatch under another level, without building it again: the same code under another name, and what else a test changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from kmend.core.document import decode, encode
from kmend.core.manifest import Manifest, ModuleRecord, module_name, sha256_hex
from kmend.core.process import run
from kmend.trust.signing.keyfiles import KeyFolder
from kmend.trust.signing.publishing import BuildOutput


def relevelled(
    build: BuildOutput, level: int, *, base: int | None, change: Callable[[bytes], bytes] = lambda module: module
) -> BuildOutput:
    """`build` as another level of as many digits, so that no offset in the module moves.

    Args:
        change: what else is done to the module; it must keep its size.
    """
    old = build.manifest.module.name
    name = module_name(level, sha256_hex(f"{old} {level}".encode()))
    assert len(name) == len(old)
    assert old.encode() in build.module
    module = change(build.module.replace(old.encode(), name.encode()))
    assert len(module) == len(build.module)
    record = ModuleRecord(name, sha256_hex(module), len(module))
    manifest = dataclasses.replace(build.manifest, level=level, base=base, module=record)
    return dataclasses.replace(build, manifest=manifest, manifest_content=encode(manifest), module=module)


def other_kernel(module: bytes) -> bytes:
    """Its vermagic is that of a kernel of another kind; of the release the kernel takes no notice where symbols have CRCs."""
    assert module.count(b" mod_unload modversions ") == 1
    return module.replace(b" mod_unload modversions ", b" mod_unlock modversions ")


def other_form(module: bytes) -> bytes:
    """It is no ELF file any more."""
    return b"\0" * 64 + module[64:]


def missing_symbol(module: bytes, scratch: Path) -> bytes:
    """It wants a function that no kernel has."""
    scratch.write_bytes(module)
    wanted = run(["nm", "-u", scratch]).stdout.split()[1::2]
    name = next(word for word in wanted if len(word) > 5)
    return module.replace(b"\0" + name + b"\0", b"\0" + name[:-1] + b"0\0")


def key_folder(keys: Path) -> KeyFolder:
    """Keys that no passphrase guards."""
    return KeyFolder(keys, lambda path: b"")


def manifest_of(folder: Path) -> Manifest:
    """The manifest in a build's folder."""
    return decode(Manifest, (folder / "manifest.json").read_bytes())
