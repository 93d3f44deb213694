"""The names of compilation units, from what compilers of two DWARF versions leave."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.factory.compiling import compile_c

from kmend.core.process import run
from kmend.factory.elf import ElfError
from kmend.factory.elf.dwarf import unit_names
from kmend.factory.elf.headers import read_headers
from kmend.factory.kernels.units import units_of

SOURCES = {
    "net/core/one.c": "int one(int n) { return n + 1; }",
    "net/core/two.c": "struct big { int a[9]; } b; int two(struct big *p) { return p->a[3]; }",
    "lib/empty.c": "static int never = 1;",
}


def linked(folder: Path, version: int, *, relocatable: bool) -> bytes:
    """The three sources compiled by their paths, and linked."""
    for path, text in SOURCES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text + "\n")
        run(["gcc", "-O1", "-g", f"-gdwarf-{version}", "-c", "-o", path.replace("/", "_"), path], cwd=folder)
    how = ["-r"] if relocatable else ["-e", "0", "--emit-relocs"]
    run(["ld", *how, "-o", "joined", *(path.replace("/", "_") for path in SOURCES)], cwd=folder)
    return (folder / "joined").read_bytes()


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("relocatable", [True, False], ids=["relocatable", "linked"])
def test_every_unit_by_its_path(tmp_path: Path, version: int, relocatable: bool) -> None:
    assert units_of(linked(tmp_path, version, relocatable=relocatable)) == tuple(SOURCES)


@pytest.mark.parametrize("version", [4, 5])
def test_a_single_object(version: int) -> None:
    """A name without a folder comes with the compiler's, where the line table says it (DWARF 5)."""
    (compiled,) = units_of(compile_c("int f(void) { return 1; }", "-g", f"-gdwarf-{version}"))
    (assembled,) = units_of(compile_c(".text\nf: ret\n", "-g", f"-gdwarf-{version}", suffix=".s"))
    assert (Path(compiled).name, Path(assembled).name) == ("unit.c", "unit.s")
    assert version == 5 or compiled == "unit.c"


def test_an_object_without_debug_information() -> None:
    assert units_of(compile_c("int f(void) { return 1; }", "-O1")) == ()


def test_a_name_that_stands_in_the_unit_itself_after_another_string() -> None:
    """Strings are stepped over by their bytes, whether or not those are text."""
    abbreviations = bytes([1, 0x11, 0, 0x25, 0x08, 0x03, 0x08, 0, 0, 0])
    body = b"\x01\xff\xfe compiler\0fs/name.c\0"
    info = struct.pack("<IHIB", 7 + len(body), 4, 0, 8) + body
    assert list(unit_names(info, abbreviations, b"", b"", lambda offset, raw: raw)) == ["fs/name.c"]


def _sections(version: int) -> tuple[bytes, ...]:
    content = compile_c("int f(int n) { return n; }", "-g", f"-gdwarf-{version}")
    _, headers = read_headers(content)
    bodies = {header.name: content[header.offset : header.offset + header.size] for header in headers}
    return tuple(bodies.get(f".debug_{name}", b"") for name in ("info", "abbrev", "str", "line_str"))


_DWARF = {version: _sections(version) for version in (4, 5)}


@given(
    st.sampled_from([4, 5]),
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    st.integers(0, 400),
    st.integers(-(2**31), 2**32),
)
def test_damaged_debug_information_is_an_elf_error(
    version: int, which: int, edits: list[tuple[int, int]], length: int, place: int
) -> None:
    parts = [bytearray(part) for part in _DWARF[version]]
    for at, value in edits:
        if parts[which]:
            parts[which][at % len(parts[which])] = value
    parts[which] = parts[which][:length]
    for patched in (lambda offset, raw: raw, lambda offset, raw: place):
        try:
            info, abbreviations, strings, line_strings = parts
            names = list(unit_names(info, abbreviations, strings, line_strings, patched))
        except ElfError:
            continue
        assert all(isinstance(name, str) for name in names)
