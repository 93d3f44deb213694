"""Which source file was compiled into which object: vmlinux or a module. DWARF says it exactly.

The compilation units' names are paths relative to the source tree, as kbuild passes them to the compiler.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kmend.core.kernel import build_id_from_notes
from kmend.factory.elf.constants import ET_REL, R_X86_64_32, R_X86_64_64
from kmend.factory.elf.dwarf import Patched, line_unit_names, unit_names
from kmend.factory.elf.headers import Buffer, Reader, headers_by, reader_of
from kmend.factory.kernels.vmlinux import RELA

_NUMBERS = (R_X86_64_32, R_X86_64_64)


def units_of(image: Buffer) -> tuple[str, ...]:
    """`units_by` of a file that is at hand as a whole."""
    return units_by(reader_of(image), len(image))


def units_by(read: Reader, length: int) -> tuple[str, ...]:
    """The source files of vmlinux or of a module's debug file of `length` bytes, in file order.

    Where their line tables say it (DWARF 5), nothing else of the debug information is read. A file that was compiled without a
    folder in its name has the compiler's folder in front of it then.

    Raises:
        ElfError: the debug information cannot be read.
    """
    kind, headers = headers_by(read, length)
    sections = {header.name: header for header in headers}

    def body(name: str) -> bytes:
        header = sections.get(name)
        return read(header.offset, header.size) if header else b""

    def relocated(name: str) -> Patched:
        return _relocations(body(f".rela{name}")) if kind == ET_REL else _as_it_stands

    lines = body(".debug_line")
    strings, line_strings = body(".debug_str"), body(".debug_line_str")
    names = line_unit_names(lines, strings, line_strings, relocated(".debug_line")) if lines else None
    if names is None:
        abbreviations = body(".debug_abbrev")
        info = relocated(".debug_info")
        names = list(unit_names(body(".debug_info"), abbreviations, strings, line_strings, info))
    return tuple(dict.fromkeys(names))


def _as_it_stands(offset: int, raw: int) -> int:
    return raw


def _relocations(table: bytes) -> Patched:
    """What the relocations of a debug section make of its numbers (their symbols are section starts)."""
    entries = np.frombuffer(table, dtype=RELA, count=len(table) // RELA.itemsize)
    entries = entries[np.isin(entries["type"], _NUMBERS)]
    order = np.argsort(entries["offset"], kind="stable")
    offsets, addends = entries["offset"][order], entries["addend"][order]

    def patched(offset: int, raw: int) -> int:
        place = int(np.searchsorted(offsets, offset))
        return int(addends[place]) if place < len(offsets) and int(offsets[place]) == offset else raw

    return patched


@dataclass(frozen=True, slots=True)
class ModuleDetails:
    """What a shipped module says of itself.

    Attributes:
        info: `.modinfo`, name -> values in order.
        struct_size: bytes of `struct module` (`.gnu.linkonce.this_module`), which depends on the configuration.
    """

    build_id: str | None
    info: dict[str, list[str]]
    struct_size: int


def module_details(read: Reader, length: int) -> ModuleDetails:
    """Read a shipped module of `length` bytes.

    Raises:
        ElfError: it is not a module.
    """
    _, headers = headers_by(read, length)
    build_id = None
    struct_size = 0
    info: dict[str, list[str]] = {}
    for header in headers:
        if header.name == ".note.gnu.build-id":
            build_id = build_id_from_notes(read(header.offset, header.size))
        elif header.name == ".gnu.linkonce.this_module":
            struct_size = header.size
        elif header.name == ".modinfo":
            for entry in read(header.offset, header.size).split(b"\0"):
                name, found, value = entry.decode(errors="replace").partition("=")
                if found:
                    info.setdefault(name, []).append(value)
    return ModuleDetails(build_id, info, struct_size)
