"""Relocatable objects: read, edit, write; and the little that is needed of x86 instructions and DWARF.

`read_object` turns the bytes of an ET_REL file for x86-64 into an `ObjectFile` of sections, symbols and relocations that may
be edited; `write_object` lays one out again, reproducibly. `headers` reads the section table of any ELF file, large ones
included; `instructions` finds the instruction around a relocation; `dwarf` names the compilation units.
"""

from __future__ import annotations

from kmend.factory.elf.objects import ElfError, ObjectFile, Relocation, Section, Symbol
from kmend.factory.elf.reader import read_object
from kmend.factory.elf.writer import write_object

__all__ = ["ElfError", "ObjectFile", "Relocation", "Section", "Symbol", "read_object", "write_object"]
