"""Numbers of the ELF format and of the x86-64 psABI, under their standard names (System V gABI; psABI 1.0, section 4.4)."""

from __future__ import annotations

ET_REL = 1
ET_EXEC = 2
EM_X86_64 = 62

SHT_NULL = 0
SHT_PROGBITS = 1
SHT_SYMTAB = 2
SHT_STRTAB = 3
SHT_RELA = 4
SHT_NOTE = 7
SHT_NOBITS = 8
SHT_REL = 9
SHT_GROUP = 17
SHT_SYMTAB_SHNDX = 18

SHF_WRITE = 0x1
SHF_ALLOC = 0x2
SHF_EXECINSTR = 0x4
SHF_MERGE = 0x10
SHF_STRINGS = 0x20
SHF_INFO_LINK = 0x40
SHF_GROUP = 0x200
SHF_RELA_LIVEPATCH = 0x00100000
"""Relocations that livepatch applies itself (`include/uapi/linux/elf.h`)."""

SHN_UNDEF = 0
SHN_LORESERVE = 0xFF00
SHN_LIVEPATCH = 0xFF20
"""A symbol that livepatch resolves (`include/uapi/linux/elf.h`)."""
SHN_ABS = 0xFFF1
SHN_COMMON = 0xFFF2
SHN_XINDEX = 0xFFFF

STB_LOCAL = 0
STB_GLOBAL = 1
STB_WEAK = 2

STT_NOTYPE = 0
STT_OBJECT = 1
STT_FUNC = 2
STT_SECTION = 3
STT_FILE = 4

R_X86_64_NONE = 0
R_X86_64_64 = 1
R_X86_64_PC32 = 2
R_X86_64_PLT32 = 4
R_X86_64_32 = 10
R_X86_64_32S = 11
R_X86_64_PC8 = 15
"""Never in the kernel's objects; stands for a two-byte jump whose distance the assembler worked out."""
R_X86_64_PC64 = 24

RELOCATION_NAMES = {
    R_X86_64_NONE: "R_X86_64_NONE",
    R_X86_64_64: "R_X86_64_64",
    R_X86_64_PC32: "R_X86_64_PC32",
    R_X86_64_PLT32: "R_X86_64_PLT32",
    R_X86_64_32: "R_X86_64_32",
    R_X86_64_32S: "R_X86_64_32S",
    R_X86_64_PC64: "R_X86_64_PC64",
}
"""The types that the kernel's module loader applies (`arch/x86/kernel/module.c`, `__apply_relocate_add`)."""

RELOCATION_WIDTH = {
    R_X86_64_NONE: 0,
    R_X86_64_64: 8,
    R_X86_64_PC32: 4,
    R_X86_64_PLT32: 4,
    R_X86_64_32: 4,
    R_X86_64_32S: 4,
    R_X86_64_PC8: 1,
    R_X86_64_PC64: 8,
}
"""Bytes that each type writes."""

PC_RELATIVE = frozenset({R_X86_64_PC8, R_X86_64_PC32, R_X86_64_PLT32, R_X86_64_PC64})
