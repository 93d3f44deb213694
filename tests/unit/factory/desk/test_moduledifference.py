"""Where two modules begin to differ, said in sections and symbols."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.factory.desk.moduledifference import first_difference
from kmend.factory.elf import ObjectFile, Relocation, Section, Symbol, write_object
from kmend.factory.elf.constants import R_X86_64_PLT32, SHF_ALLOC, SHF_EXECINSTR, STB_GLOBAL, STT_FUNC


def module() -> ObjectFile:
    """Two functions, a note, an import."""
    text = Section(".text.f", flags=SHF_ALLOC | SHF_EXECINSTR, content=bytes(range(32)), align=16)
    note = Section(".note.gnu.build-id", flags=SHF_ALLOC, content=b"build id")
    one = Symbol("one", 0, 16, STT_FUNC, section=text)
    two = Symbol("two", 16, 16, STT_FUNC, section=text)
    printk = Symbol("printk", bind=STB_GLOBAL)
    text.relocations.append(Relocation(4, R_X86_64_PLT32, printk, -4))
    text.klp_relocations["vmlinux"] = [Relocation(20, R_X86_64_PLT32, printk, -4)]
    return ObjectFile([note, text], [one, two, printk])


def _code(image: ObjectFile) -> None:
    image.sections[1].content = image.sections[1].content[:17] + b"\xcc" + image.sections[1].content[18:]


def _longer(image: ObjectFile) -> None:
    image.sections[1].content += b"\xcc"


def _flags(image: ObjectFile) -> None:
    image.sections[1].flags |= 1


def _added(image: ObjectFile) -> None:
    image.sections.append(Section(".data", content=b"x"))


def _addend(image: ObjectFile) -> None:
    image.sections[1].relocations[0].addend = 0


def _klp(image: ObjectFile) -> None:
    image.sections[1].klp_relocations["vmlinux"] = []


def _build_id(image: ObjectFile) -> None:
    image.sections[0].content = b"other id"


def _symbol(image: ObjectFile) -> None:
    image.symbols[0].bind = STB_GLOBAL


def _order(image: ObjectFile) -> None:
    image.sections.reverse()


@pytest.mark.parametrize(
    ("change", "part", "where"),
    [
        (_code, "section", (".text.f", "two", 17)),
        (_longer, "section", (".text.f", "", 32)),
        (_flags, "section", (".text.f", "", -1)),
        (_added, "section", (".data", "", -1)),
        (_addend, "relocations", (".text.f", "one", 4)),
        (_klp, "relocations", (".text.f", "two", 20)),
        (_build_id, "section", (".note.gnu.build-id", "", 0)),
        (_symbol, "symbols", ("", "one", -1)),
        (_order, "section", (".note.gnu.build-id", "", -1)),
    ],
)
def test_each_kind(change: Callable[[ObjectFile], None], part: str, where: tuple[str, str, int]) -> None:
    other = module()
    change(other)
    if change is not _build_id:
        # The build ID follows from everything else, so it is never the first thing to be told.
        next(section for section in other.sections if "note" in section.name).content = b"other id"
    found = first_difference(write_object(module()), write_object(other))
    assert found is not None
    assert (found.part, (found.section, found.symbol, found.offset)) == (part, where)
    assert found.detail


def test_the_same_bytes() -> None:
    assert first_difference(write_object(module()), write_object(module())) is None


def test_padding_that_no_section_holds() -> None:
    content = write_object(module())
    changed = content[:9] + b"\x01" + content[10:]
    found = first_difference(changed, content)
    assert found is not None
    assert found.part == "layout"
    assert "byte 0x9" in found.detail


@given(st.binary(max_size=200))
def test_what_is_no_object(content: bytes) -> None:
    found = first_difference(content, write_object(module()))
    assert found is not None
    assert found.part == "object"


@given(st.integers(0, len(write_object(module())) - 1), st.integers(1, 255))
def test_any_changed_byte_is_told(place: int, change: int) -> None:
    content = write_object(module())
    changed = content[:place] + bytes([content[place] ^ change]) + content[place + 1 :]
    assert first_difference(changed, content) is not None
