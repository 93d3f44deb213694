"""Join the extracted code and the glue into the module file, and turn `.klp.sym.*` references into klp relocations.

GNU ld joins (`ld -r` with the kernel's own linker script); it must not see livepatch's special sections and symbols, which it
mangles, so those are added afterwards, together with `__versions`, by writing the file anew. The format is that of
`Documentation/livepatch/module-elf-format.rst`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from kmend.core.errors import KmendError
from kmend.core.process import run
from kmend.factory.build.extract import ALIAS
from kmend.factory.build.glue import KERNEL_REFERENCES
from kmend.factory.build.resolve import KLP_PREFIX, VMLINUX
from kmend.factory.elf import ObjectFile, Section, read_object, write_object
from kmend.factory.elf.constants import (
    RELOCATION_WIDTH,
    SHF_ALLOC,
    SHN_LIVEPATCH,
    SHT_NOBITS,
    STB_GLOBAL,
    STT_FILE,
    STT_SECTION,
)
from kmend.factory.kernels.prepared import Kernel
from kmend.factory.kernels.tree import build_environment

_VERSION_ENTRY = struct.Struct("<Q56s")
"""`struct modversion_info` (include/linux/module.h): CRC and name."""
MAX_IMPORT_NAME = 56
"""`MODULE_NAME_LEN`: a longer name has no room for its end in `struct modversion_info`."""
_DROPPED = (".comment", ".note.GNU-stack", ".discard", ".eh_frame", ".debug")


class LinkError(KmendError):
    """The parts do not make a module; this is kmend's fault, not the fix's."""

    kind = "link"
    default_hint = "this is a fault of kmend's, not of the fix: report it, with the fix and the kernel ref"


def link(kernel: Kernel, code: bytes, glue: bytes, folder: Path) -> ObjectFile:
    """Join the two objects.

    Raises:
        ProgramFailedError: the linker rejects them.
    """
    parts = [(folder / "code.o", code), (folder / "glue.o", glue)]
    for path, content in parts:
        path.write_bytes(content)
    target = folder / "joined.o"
    words = link_command(target, [path for path, _ in parts])
    run(words, cwd=kernel.tree.path, environment=build_environment())
    return read_object(target.read_bytes())


def link_command(target: Path, parts: Sequence[Path]) -> list[str]:
    """How the linker is called, in the tree's top folder."""
    options = ["-m", "elf_x86_64", "-z", "noexecstack", "-r", "--build-id=sha1", "-T", "scripts/module.lds"]
    return ["ld", *options, "-o", str(target), *map(str, parts)]


def finish(kernel: Kernel, joined: ObjectFile) -> bytes:
    """The unsigned module: klp relocations and `__versions` added, names that only the build needed removed.

    Args:
        joined: the linked object, which is changed.

    Raises:
        LinkError: a symbol has no CRC, or a field that livepatch will write is not zero.
    """
    joined.sections = [section for section in joined.sections if not section.name.startswith(_DROPPED)]
    kept = {id(section) for section in joined.sections}
    joined.symbols = [
        symbol
        for symbol in joined.symbols
        if symbol.type != STT_FILE and (symbol.section is None or id(symbol.section) in kept)
    ]
    _remove_aliases(joined)
    _name_kernel_references(kernel, joined)
    _klp_relocations(joined)
    _versions(kernel, joined)
    _drop_unused(joined)
    return write_object(joined)


def _remove_aliases(image: ObjectFile) -> None:
    """Let what referred to an alias refer to the function's own symbol, which stack traces show."""
    functions = {
        (id(symbol.section), symbol.value): symbol
        for symbol in image.symbols
        if symbol.section is not None and symbol.type != STT_SECTION and not symbol.name.startswith(ALIAS)
    }
    aliases = {id(symbol): symbol for symbol in image.symbols if symbol.name.startswith(ALIAS)}
    for section in image.sections:
        for relocation in section.relocations:
            alias = aliases.get(id(relocation.symbol))
            if alias is not None:
                target = functions.get((id(alias.section), alias.value))
                if target is None:
                    raise LinkError(f"the alias {alias.name} stands for no function")
                relocation.symbol = target
    image.symbols = [symbol for symbol in image.symbols if id(symbol) not in aliases]


def _name_kernel_references(kernel: Kernel, image: ObjectFile) -> None:
    """Give what the glue needs of the kernel without an export its klp name."""
    for symbol in image.symbols:
        wanted = KERNEL_REFERENCES.get(symbol.name)
        if wanted is None or not symbol.undefined:
            continue
        found = kernel.kallsyms.named(wanted)
        if len(found) != 1:
            raise LinkError(f"the kernel has {len(found)} symbols {wanted}")
        symbol.name = f"{KLP_PREFIX}{VMLINUX}.{wanted},0@{VMLINUX}"


def _klp_relocations(image: ObjectFile) -> None:
    """Move relocations against `.klp.sym.*` symbols into klp sections, and mark those symbols as livepatch's."""
    owners: dict[int, str] = {}
    for symbol in image.symbols:
        if symbol.name.startswith(KLP_PREFIX):
            symbol.name, _, owners[id(symbol)] = symbol.name.rpartition("@")
            symbol.index = SHN_LIVEPATCH
            symbol.bind = STB_GLOBAL
    for section in image.sections:
        own = []
        for relocation in section.relocations:
            owner = owners.get(id(relocation.symbol))
            if owner is None:
                own.append(relocation)
                continue
            if not section.allocated or section.type == SHT_NOBITS:
                raise LinkError(f"livepatch cannot write to {section.name}")
            width = RELOCATION_WIDTH.get(relocation.type, 0)
            if any(section.content[relocation.offset : relocation.offset + width]):
                raise LinkError(f"the field at {section.name}+{relocation.offset:#x} is not zero")
            section.klp_relocations.setdefault(owner, []).append(relocation)
        section.relocations = own


def _versions(kernel: Kernel, image: ObjectFile) -> None:
    """`__versions`: the CRC of every import; the kernel refuses a module that lacks one (`check_version`)."""
    names = ["module_layout", *sorted(symbol.name for symbol in image.symbols if symbol.undefined)]
    table = bytearray()
    for name in dict.fromkeys(names):
        export = kernel.exports.get(name)
        if export is None or export.owner != "vmlinux" or len(name) >= MAX_IMPORT_NAME:
            raise LinkError(f"{name} is not an export of the kernel, so the module cannot import it")
        table += _VERSION_ENTRY.pack(export.crc, name.encode())
    image.sections.append(Section("__versions", flags=SHF_ALLOC, content=bytes(table), align=32))


def _drop_unused(image: ObjectFile) -> None:
    """Leave out empty sections and undefined symbols that nothing refers to any more."""
    used = {id(r.symbol) for s in image.sections for r in s.relocations}
    used |= {id(r.symbol) for s in image.sections for group in s.klp_relocations.values() for r in group}
    symbols = []
    for symbol in image.symbols:
        home = symbol.section
        empty = home is not None and home.size == 0 and symbol.is_section
        if id(symbol) in used or (not symbol.undefined and symbol.index != SHN_LIVEPATCH and not empty):
            symbols.append(symbol)
    image.symbols = symbols
    homes = {id(symbol.section) for symbol in symbols if symbol.section is not None}
    image.sections = [section for section in image.sections if section.size or id(section) in homes]
