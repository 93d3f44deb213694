"""A model is written, always the same way, and read back as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.factory.compiling import compile_c
from tests.unit.factory.elf.test_reader import OBJECT, TEXT

from kmend.core.process import run
from kmend.factory.elf import ElfError, ObjectFile, Relocation, Section, Symbol, read_object, write_object
from kmend.factory.elf.constants import (
    R_X86_64_PC32,
    RELOCATION_NAMES,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_WRITE,
    SHN_ABS,
    SHN_LIVEPATCH,
    SHT_NOBITS,
    SHT_PROGBITS,
    STB_GLOBAL,
    STB_LOCAL,
    STB_WEAK,
    STT_FUNC,
    STT_OBJECT,
    STT_SECTION,
)


def summary(image: ObjectFile) -> tuple[object, ...]:
    """All that a model says, comparable; symbols by their place among locals and others, as the file orders them."""
    ordered = [s for s in image.symbols if s.bind == STB_LOCAL] + [s for s in image.symbols if s.bind != STB_LOCAL]
    numbers = {id(symbol): number for number, symbol in enumerate(ordered)}
    places = {id(section): number for number, section in enumerate(image.sections)}

    def entries(relocations: list[Relocation]) -> list[tuple[int, int, int, int]]:
        return [(r.offset, r.type, numbers[id(r.symbol)], r.addend) for r in relocations]

    sections = [
        (s.name, s.type, s.flags, s.content, s.align, s.entsize, s.nobits_size, entries(s.relocations),
         {name: entries(group) for name, group in s.klp_relocations.items()})
        for s in image.sections
    ]  # fmt: skip
    symbols = [
        (s.name, s.value, s.size, s.type, s.bind, s.other, places[id(s.section)] if s.section else None, s.index)
        for s in ordered
    ]
    return sections, symbols


@pytest.mark.parametrize("flags", [(), ("-O0", "-g"), ("-O2", "-fPIC")])
def test_an_object_of_the_compiler(flags: tuple[str, ...]) -> None:
    image = read_object(compile_c(TEXT, *flags), keep_debug=True)
    written = write_object(image)
    assert summary(read_object(written, keep_debug=True)) == summary(image)
    assert write_object(image) == written


def test_other_tools_read_it(tmp_path: Path) -> None:
    (tmp_path / "unit.o").write_bytes(write_object(read_object(OBJECT)))
    run(["ld", "-r", "-o", tmp_path / "joined.o", tmp_path / "unit.o"])
    joined = read_object((tmp_path / "joined.o").read_bytes())
    before, after = (image.symbol("twice") for image in (read_object(OBJECT), joined))
    assert before is not None
    assert after is not None
    assert (before.size, before.type, before.bind) == (after.size, after.type, after.bind)
    told = run(["readelf", "-W", "--all", tmp_path / "unit.o"])
    assert b"Warning" not in told.stderr
    assert b"rror" not in told.stderr


_NAMES = st.text("abcdefghijklmnopqrstuvwxyz_.0123456789", min_size=1, max_size=12)


@st.composite
def models(draw: st.DrawFn) -> ObjectFile:
    """Any model that the writer accepts."""
    image = ObjectFile()
    for number in range(draw(st.integers(1, 5))):
        nobits = draw(st.booleans())
        content = b"" if nobits else draw(st.binary(min_size=8, max_size=40))
        image.sections.append(
            Section(
                f".{draw(_NAMES)}{number}x",
                SHT_NOBITS if nobits else SHT_PROGBITS,
                draw(st.sampled_from([SHF_ALLOC, SHF_ALLOC | SHF_WRITE, SHF_ALLOC | SHF_EXECINSTR])),
                content,
                draw(st.sampled_from([1, 2, 8, 64, 4096])),
                draw(st.integers(0, 24)),
                draw(st.integers(1, 1 << 20)) if nobits else 0,
            )
        )
    for _ in range(draw(st.integers(0, 6))):
        home = draw(st.sampled_from([None, *image.sections]))
        value = draw(st.integers(0, home.size)) if home else 0
        size = draw(st.integers(0, home.size - value)) if home else 0
        index = draw(st.sampled_from([0, SHN_ABS])) if home is None else 0
        image.symbols.append(
            Symbol(draw(_NAMES), value, size, draw(st.sampled_from([STT_FUNC, STT_OBJECT])),
                   draw(st.sampled_from([STB_LOCAL, STB_GLOBAL, STB_WEAK])), draw(st.integers(0, 3)), home, index)
        )  # fmt: skip
    for section in image.sections:
        image.symbols.append(Symbol(section.name, type=STT_SECTION, section=section))
        if section.type != SHT_NOBITS:
            section.relocations = draw(st.lists(_relocations(section, image.symbols), max_size=4))
            for name in draw(st.sets(st.sampled_from(["vmlinux", "tls", "virtio_net"]))):
                section.klp_relocations[name] = draw(
                    st.lists(_relocations(section, image.symbols), min_size=1, max_size=3)
                )
    return image


def _relocations(section: Section, symbols: list[Symbol]) -> st.SearchStrategy[Relocation]:
    return st.builds(
        Relocation,
        st.integers(0, section.size - 1),
        st.sampled_from([kind for kind in RELOCATION_NAMES if kind]),
        st.sampled_from(symbols),
        st.integers(-(2**63), 2**63 - 1),
    )


@given(models())
def test_any_model_comes_back(image: ObjectFile) -> None:
    written = write_object(image)
    assert write_object(image) == written
    again = read_object(written)
    assert summary(again) == summary(image)
    assert write_object(again) == written


def test_relocations_that_livepatch_applies() -> None:
    text = Section(".text.foo", flags=SHF_ALLOC | SHF_EXECINSTR, content=bytes(8))
    symbol = Symbol(".klp.sym.vmlinux.bar,0", bind=STB_GLOBAL, index=SHN_LIVEPATCH)
    text.klp_relocations["vmlinux"] = [Relocation(4, R_X86_64_PC32, symbol, -4)]
    again = read_object(write_object(ObjectFile([text], [symbol])))
    section = again.section(".text.foo")
    assert section is not None
    assert section.relocations == []
    ((name, (relocation,)),) = section.klp_relocations.items()
    assert (name, relocation.offset, relocation.symbol.name, relocation.symbol.index) == (
        "vmlinux",
        4,
        symbol.name,
        SHN_LIVEPATCH,
    )


def test_what_refers_to_nothing_is_refused() -> None:
    text = Section(".text", flags=SHF_ALLOC, content=bytes(8))
    stranger = Symbol("stranger", bind=STB_GLOBAL)
    text.relocations.append(Relocation(0, R_X86_64_PC32, stranger, 0))
    with pytest.raises(ElfError, match="'stranger', which is not in the symbol table"):
        write_object(ObjectFile([text], []))
    elsewhere = Symbol("elsewhere", section=Section(".data"))
    with pytest.raises(ElfError, match="section that is not in the file"):
        write_object(ObjectFile([], [elsewhere]))
