"""A simulation of the kernel's module loader and of livepatch, run on the finished file before anybody loads it.

The rules are those of Linux 6.1: `kernel/module/main.c` (`elf_validity_check`, `check_modinfo`, `simplify_symbols`,
`check_version`), `arch/x86/kernel/module.c` (`__apply_relocate_add`) and `kernel/livepatch/core.c` (`klp_resolve_symbols`,
`klp_write_section_relocs`).
"""

from __future__ import annotations

import re
import struct
from itertools import pairwise

from kmend.core.errors import KmendError
from kmend.factory.build.resolve import VMLINUX, Modules
from kmend.factory.build.special import ORC, ORC_IP, ORC_SIZE, TABLES
from kmend.factory.elf import ObjectFile, Relocation, Section, Symbol, read_object
from kmend.factory.elf.constants import (
    R_X86_64_NONE,
    RELOCATION_NAMES,
    RELOCATION_WIDTH,
    SHN_ABS,
    SHN_COMMON,
    SHN_LIVEPATCH,
    SHT_NOBITS,
    STB_WEAK,
)
from kmend.factory.kernels.prepared import Kernel

_KLP_SYMBOL = re.compile(r"\.klp\.sym\.(?P<object>[^.]{1,55})\.(?P<name>[^,]{1,511}),(?P<sympos>\d+)")
PERCPU_MODULE_RESERVE = 8 << 10
"""Bytes of per-CPU data that all modules share (`include/linux/percpu.h`)."""
_FORBIDDEN = ("__ksymtab", "___ksymtab", "__kcrctab", ".BTF", ".init_array", ".ctors", ".klp.arch")


class LoaderError(KmendError):
    """The kernel would not load this module; a fault of kmend's, not of the fix."""

    kind = "loader-simulation"
    default_hint = "this is a fault of kmend's, not of the fix: report it, with the fix and the kernel ref"


def simulate(kernel: Kernel, module: bytes, name: str) -> tuple[str, ...]:
    """Check the unsigned module as the kernel will; returns the names of the checks passed.

    Raises:
        LoaderError: the kernel would refuse it, or would load something else than meant.
        ElfError: it is not even an object file.
    """
    image = read_object(module)
    checks = (
        ("sections", _check_sections),
        ("modinfo", _check_modinfo),
        ("this-module", _check_this_module),
        ("imports", _check_imports),
        ("relocations", _check_relocations),
        ("klp-symbols", _check_klp),
        ("unwind-tables", _check_unwind),
    )
    for _, check in checks:
        check(kernel, image, name)
    return tuple(label for label, _ in checks)


def _check_sections(kernel: Kernel, image: ObjectFile, name: str) -> None:
    for section in image.sections:
        if section.name.startswith(_FORBIDDEN):
            raise LoaderError(f"the section {section.name} has no place in a livepatch")
        if section.writable and section.executable:
            raise LoaderError(f"the section {section.name} is both writable and executable")
    if any(symbol.index == SHN_COMMON and symbol.section is None for symbol in image.symbols):
        raise LoaderError("the module holds common symbols; the kernel wants -fno-common")
    percpu = sum(section.size for section in image.sections if section.name == ".data..percpu")
    if percpu > PERCPU_MODULE_RESERVE:
        raise LoaderError(
            f"{percpu} bytes of per-CPU data; the kernel reserves {PERCPU_MODULE_RESERVE} for all modules"
        )


def modinfo(image: ObjectFile) -> dict[str, list[str]]:
    """The fields of `.modinfo`, name -> values in order."""
    section = image.section(".modinfo")
    fields: dict[str, list[str]] = {}
    for entry in (section.content if section else b"").split(b"\0"):
        label, found, value = entry.decode(errors="replace").partition("=")
        if found:
            fields.setdefault(label, []).append(value)
    return fields


def _check_modinfo(kernel: Kernel, image: ObjectFile, name: str) -> None:
    fields = modinfo(image)
    wanted = {
        "license": "GPL",
        "livepatch": "Y",
        "name": name,
        "vermagic": kernel.record.vermagic,
        "depends": "",
        "retpoline": "Y",
    }
    for label, value in wanted.items():
        if fields.get(label) != [value]:
            raise LoaderError(f"modinfo says {label}={fields.get(label)}, the kernel wants {value!r}")


def _check_this_module(kernel: Kernel, image: ObjectFile, name: str) -> None:
    section = image.section(".gnu.linkonce.this_module")
    if section is None or section.size != kernel.record.module_struct_size:
        size = section.size if section else 0
        raise LoaderError(f"struct module has {size} bytes, in the distro's modules {kernel.record.module_struct_size}")
    if name.encode() + b"\0" not in section.content:
        raise LoaderError(f"struct module does not carry the name {name}")
    if not any(relocation.symbol.name == "init_module" for relocation in section.relocations):
        raise LoaderError("struct module does not lead to init_module")


def _check_imports(kernel: Kernel, image: ObjectFile, name: str) -> None:
    section = image.section("__versions")
    table = section.content if section else b""
    if len(table) % 64:
        raise LoaderError("__versions is not made of whole entries")
    versions = {}
    for crc, label in struct.iter_unpack("<Q56s", table):
        versions[label.split(b"\0", 1)[0].decode()] = crc
    namespaces = set(modinfo(image).get("import_ns", []))
    imports = [symbol for symbol in image.symbols if symbol.undefined]
    for label in ["module_layout", *(symbol.name for symbol in imports)]:
        export = kernel.exports.get(label)
        if export is None or export.owner != "vmlinux":
            raise LoaderError(f"the kernel exports no symbol {label}")
        if versions.get(label) != export.crc:
            raise LoaderError(f"__versions has no CRC of {label}, or a wrong one")
        if export.namespace and export.namespace not in namespaces:
            raise LoaderError(f"{label} belongs to the namespace {export.namespace}, which is not imported")
    weak = [symbol.name for symbol in imports if symbol.bind == STB_WEAK]
    if weak:
        raise LoaderError(f"weak imports: {', '.join(weak)}")


