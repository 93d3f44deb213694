"""Objects are read; whatever is no object is an ElfError, within bounds."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.factory.compiling import compile_c

from kmend.factory.elf import ElfError, ObjectFile, read_object, write_object
from kmend.factory.elf.constants import SHN_ABS, SHT_NOBITS, STB_GLOBAL, STB_LOCAL, STT_FILE, STT_FUNC, STT_OBJECT
from kmend.factory.elf.headers import read_headers, string_at

TEXT = """
extern int outside(const char *);
static int counter = 7;
int zeros[100];
const char *words[] = { "one", "two" };
static int inner(int n) { return n + counter++; }
__attribute__((noinline)) int twice(int n) { return 2 * inner(n) + zeros[n]; }
int entry(int n) { return n > 3 ? outside("called") : twice(n) + outside(words[n]); }
"""
OBJECT = compile_c(TEXT)
_SECTIONS_AT, _SECTION_COUNT = struct.unpack_from("<Q", OBJECT, 40)[0], struct.unpack_from("<H", OBJECT, 60)[0]


def header_at(name: str) -> int:
    """Where the section's entry of the section table lies."""
    _, headers = read_headers(OBJECT)
    (number,) = [number for number, header in enumerate(headers) if header.name == name]
    return int(_SECTIONS_AT) + 64 * number


def changed(at: int, form: str, value: int) -> bytes:
    """The object with one number replaced."""
    content = bytearray(OBJECT)
    struct.pack_into(form, content, at, value)
    return bytes(content)


def test_what_is_read() -> None:
    image = read_object(OBJECT)
    text = image.section(".text.twice")
    assert text is not None
    assert text.executable
    assert text.allocated
    assert not text.writable
    twice = image.symbol("twice")
    assert twice is not None
    assert (twice.section, twice.value, twice.size) == (text, 0, len(text.content))
    assert (twice.type, twice.bind) == (STT_FUNC, STB_GLOBAL)
    counter = image.symbol("counter")
    assert counter is not None
    assert (counter.type, counter.bind) == (STT_OBJECT, STB_LOCAL)
    assert counter.section is not None
    assert counter.section.content == (7).to_bytes(4, "little")
    zeros = image.section(".bss.zeros")
    assert zeros is not None
    assert (zeros.type, zeros.size, zeros.content) == (SHT_NOBITS, 400, b"")
    entry = image.section(".text.entry")
    assert entry is not None
    assert {relocation.symbol.name for relocation in entry.relocations} >= {"outside", "twice"}
    outside = image.symbol("outside")
    assert outside is not None
    assert outside.undefined
    assert b"called\0" in b"".join(section.content for section in image.sections if section.strings)
    files = [symbol for symbol in image.symbols if symbol.type == STT_FILE]
    assert [(symbol.name, symbol.index) for symbol in files] == [("unit.c", SHN_ABS)]


def test_debug_sections_are_left_out_unless_wanted() -> None:
    content = compile_c(TEXT, "-O2", "-g")
    assert not [section for section in read_object(content).sections if section.name.startswith(".debug")]
    kept = read_object(content, keep_debug=True).section(".debug_info")
    assert kept is not None
    assert kept.relocations


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too short"),
        (b"\x7fELF" * 40, "not an ELF64 little-endian file for x86-64"),
        (changed(18, "<H", 183), "not an ELF64 little-endian file for x86-64"),
        (changed(16, "<H", 2), "not a relocatable object"),
        (changed(40, "<Q", 2**64 - 1), "not where the ELF header says"),
        (changed(60, "<H", 60000), "does not fit into the file"),
        (changed(62, "<H", 60000), "section names are missing"),
        (changed(header_at(".text.twice") + 24, "<Q", 2**63), "lies outside the file"),
        (changed(header_at(".text.twice") + 48, "<Q", 2**62), "alignment"),
        (changed(header_at(".text.twice") + 48, "<Q", 3), "alignment"),
        (changed(header_at(".bss.zeros") + 32, "<Q", 2**40), "bytes of memory"),
        (changed(header_at(".text.twice") + 4, "<I", 9), "REL entries"),
        (changed(header_at(".symtab") + 56, "<Q", 23), "symbol table is malformed"),
        (changed(header_at(".rela.text.twice") + 56, "<Q", 25), "relocations of .text.twice are malformed"),
        (changed(header_at(".rela.text.twice") + 20 + 4, "<Q", 0), ""),
    ],
)
def test_what_is_refused(content: bytes, message: str) -> None:
    if message:
        with pytest.raises(ElfError, match=message):
            read_object(content)
    else:
        read_or_refuse(content)


def test_sections_that_overlap_do_not_multiply_memory() -> None:
    """A thousand headers that all name the same bytes would be a thousand copies of them."""
    body = bytes(1_000_000)
    names = b"\0.data\0.shstrtab\0"
    start = 64
    table = b"".join(struct.pack("<IIQQQQIIQQ", 1, 1, 3, 0, start, len(body), 0, 0, 1, 0) for _ in range(1000))
    table += struct.pack("<IIQQQQIIQQ", 7, 3, 0, 0, start + len(body), len(names), 0, 0, 1, 0)
    where = start + len(body) + len(names)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 1, 62, 1, 0, 0, where, 0, 64, 0, 0, 64, 1001, 1000)
    tracemalloc.start()
    with pytest.raises(ElfError, match="overlap"):
        read_object(header + body + names + table)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


def test_names_are_bounded() -> None:
    assert string_at(b"\0name\0", 1) == "name"
    for table, offset in ((b"\0name", 1), (b"\0name\0", 6), (b"", 0), (b"\xff\0", 0), (b"a" * 5000 + b"\0", 0)):
        with pytest.raises(ElfError):
            string_at(table, offset)


def read_or_refuse(content: bytes) -> ObjectFile | None:
    """Read it, and if that works lay it out again; an ElfError at either is as good."""
    try:
        image = read_object(content)
        assert len(write_object(image)) <= 3 * len(content) + sum(section.align for section in image.sections)
    except ElfError:
        return None
    return image


@given(st.integers(0, len(OBJECT)))
def test_cut_short(length: int) -> None:
    read_or_refuse(OBJECT[:length])


_EDITS = st.lists(st.tuples(st.integers(0, len(OBJECT) - 1), st.integers(0, 255)), min_size=1, max_size=12)


@given(_EDITS)
@settings(max_examples=300)
def test_any_bytes_changed(edits: list[tuple[int, int]]) -> None:
    content = bytearray(OBJECT)
    for at, value in edits:
        content[at] = value
    read_or_refuse(bytes(content))


@given(
    st.integers(0, _SECTION_COUNT - 1),
    st.sampled_from(
        [(0, "<I"), (4, "<I"), (8, "<Q"), (24, "<Q"), (32, "<Q"), (40, "<I"), (44, "<I"), (48, "<Q"), (56, "<Q")]
    ),
    st.one_of(st.integers(0, 70), st.sampled_from([2**31, 2**32 - 1, 2**63, 2**64 - 1, len(OBJECT), 0xFFF2, 0xFFFF])),
)
@settings(max_examples=300)
def test_any_field_of_the_section_table_changed(number: int, field: tuple[int, str], value: int) -> None:
    at, form = field
    read_or_refuse(
        changed(int(_SECTIONS_AT) + 64 * number + at, form, value & (2**32 - 1 if form == "<I" else 2**64 - 1))
    )


@given(st.binary(max_size=400))
def test_any_bytes(content: bytes) -> None:
    read_or_refuse(content)
    read_or_refuse(OBJECT[:64] + content)
