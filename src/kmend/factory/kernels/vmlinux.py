"""The shipped vmlinux, cut down to what the factory asks of it: bytes, symbols, relocations, all by address.

Debian's debug vmlinux is linked with `--emit-relocs`, so every reference that the linker resolved is still named. The
0.6 GB file is read once, a tenth of it; what is kept (about 60 MB) is mapped, not loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kmend.core.errors import KmendError
from kmend.core.kernel import build_id_from_notes
from kmend.factory.elf.constants import (
    R_X86_64_PC32,
    R_X86_64_PLT32,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHN_LORESERVE,
    SHT_NOBITS,
    SHT_NULL,
    SHT_RELA,
    SHT_SYMTAB,
    STT_FILE,
    STT_SECTION,
)
from kmend.factory.elf.headers import Reader, SectionHeader, headers_by

SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
"""`Elf64_Sym` as numpy sees it."""
RELA = np.dtype([("offset", "<u8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])
"""`Elf64_Rela`: the two halves of `r_info` are type and symbol."""
CALL, JUMP, CONDITIONAL, SHORT_JUMP = 0xE8, 0xE9, 0x80, 0xEB
"""Opcode bytes before the displacement of `call`, `jmp`, (high half of the second one) `jcc`, and of the short `jmp`."""
_UNWANTED = (".orc_unwind", ".orc_unwind_ip", ".orc_lookup")


_DAMAGED = "the debug package is damaged, or not one of a kernel; delete it from the cache, it will be downloaded again"


class VmlinuxError(KmendError):
    """The debug vmlinux is not what the factory needs."""

    kind = "vmlinux"


@dataclass(frozen=True, slots=True)
class ImageSection:
    """A section that takes memory. `offset` is where its bytes lie in the kept image, -1 for NOBITS."""

    index: int
    name: str
    flags: int
    address: int
    size: int
    offset: int

    @property
    def executable(self) -> bool:
        """Whether it holds code."""
        return bool(self.flags & SHF_EXECINSTR)


@dataclass(frozen=True, slots=True)
class ImageSymbol:
    """A symbol of vmlinux. `file` is the name of the STT_FILE symbol before it for locals, and None for globals."""

    name: str
    address: int
    size: int
    type: int
    bind: int
    section: int
    file_block: int | None


@dataclass(frozen=True, slots=True)
class Reference:
    """A relocation that the linker applied at `address`; its meaning is `symbol_value + addend` (minus the place if relative)."""

    address: int
    type: int
    symbol: int
    addend: int


@dataclass(frozen=True, slots=True)
class References:
    """Every relocation of the kept sections, by rising address, as arrays of one length.

    Attributes:
        targets: symbol's value plus addend; branch_targets: the same for the fields of direct calls and jumps, 0 for the others.
    """

    places: npt.NDArray[np.uint64]
    types: npt.NDArray[np.uint32]
    targets: npt.NDArray[np.uint64]
    branch_targets: npt.NDArray[np.uint64]


def extract(read: Reader, length: int, folder: Path) -> str:
    """Cut the debug vmlinux of `length` bytes down into `folder` and return its build ID.

    Raises:
        ElfError: not an ELF file for x86-64.
        VmlinuxError: no symbols, no build ID, not linked with `--emit-relocs`, or a table that leads out of the file.
    """
    if length == 0:
        raise VmlinuxError("vmlinux is empty", hint=_DAMAGED)
    _, headers = headers_by(read, length)
    if sum(header.size for header in headers if header.type not in (SHT_NULL, SHT_NOBITS)) > length:
        raise VmlinuxError("the sections of vmlinux overlap", hint=_DAMAGED)
    sections: list[ImageSection] = []
    found = None
    with (folder / "image.bin").open("wb") as out:
        for number, header in enumerate(headers):
            if not header.flags & SHF_ALLOC or header.name in _UNWANTED:
                continue
            offset = -1
            if header.type != SHT_NOBITS:
                offset = out.tell()
                content = read(header.offset, header.size)
                out.write(content)
                if header.name == ".notes":
                    found = build_id_from_notes(content)
            sections.append(ImageSection(number, header.name, header.flags, header.address, header.size, offset))
    tables = [header for header in headers if header.type == SHT_SYMTAB]
    if len(tables) != 1:
        raise VmlinuxError(f"vmlinux holds {len(tables)} symbol tables and not one", hint=_DAMAGED)
    # In the order in which they lie in the file: it may be one that is decompressed as it is read.
    symbols = _array(read, tables[0], SYMBOL)
    strings = _strings(read, headers, tables[0])
    kept = {section.index for section in sections}
    relocations = [
        _array(read, header, RELA)
        for header in headers
        if header.type == SHT_RELA and header.info in kept and headers[header.info].name != ".data..percpu"
    ]
    relocations = [table for table in relocations if len(table)]
    if not relocations:
        raise VmlinuxError("vmlinux holds no relocations", hint="it must be linked with --emit-relocs, as Debian does")
    joined = np.concatenate(relocations)
    if not len(symbols) or int(joined["symbol"].max()) >= len(symbols) or int(symbols["name"].max()) >= len(strings):
        raise VmlinuxError("a relocation or symbol of vmlinux leads out of its table", hint=_DAMAGED)
    np.save(folder / "relocations.npy", joined[np.argsort(joined["offset"], kind="stable")])
    np.save(folder / "symbols.npy", symbols)
    (folder / "strings.bin").write_bytes(strings)
    (folder / "sections.json").write_text(json.dumps([asdict(section) for section in sections]))
    if found is None:
        raise VmlinuxError("vmlinux carries no GNU build ID", hint=_DAMAGED)
    return found


def _strings(read: Reader, headers: tuple[SectionHeader, ...], symbols: SectionHeader) -> bytes:
    """The string table of the symbols; its last byte ends the last string."""
    found = headers[symbols.link] if symbols.link < len(headers) else None
    content = read(found.offset, found.size) if found and found.type != SHT_NOBITS else b""
    if not content.endswith(b"\0"):
        raise VmlinuxError("the symbol names of vmlinux are missing or cut short", hint=_DAMAGED)
    return content


def _array(read: Reader, header: SectionHeader, kind: np.dtype[np.void]) -> npt.NDArray[np.void]:
    return np.frombuffer(read(header.offset, header.size - header.size % kind.itemsize), dtype=kind)


@contextmanager
def _kept(path: Path) -> Iterator[Path]:
    """A file of ours that is being read; numpy tells of damage by several kinds of errors."""
    try:
        yield path
    except (OSError, ValueError, EOFError, TypeError) as problem:
        raise VmlinuxError(
            f"{path} is missing or damaged: {problem}", hint="'kmend-factory kernel prepare REF' makes it anew"
        ) from problem


class Vmlinux:
    """Questions to the shipped vmlinux, answered from the folder that `extract` filled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with _kept(folder / "sections.json") as path:
            self.sections = tuple(ImageSection(**entry) for entry in json.loads(path.read_text()))
            if not self.sections:
                raise ValueError("it names no section")
        self._by_index = {section.index: section for section in self.sections}

    def check(self) -> None:
        """Open every file that is kept.

        Raises:
            OSError, ValueError: one is missing or cut short.
        """
        wanted = max((section.offset + section.size for section in self.sections if section.offset >= 0), default=0)
        if len(self._image) < wanted:
            raise ValueError(f"image.bin has {len(self._image)} bytes and not {wanted}")
        if not len(self._relocations) or not len(self._symbols) or not self._strings.endswith(b"\0"):
            raise ValueError("a table is empty")

    @cached_property
    def _image(self) -> npt.NDArray[np.uint8]:
        with _kept(self._folder / "image.bin") as path:
            return np.memmap(path, dtype=np.uint8, mode="r")

    @cached_property
    def _relocations(self) -> npt.NDArray[np.void]:
        with _kept(self._folder / "relocations.npy") as path:
            loaded: npt.NDArray[np.void] = np.load(path, mmap_mode="r")
            return loaded

    @cached_property
    def _relocation_offsets(self) -> npt.NDArray[np.uint64]:
        return np.ascontiguousarray(self._relocations["offset"])

    @cached_property
    def _symbols(self) -> npt.NDArray[np.void]:
        with _kept(self._folder / "symbols.npy") as path:
            loaded: npt.NDArray[np.void] = np.load(path)
            return loaded

    @cached_property
    def _strings(self) -> bytes:
        with _kept(self._folder / "strings.bin") as path:
            return path.read_bytes()

    def _name(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode(errors="replace")

    @cached_property
    def _file_starts(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero((self._symbols["info"] & 15) == STT_FILE)

    @cached_property
    def _first_global(self) -> int:
        found = np.flatnonzero(self._symbols["info"] >> 4)
        return int(found[0]) if len(found) else len(self._symbols)

    def symbol(self, number: int) -> ImageSymbol:
        """The symbol with that index of the symbol table."""
        entry = self._symbols[number]
        kind = int(entry["info"]) & 15
        section = int(entry["section"])
        if kind == STT_SECTION:
            home = self._by_index.get(section)
            name = home.name if home else ""
        else:
            name = self._name(int(entry["name"]))
        block = None
        if number < self._first_global:
            block = int(np.searchsorted(self._file_starts, number, side="right")) - 1
        return ImageSymbol(
            name,
            int(entry["value"]),
            int(entry["size"]),
            kind,
            int(entry["info"]) >> 4,
            section,
            block if block != -1 else None,
        )

    def file_block_name(self, block: int) -> str:
        """The name of the source file, without folders, whose local symbols form that block."""
        return self._name(int(self._symbols[int(self._file_starts[block])]["name"]))

    def file_blocks(self, name: str) -> tuple[int, ...]:
        """The blocks of local symbols whose STT_FILE symbol has that name (several files may share one)."""
        names = self._symbols["name"][self._file_starts]
        wanted = {int(offset) for offset in np.unique(names) if self._name(int(offset)) == name}
        return tuple(int(block) for block in np.flatnonzero(np.isin(names, list(wanted))))

    def block_symbols(self, block: int) -> Iterator[ImageSymbol]:
        """The local symbols of a file block, section symbols left out."""
        start = int(self._file_starts[block]) + 1
        end = int(self._file_starts[block + 1]) if block + 1 < len(self._file_starts) else self._first_global
        for number in range(start, end):
            if int(self._symbols[number]["info"]) & 15 != STT_SECTION:
                yield self.symbol(number)

    @cached_property
    def _by_name(self) -> dict[str, list[int]]:
        table: dict[str, list[int]] = {}
        names, infos, sections = (self._symbols[field].tolist() for field in ("name", "info", "section"))
        for number, (offset, info, section) in enumerate(zip(names, infos, sections, strict=True)):
            if offset and info & 15 not in (STT_SECTION, STT_FILE) and section:
                table.setdefault(self._name(offset), []).append(number)
        return table

    def named(self, name: str) -> tuple[ImageSymbol, ...]:
        """Every defined symbol of that name, in the order of the symbol table."""
        return tuple(self.symbol(number) for number in self._by_name.get(name, ()))

    @cached_property
    def _addresses(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        kinds = self._symbols["info"] & 15
        usable = (kinds != STT_SECTION) & (kinds != STT_FILE) & (self._symbols["section"] != 0)
        usable &= self._symbols["section"] < SHN_LORESERVE
        numbers = np.flatnonzero(usable)
        values = self._symbols["value"][numbers]
        order = np.argsort(values, kind="stable")
        return values[order], numbers[order]

    def symbols_at(self, address: int) -> tuple[ImageSymbol, ...]:
        """Symbols whose value is exactly `address`."""
        values, numbers = self._addresses
        low, high = np.searchsorted(values, [np.uint64(address), np.uint64(address + 1)])
        return tuple(self.symbol(int(number)) for number in numbers[int(low) : int(high)])

    def section_at(self, address: int) -> ImageSection | None:
        """The section in memory that holds `address` (the zero-based per-CPU section aside)."""
        return next(
            (s for s in self.sections if s.address and s.address <= address < s.address + s.size),
            None,
        )

    def content(self, address: int, size: int) -> bytes | None:
        """`size` bytes at `address` as shipped, before the kernel patches itself at boot; None if there are no such bytes."""
        section = self.section_at(address)
        if section is None or section.offset < 0 or address + size > section.address + section.size:
            return None
        start = section.offset + address - section.address
        return self._image[start : start + size].tobytes()

    def references(self, address: int, size: int) -> tuple[Reference, ...]:
        """The relocations that were applied in `[address, address + size)`, by rising address."""
        low, high = np.searchsorted(self._relocation_offsets, [np.uint64(address), np.uint64(address + size)])
        return tuple(
            Reference(int(entry["offset"]), int(entry["type"]), int(entry["symbol"]), int(entry["addend"]))
            for entry in self._relocations[int(low) : int(high)]
        )

    def all_references(self) -> References:
        """Every reference at once, for searches."""
        types = np.ascontiguousarray(self._relocations["type"])
        targets = self._symbols["value"][self._relocations["symbol"]] + self._relocations["addend"].astype(np.uint64)
        branches = np.where(np.isin(types, (R_X86_64_PC32, R_X86_64_PLT32)), targets + np.uint64(4), np.uint64(0))
        return References(self._relocation_offsets, types, targets, branches)

    def places_of_references(self, address: int) -> list[int]:
        """Where the kept sections refer to exactly `address`, as far as the linker has seen it."""
        found = self.all_references()
        wanted = np.uint64(address)
        places: list[int] = found.places[(found.targets == wanted) | (found.branch_targets == wanted)].tolist()
        return places

    def symbol_before(self, address: int) -> ImageSymbol | None:
        """The last function or object that starts at or before `address`."""
        values, numbers = self._addresses
        place = int(np.searchsorted(values, np.uint64(address), side="right")) - 1
        return self.symbol(int(numbers[place])) if place >= 0 else None

    def branches(self, starts: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Place and target of every direct call and jump between functions of `.text`, as two equal long arrays.

        Where both ends lie in one section of one object file the assembler has resolved a branch itself, and no relocation is
        left; those are found by looking at every byte that could be such an opcode. A few bytes inside other instructions look
        like one and lead to a function's start by chance, so the result holds a little too much, never too little.

        Args:
            starts: where functions start, rising.
        """
        section = next(section for section in self.sections if section.name == ".text")
        low, high = np.searchsorted(
            self._relocation_offsets, [np.uint64(section.address), np.uint64(section.address + section.size)]
        )
        chosen = self._relocations[int(low) : int(high)]
        chosen = chosen[np.isin(chosen["type"], (R_X86_64_PC32, R_X86_64_PLT32))]
        code = np.asarray(self._image[section.offset : section.offset + section.size])
        before = code[(chosen["offset"] - np.uint64(section.address + 1)).astype(np.int64)]
        chosen = chosen[(before == CALL) | (before == JUMP) | ((before & 0xF0) == CONDITIONAL)]
        places = [chosen["offset"]]
        targets = [self._symbols["value"][chosen["symbol"]] + (chosen["addend"] + 4).astype(np.uint64)]
        near = np.flatnonzero((code[:-4] == CALL) | (code[:-4] == JUMP)) + 1
        conditional = np.flatnonzero((code[:-6] == 0x0F) & ((code[1:-5] & 0xF0) == CONDITIONAL)) + 2
        wide = np.concatenate([near, conditional])
        displacement = sum(code[wide + n].astype(np.int64) << (8 * n) for n in range(4))
        displacement = np.where(displacement >= 1 << 31, displacement - (1 << 32), displacement)
        short = np.flatnonzero(code[:-1] == SHORT_JUMP) + 1
        ends = np.concatenate([wide + 4, short + 1])
        displacement = np.concatenate([displacement, code[short].astype(np.int8).astype(np.int64)])
        reached = (ends + displacement).astype(np.uint64) + np.uint64(section.address)
        exact = starts[np.minimum(np.searchsorted(starts, reached), len(starts) - 1)] == reached
        places.append((ends[exact] - 1).astype(np.uint64) + np.uint64(section.address))
        targets.append(reached[exact])
        found, leads = np.concatenate(places), np.concatenate(targets)
        inside = (leads >= np.uint64(section.address)) & (leads < np.uint64(section.address + section.size))
        return found[inside], leads[inside]

    @cached_property
    def traceable(self) -> frozenset[int]:
        """Addresses where ftrace can attach: the content of `__mcount_loc`, between its two bounds."""
        bounds = [self.named(name) for name in ("__start_mcount_loc", "__stop_mcount_loc")]
        if not all(bounds):
            raise VmlinuxError(
                "vmlinux has no table of traceable functions (__start_mcount_loc)",
                hint="livepatch needs ftrace",
            )
        start, stop = (found[0].address for found in bounds)
        table = self.content(start, stop - start)
        if table is None or stop < start or len(table) % 8:
            raise VmlinuxError(
                "the table of traceable functions lies outside of vmlinux, or is not whole", hint=_DAMAGED
            )
        return frozenset(np.frombuffer(table, dtype="<u8").tolist())