def _check_relocations(kernel: Kernel, image: ObjectFile, name: str) -> None:
    for section in image.sections:
        written: list[tuple[int, int]] = []
        for relocation in section.relocations:
            written.append(_check_field(section, relocation))
            if relocation.symbol.index == SHN_LIVEPATCH and relocation.symbol.section is None:
                raise LoaderError(
                    f"{section.name} refers to {relocation.symbol.name} outside of livepatch's relocations"
                )
            if relocation.symbol.section is not None and not relocation.symbol.section.allocated and section.allocated:
                raise LoaderError(f"{section.name} refers to {relocation.symbol.section.name}, which is not loaded")
        for relocations in section.klp_relocations.values():
            written += [_check_field(section, relocation) for relocation in relocations]
        written.sort()
        for (_, end), (start, _) in pairwise(written):
            if start < end:
                raise LoaderError(f"two relocations of {section.name} write to the same bytes at {start:#x}")


def _check_field(section: Section, relocation: Relocation) -> tuple[int, int]:
    """One relocation as `__apply_relocate_add` sees it; returns the bytes that it writes."""
    if relocation.type not in RELOCATION_NAMES:
        raise LoaderError(f"the kernel's loader does not know relocation type {relocation.type} ({section.name})")
    if relocation.type == R_X86_64_NONE:
        return relocation.offset, relocation.offset
    end = relocation.offset + RELOCATION_WIDTH[relocation.type]
    if section.type == SHT_NOBITS or end > section.size:
        raise LoaderError(f"a relocation writes outside of {section.name}")
    if section.allocated and any(section.content[relocation.offset : end]):
        raise LoaderError(f"the bytes at {section.name}+{relocation.offset:#x} are not zero before relocation")
    return relocation.offset, end


def _check_klp(kernel: Kernel, image: ObjectFile, name: str) -> None:
    for symbol in image.symbols:
        if symbol.name.startswith(".klp.sym.") != (symbol.index == SHN_LIVEPATCH and symbol.section is None):
            raise LoaderError(f"{symbol.name} is not marked as livepatch marks its symbols")
    modules = Modules(kernel)
    rewritten = _rewritten_at_load(image)
    for section in image.sections:
        for owner, relocations in section.klp_relocations.items():
            if not section.allocated:
                raise LoaderError(f"livepatch cannot write to {section.name}, which is not loaded")
            for relocation in relocations:
                _check_klp_symbol(kernel, modules, relocation.symbol, owner)
                if owner != VMLINUX:
                    _check_late_field(section, relocation, rewritten)


def _rewritten_at_load(image: ObjectFile) -> dict[int, list[tuple[int, int]]]:
    """Section's `id` -> byte ranges that the kernel rewrites when it loads the livepatch, from the tables that say so."""
    ranges: dict[int, list[tuple[int, int]]] = {}
    for table, size, length_at in ((".altinstructions", 12, 10), (".parainstructions", 16, 9)):
        section = image.section(table)
        for relocation in section.relocations if section else ():
            home = relocation.symbol.section
            if section is None or home is None or relocation.offset % size:
                continue
            start = relocation.symbol.value + relocation.addend
            ranges.setdefault(id(home), []).append((start, start + section.content[relocation.offset + length_at]))
    return ranges


def _check_late_field(section: Section, relocation: Relocation, rewritten: dict[int, list[tuple[int, int]]]) -> None:
    """A module's klp relocations are applied when the module is there, long after the kernel has read the livepatch's tables."""
    if section.name in TABLES or section.name in (ORC, ORC_IP):
        raise LoaderError(f"{section.name} is read before {relocation.symbol.name} can be resolved")
    end = relocation.offset + RELOCATION_WIDTH[relocation.type]
    for start, stop in rewritten.get(id(section), ()):
        if start < end and relocation.offset < stop:
            raise LoaderError(f"the kernel rewrites {section.name}+{relocation.offset:#x} before livepatch does")


def _check_klp_symbol(kernel: Kernel, modules: Modules, symbol: Symbol, owner: str) -> None:
    match = _KLP_SYMBOL.fullmatch(symbol.name)
    if match is None or symbol.index in (0, SHN_ABS):
        raise LoaderError(f"livepatch cannot read the symbol name {symbol.name!r}")
    home, name, sympos = match["object"], match["name"], int(match["sympos"])
    if home != owner and (owner == VMLINUX or home not in modules.depends(owner)):
        raise LoaderError(f"{symbol.name} stands among the relocations of {owner}")
    found = kernel.kallsyms.named(name) if home == VMLINUX else modules.shipped(home).named(name)
    if not found:
        raise LoaderError(f"{home} has no symbol {name}")
    if (sympos == 0 and len(found) > 1) or sympos > len(found):
        raise LoaderError(f"{home} has {len(found)} symbols {name}; position {sympos} picks none")


def _check_unwind(kernel: Kernel, image: ObjectFile, name: str) -> None:
    """Without ORC for every function, stacks through the livepatch are unreliable and later transitions never end."""
    places, states = image.section(ORC_IP), image.section(ORC)
    if places is None or states is None or len(places.content) // 4 * ORC_SIZE != len(states.content):
        raise LoaderError("the unwind tables are missing or do not belong together")
    covered = {
        id(relocation.symbol.section) for relocation in places.relocations if relocation.symbol.section is not None
    }
    for section in image.sections:
        if section.executable and section.name.startswith(".text.kmend") and id(section) not in covered:
            raise LoaderError(f"{section.name} has no unwind information")
