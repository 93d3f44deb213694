"""Mutations that know the form of what they damage: bytes alone seldom get past the first check of a patch or an object."""

from __future__ import annotations

import random
import re
import struct
import zlib
from collections.abc import Callable

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SHDR_FIELDS = ((0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 8), (56, 8))
_SYMBOL_FIELDS = ((0, 4), (4, 1), (5, 1), (6, 2), (8, 8), (16, 8))
_RELA_FIELDS = ((0, 8), (8, 4), (12, 4), (16, 8))
_EHDR_FIELDS = ((16, 2), (18, 2), (40, 8), (52, 2), (58, 2), (60, 2), (62, 2))
_SHT_SYMTAB, _SHT_RELA, _SHT_NOBITS = 2, 4, 8
_EDGES = (
    0, 1, 2, 3, 7, 8, 11, 12, 24, 0x7F, 0x80, 0xFF, 0x100, 0xFFF1, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
    1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
)  # fmt: skip
_PATCH_LINES = (
    b"@@ -1 +1 @@", b"@@ -0,0 +1,2 @@", b"@@ -1,0 +1 @@", b"@@ -9999999,9999999 +1 @@", b"--- a/kernel/x.c",
    b"+++ b/kernel/x.c", b"--- /dev/null", b"+++ /dev/null", b"diff --git a/x.c b/x.c", b"GIT binary patch",
    b"Binary files a/x and b/x differ", b"new file mode 100644", b"new file mode 120000", b"deleted file mode 100644",
    b"old mode 100644", b"rename from a", b"index 0..1", b"\\ No newline at end of file", b"-- ", b"--", b"---", b"",
    b" ", b"-", b"+", b"Index: x", b"Only in a: x", b"+++ b/../../etc/passwd", b"CVE: CVE-2026-1", b"CVE: x",
    b"Kmend-Allow: init-code f -- because", b"Kmend-Allow: x", b"Subject: =?utf-8?q?=C3=A9?= x",
    b"Subject: =?utf-8?b?=?=", b"Subject: [[[", b"Description: x", b" .", b"From: \xff", b"+#if 0", b"+#else", b"+#endif",
    b"+/*", b"+*/", b'+"', b"+(", b"+)", b"+#define x \\", b"+#line 5", b"-{", b"+}", b"+\x00", b"+\r", b"+\xff\xfe",
    b"+\\",
)  # fmt: skip
"""Lines that mean something in a patch."""
_LIST_LINES = (
    b"ffffffff81000000 T _text", b"ffffffff81000000 t", b"0000000000000000 A x", b"ffffffff81000000 T  ", b"0x0 x y z w",
    b"0x12345678\tname\tvmlinux\tEXPORT_SYMBOL_GPL\t", b"0x12345678\tname\ta/b-c\tEXPORT_SYMBOL\tNS", b"\t\t\t\t", b"\xff\xfe",
    b"CONFIG_X=y", b"# CONFIG_X is not set", b"\x85", b"\x0c",
)  # fmt: skip


def mutate_patch(data: bytes, rng: random.Random) -> bytes:
    """A patch file with some lines or counts changed."""
    lines = data.split(b"\n")
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _mutate_lines(lines, rng, _PATCH_LINES)
    return b"\n".join(lines)


