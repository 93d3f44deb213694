"""The simulated loader refuses what the kernel would refuse, each time for the reason that the kernel would have."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.fixmaker import Edit, FixMaker

from kmend.factory.build import Built, build
from kmend.factory.build.loader import LoaderError, modinfo, simulate
from kmend.factory.elf import ElfError, ObjectFile, Relocation, Section, Symbol, read_object, write_object
from kmend.factory.elf.constants import (
    R_X86_64_64,
    R_X86_64_PC32,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_WRITE,
    SHN_COMMON,
    SHN_LIVEPATCH,
    STB_GLOBAL,
    STB_WEAK,
)
from kmend.factory.kernels.prepared import Kernel

FUNCTION = ".text.kmend0.loadavg_proc_show"


@pytest.fixture(scope="module")
def built(prepared: Kernel, maker: FixMaker) -> Built:
    """A livepatch that is fine."""
    return build(prepared, [maker.fix(Edit("fs/proc/loadavg.c", "%u/%d %d\\n", "%u/%d %d mended\\n"))])


def section(image: ObjectFile, name: str) -> Section:
    """The section of that name, which must be there."""
    found = image.section(name)
    assert found is not None, name
    return found


def replaced(image: ObjectFile, name: str, old: bytes, new: bytes) -> None:
    """Change bytes of a section, once."""
    target = section(image, name)
    assert target.content.count(old) >= 1, name
    target.content = target.content.replace(old, new, 1)


def symbol(image: ObjectFile, start: str) -> Symbol:
    """The first symbol whose name starts so."""
    return next(one for one in image.symbols if one.name.startswith(start))


def klp(image: ObjectFile) -> list[Relocation]:
    """The function's relocations that livepatch applies."""
    return section(image, FUNCTION).klp_relocations["vmlinux"]


def test_a_good_one_passes_and_stays_what_it_is(prepared: Kernel, built: Built) -> None:
    name = built.manifest.module.name
    assert simulate(prepared, built.module, name) == built.manifest.proof.loader_checks
    again = write_object(read_object(built.module))
    assert simulate(prepared, again, name)
    fields = modinfo(read_object(built.module))
    assert fields["vermagic"] == [prepared.record.vermagic]
    assert fields["kmend_kernel"] == [prepared.identity.build_id]


def _wrong_crc(image: ObjectFile) -> None:
    versions = section(image, "__versions")
    versions.content = bytes([versions.content[0] ^ 1]) + versions.content[1:]


def _missing_version(image: ObjectFile) -> None:
    versions = section(image, "__versions")
    at = versions.content.index(b"seq_printf\0") - 8
    versions.content = versions.content[:at] + versions.content[at + 64 :]


def _cut_versions(image: ObjectFile) -> None:
    versions = section(image, "__versions")
    versions.content = versions.content[:-1]


def _unknown_import(image: ObjectFile) -> None:
    symbol(image, "seq_printf").name = "seq_unheard_of"


def _not_exported(image: ObjectFile) -> None:
    symbol(image, "seq_printf").name = "nr_running"


def _weak_import(image: ObjectFile) -> None:
    symbol(image, "seq_printf").bind = STB_WEAK


def _bytes_before_relocation(image: ObjectFile) -> None:
    target = section(image, FUNCTION)
    at = klp(image)[0].offset
    target.content = target.content[:at] + b"\x01" + target.content[at + 1 :]


def _two_relocations_of_one_field(image: ObjectFile) -> None:
    first = klp(image)[0]
    section(image, FUNCTION).relocations.append(
        Relocation(first.offset + 2, R_X86_64_PC32, symbol(image, "seq_printf"), 0)
    )


def _relocation_at_the_end(image: ObjectFile) -> None:
    target = section(image, FUNCTION)
    target.relocations.append(Relocation(target.size - 2, R_X86_64_PC32, symbol(image, "seq_printf"), 0))


def _unknown_relocation(image: ObjectFile) -> None:
    klp(image)[0].type = 9


def _name_without_position(image: ObjectFile) -> None:
    klp(image)[0].symbol.name = ".klp.sym.vmlinux.nr_running"


def _name_without_dot(image: ObjectFile) -> None:
    klp(image)[0].symbol.name = "klp.sym.vmlinux.nr_running,0"


def _other_object(image: ObjectFile) -> None:
    klp(image)[0].symbol.name = ".klp.sym.tls.nr_running,0"


def _no_such_symbol(image: ObjectFile) -> None:
    klp(image)[0].symbol.name = ".klp.sym.vmlinux.unheard_of,0"


def _position_beyond(image: ObjectFile) -> None:
    klp(image)[0].symbol.name = ".klp.sym.vmlinux.nr_running,2"


def _position_missing(image: ObjectFile) -> None:
    klp(image)[0].symbol.name = ".klp.sym.vmlinux.user_read,0"


def _not_marked(image: ObjectFile) -> None:
    klp(image)[0].symbol.index = 0


def _ordinary_symbol(image: ObjectFile) -> None:
    klp(image)[0].symbol = symbol(image, "seq_printf")


def _livepatch_symbol_in_an_ordinary_relocation(image: ObjectFile) -> None:
    target = section(image, FUNCTION)
    target.relocations.append(target.klp_relocations["vmlinux"].pop())


def _no_unwind_tables(image: ObjectFile) -> None:
    for name in (".orc_unwind", ".orc_unwind_ip"):
        gone = section(image, name)
        image.symbols = [one for one in image.symbols if one.section is not gone]
        image.sections.remove(gone)


def _one_unwind_entry_less(image: ObjectFile) -> None:
    states = section(image, ".orc_unwind")
    states.content = states.content[:-6]


