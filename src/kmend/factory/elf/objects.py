"""The editable model of a relocatable object. References are by object, never by index, so edits need no renumbering."""

from __future__ import annotations

from dataclasses import dataclass, field

from kmend.core.errors import KmendError
from kmend.factory.elf.constants import (
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_MERGE,
    SHF_STRINGS,
    SHF_WRITE,
    SHN_UNDEF,
    SHT_NOBITS,
    SHT_PROGBITS,
    STB_LOCAL,
    STT_NOTYPE,
    STT_SECTION,
)


class ElfError(KmendError):
    """The bytes are not an object file that kmend can work with."""

    kind = "elf"
    default_hint = (
        "if the file comes from outside it is damaged; if kmend made it, report this with the fix and the kernel ref"
    )


@dataclass(eq=False, slots=True)
class Relocation:
    """One entry of a RELA section: at `offset` of its section, `type` against `symbol` plus `addend`."""

    offset: int
    type: int
    symbol: Symbol
    addend: int


@dataclass(eq=False, slots=True)
class Section:
    """A section with its relocations (which are not a section of their own in this model).

    Attributes:
        content: bytes; empty for NOBITS.
        nobits_size: bytes that a NOBITS section takes in memory.
        klp_relocations: object name -> relocations that livepatch itself applies to this section.
    """

    name: str
    type: int = SHT_PROGBITS
    flags: int = 0
    content: bytes = b""
    align: int = 1
    entsize: int = 0
    nobits_size: int = 0
    relocations: list[Relocation] = field(default_factory=list)
    klp_relocations: dict[str, list[Relocation]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self.nobits_size if self.type == SHT_NOBITS else len(self.content)

    @property
    def allocated(self) -> bool:
        """Whether it takes memory at run time."""
        return bool(self.flags & SHF_ALLOC)

    @property
    def executable(self) -> bool:
        """Whether it holds code."""
        return bool(self.flags & SHF_EXECINSTR)

    @property
    def writable(self) -> bool:
        """Whether the running code may write to it."""
        return bool(self.flags & SHF_WRITE)

    @property
    def strings(self) -> bool:
        """Whether it holds mergeable strings."""
        return self.flags & (SHF_MERGE | SHF_STRINGS) == SHF_MERGE | SHF_STRINGS


@dataclass(eq=False, slots=True)
class Symbol:
    """An entry of the symbol table.

    Attributes:
        section: where it is defined; None when `index` says it all.
        index: SHN_UNDEF, SHN_ABS, SHN_LIVEPATCH...; not used when `section` is set.
    """

    name: str
    value: int = 0
    size: int = 0
    type: int = STT_NOTYPE
    bind: int = STB_LOCAL
    other: int = 0
    section: Section | None = None
    index: int = SHN_UNDEF

    @property
    def undefined(self) -> bool:
        """Whether another object must define it."""
        return self.section is None and self.index == SHN_UNDEF

    @property
    def is_section(self) -> bool:
        """Whether it stands for its section's start."""
        return self.type == STT_SECTION


@dataclass(eq=False, slots=True)
class ObjectFile:
    """A whole ET_REL file; `symbols` leaves out the null symbol."""

    sections: list[Section] = field(default_factory=list)
    symbols: list[Symbol] = field(default_factory=list)

    def section(self, name: str) -> Section | None:
        """The first section of that name."""
        return next((section for section in self.sections if section.name == name), None)

    def symbol(self, name: str) -> Symbol | None:
        """The first symbol of that name that is not a section's or file's."""
        return next((symbol for symbol in self.symbols if symbol.name == name and not symbol.is_section), None)