def mutate_list(data: bytes, rng: random.Random) -> bytes:
    """A list of symbols, exports or options with some lines changed."""
    lines = data.split(b"\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        _mutate_lines(lines, rng, _LIST_LINES)
    return b"\n".join(lines)


def _mutate_lines(lines: list[bytes], rng: random.Random, known: tuple[bytes, ...]) -> None:
    at = rng.randrange(len(lines))
    match rng.randrange(9):
        case 0:
            if len(lines) > 1:
                del lines[at]
        case 1:
            lines.insert(at, lines[rng.randrange(len(lines))])
        case 2:
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            lines.insert(at, rng.choice(known))
        case 4:
            lines[at] = rng.choice(known)
        case 5:
            lines[at] = re.sub(
                rb"\d+", lambda match: _other_number(match[0], rng), lines[at], count=rng.randrange(1, 4)
            )
        case 6:
            lines[at] = bytes([rng.choice(b" +-\\@\t/*#\"'(){}")]) + lines[at][rng.randrange(2) :]
        case 7:
            place = rng.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + rng.randbytes(rng.randrange(1, 4)) + lines[at][place + rng.randrange(2) :]
        case _:
            if rng.randrange(8) == 0:
                del lines[at + 1 :]
            else:
                block = lines[at : at + rng.randrange(1, 12)]
                place = rng.randrange(len(lines))
                lines[place:place] = block


def _other_number(found: bytes, rng: random.Random) -> bytes:
    value = int(found[:9])
    return str(abs(rng.choice((value + 1, value - 1, 0, 1, rng.randrange(100), 9_999_999, 10**12)))).encode()


def mutate_object(data: bytes, rng: random.Random) -> bytes:
    """An object file with some fields of its header, sections, symbols, relocations or contents changed."""
    image = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        _mutate_elf(image, rng)
    if rng.randrange(40) == 0:
        del image[rng.randrange(len(image) + 1) :]
    return bytes(image)


def _mutate_elf(image: bytearray, rng: random.Random) -> None:
    table = _section_table(image)
    if not table or rng.randrange(16) == 0:
        if len(image) >= _EHDR.size:
            _change_field(image, 0, _EHDR_FIELDS, rng)
        return
    of_type: dict[int, list[int]] = {}
    for at in table:
        of_type.setdefault(int.from_bytes(image[at + 4 : at + 8], "little"), []).append(at)
    choice = rng.randrange(10)
    if choice < 3:
        _change_field(image, rng.choice(table), _SHDR_FIELDS, rng)
    elif choice < 5 and _SHT_SYMTAB in of_type:
        _change_entry(image, rng.choice(of_type[_SHT_SYMTAB]), 24, _SYMBOL_FIELDS, rng)
    elif choice < 8 and _SHT_RELA in of_type:
        _change_entry(image, rng.choice(of_type[_SHT_RELA]), 24, _RELA_FIELDS, rng)
    elif choice == 8:
        one, other = rng.choice(table), rng.choice(table)
        image[one : one + _SHDR.size], image[other : other + _SHDR.size] = (
            image[other : other + _SHDR.size],
            image[one : one + _SHDR.size],
        )
    else:
        _, kind, _, _, offset, size, *_ = _SHDR.unpack_from(image, rng.choice(table))
        if kind != _SHT_NOBITS and 0 < size <= len(image) - offset:
            place = offset + rng.randrange(size)
            image[place : place + 1] = bytes([rng.choice((0, 0xFF, 0xE8, 0xE9, 0x0F, rng.randrange(256)))])


def _section_table(image: bytearray) -> list[int]:
    """Where the entries of the section table are."""
    if len(image) < _EHDR.size:
        return []
    start, count = int.from_bytes(image[40:48], "little"), int.from_bytes(image[60:62], "little")
    return [at for n in range(count) if (at := start + n * _SHDR.size) + _SHDR.size <= len(image)]


def _change_entry(
    image: bytearray, header: int, size: int, fields: tuple[tuple[int, int], ...], rng: random.Random
) -> None:
    _, _, _, _, offset, length, *_ = _SHDR.unpack_from(image, header)
    count = min(length, max(0, len(image) - offset)) // size
    if count:
        _change_field(image, offset + rng.randrange(count) * size, fields, rng)


def _change_field(image: bytearray, start: int, fields: tuple[tuple[int, int], ...], rng: random.Random) -> None:
    place, width = rng.choice(fields)
    at = start + place
    value = int.from_bytes(image[at : at + width], "little")
    other = rng.choice((
        rng.choice(_EDGES), value + 1, value - 1, value + 8, value - 8, value ^ (1 << rng.randrange(8 * width)), -value,
        rng.randrange(64), len(image), len(image) - 1,
    ))  # fmt: skip
    image[at : at + width] = (other % (1 << (8 * width))).to_bytes(width, "little")


def mutate_package(data: bytes, rng: random.Random) -> bytes:
    """A package with some bytes changed: anywhere, or in the index of its `.xz` file with the check sums made right again."""
    image = bytearray(data)
    end = image.rfind(b"YZ") + 2
    index = end - 12 - (int.from_bytes(image[end - 8 : end - 4], "little") + 1) * 4
    if end > 12 and 0 < index < end and rng.randrange(2):
        place = rng.randrange(index, end - 16)
        image[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, image[place] ^ 1 << rng.randrange(8)))
        image[end - 16 : end - 12] = zlib.crc32(image[index : end - 16]).to_bytes(4, "little")
        if rng.randrange(4) == 0:
            image[end - 8 + rng.randrange(6)] = rng.randrange(256)
            image[end - 12 : end - 8] = zlib.crc32(image[end - 8 : end - 2]).to_bytes(4, "little")
        return bytes(image)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if image:
            image[rng.randrange(len(image))] = rng.randrange(256)
    if rng.randrange(10) == 0:
        del image[rng.randrange(len(image) + 1) :]
    return bytes(image)


Mutator = Callable[[bytes, random.Random], bytes]
