"""Which source file was compiled into which object: vmlinux or a module. DWARF says it exactly.

The compilation units' names are paths relative to the source tree, as kbuild passes them to the compiler.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kmend.core.kernel import build_id_from_notes
from kmend.factory.elf.constants import ET_REL, SHT_RELA
from kmend.factory.elf.dwarf import unit_names
from kmend.factory.elf.headers import Buffer, SectionHeader, read_headers
from kmend.factory.kernels.vmlinux import RELA


def units_of(image: Buffer) -> tuple[str, ...]:
    """The source files of vmlinux or of a module's debug file, in file order.

    Raises:
        ElfError: the debug information cannot be read.
    """
    view = memoryview(image).cast("B")
    kind, headers = read_headers(image)

    def body(name: str) -> memoryview:
        header = next((header for header in headers if header.name == name), None)
        return view[header.offset : header.offset + header.size] if header else view[:0]

    if kind == ET_REL:
        offsets, addends = _relocated(view, headers)

        def patched(offset: int, raw: int) -> int:
            place = int(np.searchsorted(offsets, offset))
            return int(addends[place]) if place < len(offsets) and int(offsets[place]) == offset else raw

    else:

        def patched(offset: int, raw: int) -> int:
            return raw

    names = unit_names(body(".debug_info"), body(".debug_abbrev"), body(".debug_str"), body(".debug_line_str"), patched)
    return tuple(dict.fromkeys(names))


def _relocated(view: memoryview, headers: tuple[SectionHeader, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and addends of `.debug_info`'s relocations, by rising offset (their symbols are section starts)."""
    header = next((h for h in headers if h.type == SHT_RELA and h.name == ".rela.debug_info"), None)
    if header is None:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    table = np.frombuffer(view[header.offset : header.offset + header.size], dtype=RELA)
    order = np.argsort(table["offset"], kind="stable")
    return table["offset"][order], table["addend"][order]


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


def module_details(image: bytes) -> ModuleDetails:
    """Read a shipped module.

    Raises:
        ElfError: it is not a module.
    """
    _, headers = read_headers(image)
    build_id = None
    struct_size = 0
    info: dict[str, list[str]] = {}
    for header in headers:
        body = image[header.offset : header.offset + header.size]
        if header.name == ".note.gnu.build-id":
            build_id = build_id_from_notes(body)
        elif header.name == ".gnu.linkonce.this_module":
            struct_size = header.size
        elif header.name == ".modinfo":
            for entry in body.split(b"\0"):
                name, found, value = entry.decode(errors="replace").partition("=")
                if found:
                    info.setdefault(name, []).append(value)
    return ModuleDetails(build_id, info, struct_size)