def _function_without_unwind_entries(image: ObjectFile) -> None:
    places = section(image, ".orc_unwind_ip")
    target = section(image, FUNCTION)
    for relocation in places.relocations:
        if relocation.symbol.section is target:
            relocation.symbol = next(one for one in image.symbols if one.is_section and one.section is not target)


def _other_vermagic(image: ObjectFile) -> None:
    replaced(image, ".modinfo", b"preempt mod_unload", b"preempt xxx_unload")


def _other_licence(image: ObjectFile) -> None:
    replaced(image, ".modinfo", b"license=GPL", b"license=MIT")


def _no_livepatch(image: ObjectFile) -> None:
    replaced(image, ".modinfo", b"livepatch=Y", b"livepatch=N")


def _other_name(image: ObjectFile) -> None:
    replaced(image, ".modinfo", b"name=kmend_1_", b"name=kmend_2_")


def _other_struct(image: ObjectFile) -> None:
    module = section(image, ".gnu.linkonce.this_module")
    module.content += bytes(64)


def _struct_with_another_name(image: ObjectFile) -> None:
    replaced(image, ".gnu.linkonce.this_module", b"kmend_1_", b"kmend_2_")


def _no_init(image: ObjectFile) -> None:
    module = section(image, ".gnu.linkonce.this_module")
    module.relocations = [one for one in module.relocations if one.symbol.name != "init_module"]


def _exports(image: ObjectFile) -> None:
    image.sections.append(Section("__ksymtab_strings", flags=SHF_ALLOC, content=b"name\0"))


def _writable_code(image: ObjectFile) -> None:
    section(image, FUNCTION).flags = SHF_ALLOC | SHF_EXECINSTR | SHF_WRITE


def _common_symbol(image: ObjectFile) -> None:
    image.symbols.append(Symbol("shared", bind=STB_GLOBAL, index=SHN_COMMON, size=8))


def _much_per_cpu_data(image: ObjectFile) -> None:
    image.sections.append(Section(".data..percpu", flags=SHF_ALLOC | SHF_WRITE, content=bytes(9000)))


def _reference_to_what_is_not_loaded(image: ObjectFile) -> None:
    notes = Section(".not.loaded", content=bytes(8))
    image.sections.append(notes)
    image.symbols.append(Symbol("unloaded", section=notes))
    data = Section(".data.more", flags=SHF_ALLOC | SHF_WRITE, content=bytes(8), align=8)
    data.relocations.append(Relocation(0, R_X86_64_64, image.symbols[-1], 0))
    image.sections.append(data)


def _livepatch_relocation_of_what_is_not_loaded(image: ObjectFile) -> None:
    target = Section(".not.loaded", content=bytes(8))
    target.klp_relocations["vmlinux"] = [Relocation(0, R_X86_64_64, klp(image)[0].symbol, 0)]
    image.sections.append(target)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_wrong_crc, "has no CRC of module_layout, or a wrong one"),
        (_missing_version, "has no CRC of seq_printf"),
        (_cut_versions, "not made of whole entries"),
        (_unknown_import, "exports no symbol seq_unheard_of"),
        (_not_exported, "exports no symbol nr_running"),
        (_weak_import, "weak imports: seq_printf"),
        (_bytes_before_relocation, "are not zero before relocation"),
        (_two_relocations_of_one_field, "two relocations of .* write to the same bytes|not zero before relocation"),
        (_relocation_at_the_end, "writes outside of"),
        (_unknown_relocation, "does not know relocation type 9"),
        (_name_without_position, "cannot read the symbol name"),
        (_name_without_dot, "not marked as livepatch marks its symbols|cannot read the symbol name"),
        (_other_object, "stands among the relocations of vmlinux"),
        (_no_such_symbol, "has no symbol unheard_of"),
        (_position_beyond, "position 2 picks none"),
        (_position_missing, "2 symbols user_read; position 0 picks none"),
        (_not_marked, "not marked as livepatch marks its symbols|exports no symbol"),
        (_ordinary_symbol, "cannot read the symbol name 'seq_printf'"),
        (_livepatch_symbol_in_an_ordinary_relocation, "outside of livepatch's relocations"),
        (_no_unwind_tables, "unwind tables are missing"),
        (_one_unwind_entry_less, "do not belong together"),
        (_function_without_unwind_entries, "has no unwind information"),
        (_other_vermagic, "vermagic="),
        (_other_licence, "license="),
        (_no_livepatch, "livepatch="),
        (_other_name, "modinfo says name="),
        (_other_struct, "struct module has"),
        (_struct_with_another_name, "does not carry the name"),
        (_no_init, "does not lead to init_module"),
        (_exports, "__ksymtab_strings has no place"),
        (_writable_code, "both writable and executable"),
        (_common_symbol, "common symbols"),
        (_much_per_cpu_data, "9000 bytes of per-CPU data"),
        (_reference_to_what_is_not_loaded, "refers to .not.loaded, which is not loaded"),
        (_livepatch_relocation_of_what_is_not_loaded, "cannot write to .not.loaded, which is not loaded"),
    ],
)
def test_what_is_refused(prepared: Kernel, built: Built, damage: Callable[[ObjectFile], None], said: str) -> None:
    image = read_object(built.module)
    assert all(relocation.symbol.index == SHN_LIVEPATCH for relocation in klp(image))
    damage(image)
    with pytest.raises(LoaderError, match=said):
        simulate(prepared, write_object(image), built.manifest.module.name)


def test_a_name_that_is_not_its_own(prepared: Kernel, built: Built) -> None:
    with pytest.raises(LoaderError, match="name="):
        simulate(prepared, built.module, "kmend_9_00000000")


def test_half_a_module(prepared: Kernel, built: Built) -> None:
    with pytest.raises(ElfError):
        simulate(prepared, built.module[: len(built.module) // 2], built.manifest.module.name)
