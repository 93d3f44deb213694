"""A module with the debug information of the objects that its functions come from; GNU addr2line is the judge."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.factory.compiling import KERNEL_FLAGS, compile_c

from kmend.factory.build.debugmodule import debug_module, debug_symbols
from kmend.factory.desk.sourcelines import source_lines
from kmend.factory.elf import ElfError, ObjectFile, Section, Symbol, read_object, write_object
from kmend.factory.elf.constants import SHF_ALLOC, SHF_EXECINSTR, STT_FUNC

ONE = """\
int left_behind(int a) { return a * 3 + 1; }
int zero(int a)
{
	return a + 1;
}
int (*taken)(int) = left_behind;
"""
TWO = """\
int other(int);
__attribute__((section(".sched.text"))) int first(int a)
{
	return other(a) + 1;
}
__attribute__((section(".sched.text"))) int second(int a)
{
	return other(a + 5) + 7;
}
"""


def objects(*flags: str) -> list[bytes]:
    return [compile_c(text, *KERNEL_FLAGS, "-g", *flags) for text in (ONE, TWO)]


def module_of(parts: list[bytes], *names: str) -> bytes:
    """A module with those functions, each in the section that the extractor gives it; the first ones of `parts[0]`."""
    image = ObjectFile()
    for number, part in enumerate(parts):
        for symbol in read_object(part).symbols:
            if symbol.name in names and symbol.section is not None:
                code = symbol.section.content[symbol.value : symbol.value + symbol.size]
                section = Section(
                    f".text.kmend{number}.{symbol.name}", flags=SHF_ALLOC | SHF_EXECINSTR, content=code, align=16
                )
                image.sections.append(section)
                image.symbols.append(Symbol(symbol.name, 0, symbol.size, STT_FUNC, section=section))
    return write_object(image)


@pytest.mark.parametrize("version", ["-gdwarf-4", "-gdwarf-5"])
def test_lines_of_several_objects(version: str, tmp_path: Path) -> None:
    parts = objects(version)
    path = tmp_path / "module.debug"
    path.write_bytes(debug_module(module_of(parts, "zero", "first", "second"), parts))
    image = read_object(path.read_bytes())
    for name, lines in (("zero", {3, 4, 5}), ("first", {3, 4, 5}), ("second", {7, 8, 9})):
        (symbol,) = debug_symbols(image, name)
        assert symbol.section is not None
        addresses = range(symbol.value, symbol.value + symbol.size)
        found = source_lines(path, symbol.section.name, addresses)
        assert set(found) == set(addresses), "every byte has its line"
        assert {told[0].function for told in found.values()} == {name}
        assert {told[0].line for told in found.values()} <= lines | {2 if name != "second" else 6}
        assert len({told[0].line for told in found.values()}) > 1


def test_the_modules_own_content_stays(tmp_path: Path) -> None:
    parts = objects()
    module = module_of(parts, "zero")
    before, after = read_object(module), read_object(debug_module(module, parts))
    assert [section.content for section in after.sections] == [section.content for section in before.sections]
    names = {symbol.name for symbol in before.symbols}
    assert names <= {symbol.name for symbol in after.symbols}


def test_few_relocations_stay() -> None:
    parts = objects()
    image = read_object(debug_module(module_of(parts, "zero"), parts), keep_debug=True)
    debug = [section for section in image.sections if section.name.startswith(".debug_")]
    assert {"debug_info", "debug_line", "debug_abbrev"} <= {section.name[1:] for section in debug}
    targets = {entry.symbol.section.name for s in debug for entry in s.relocations if entry.symbol.section is not None}
    assert targets == {".text.kmend0.zero"}


def test_the_same_input_gives_the_same_bytes() -> None:
    parts = objects()
    module = module_of(parts, "zero", "first")
    assert debug_module(module, parts) == debug_module(module, parts)


def test_objects_without_debug_information() -> None:
    parts = [compile_c(ONE, *KERNEL_FLAGS)]
    module = module_of(parts, "zero")
    assert [s.name for s in read_object(debug_module(module, parts)).sections] == [".text.kmend0.zero"]


def test_compressed_debug_information_is_told() -> None:
    parts = objects("-gz=zlib")
    with pytest.raises(ElfError, match="not plain debug information"):
        debug_module(module_of(parts, "zero"), parts)
