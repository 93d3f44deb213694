"""Cutting a vmlinux down: what it must hold, and what a damaged one says."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tests.fuzz.samples import sample_program

from kmend.core.errors import KmendError
from kmend.factory.elf import ElfError
from kmend.factory.elf.constants import SHT_RELA, SHT_SYMTAB
from kmend.factory.elf.headers import read_headers, reader_of
from kmend.factory.kernels.vmlinux import Vmlinux, VmlinuxError, extract


def _extract(content: bytes, folder: Path) -> str:
    return extract(reader_of(content), len(content), folder)


def _changed(kind: int, field: int, width: int, value: int) -> bytes:
    """The sample with a field of the last section header of that type changed."""
    content = bytearray(sample_program())
    _, headers = read_headers(bytes(content))
    (start,) = struct.unpack_from("<Q", content, 40)
    number = max(n for n, header in enumerate(headers) if header.type == kind)
    at = start + 64 * number + field
    content[at : at + width] = value.to_bytes(width, "little")
    return bytes(content)


def test_a_sound_one(tmp_path: Path) -> None:
    assert _extract(sample_program(), tmp_path) == "07" * 20
    found = Vmlinux(tmp_path)
    (function,) = found.named("d")
    assert found.symbols_at(function.address) == (function,)
    assert function.address in found.traceable
    assert [found.symbol(r.symbol).name for r in found.references(function.address, function.size)]


def test_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(VmlinuxError, match="empty"):
        _extract(b"", tmp_path)


def test_a_section_table_that_leads_out_of_the_file(tmp_path: Path) -> None:
    content = bytearray(sample_program())
    content[40:48] = (1 << 40).to_bytes(8, "little")
    with pytest.raises(ElfError, match="section table"):
        _extract(bytes(content), tmp_path)


def test_a_symbol_table_without_names(tmp_path: Path) -> None:
    with pytest.raises(VmlinuxError, match="symbol names"):
        _extract(_changed(SHT_SYMTAB, 40, 4, 5000), tmp_path)


def test_relocations_against_symbols_that_do_not_exist(tmp_path: Path) -> None:
    content = bytearray(sample_program())
    _, headers = read_headers(bytes(content))
    table = next(header for header in headers if header.type == SHT_RELA and header.size)
    content[table.offset + 12 : table.offset + 16] = (1 << 30).to_bytes(4, "little")
    with pytest.raises(VmlinuxError, match="leads out of its table"):
        _extract(bytes(content), tmp_path)


def test_sections_that_overlap(tmp_path: Path) -> None:
    content = _changed(SHT_SYMTAB, 24, 8, 0)
    with pytest.raises(KmendError, match=r"overlap|out of its table|symbol"):
        _extract(_changed_again(content), tmp_path)


def _changed_again(content: bytes) -> bytes:
    """Every section with a content takes the whole file."""
    changed = bytearray(content)
    (start,) = struct.unpack_from("<Q", changed, 40)
    (count,) = struct.unpack_from("<H", changed, 60)
    for number in range(1, count - 1):
        changed[start + 64 * number + 24 : start + 64 * number + 40] = struct.pack("<QQ", 0, len(changed))
    return bytes(changed)


@pytest.mark.parametrize("moved", [-4, 4, -(1 << 20), 1 << 40])
def test_a_table_of_traceable_functions_that_is_not_whole(tmp_path: Path, moved: int) -> None:
    content = bytearray(sample_program())
    _, headers = read_headers(bytes(content))
    symbols = next(header for header in headers if header.type == SHT_SYMTAB)
    names = headers[symbols.link]
    wanted = bytes(content).index(b"\0__stop_mcount_loc\0", names.offset) + 1 - names.offset
    for at in range(symbols.offset, symbols.offset + symbols.size, 24):
        if int.from_bytes(content[at : at + 4], "little") == wanted:
            value = int.from_bytes(content[at + 8 : at + 16], "little")
            content[at + 8 : at + 16] = (value + moved).to_bytes(8, "little", signed=True)
    _extract(bytes(content), tmp_path)
    with pytest.raises(VmlinuxError, match="table of traceable functions"):
        _ = Vmlinux(tmp_path).traceable
