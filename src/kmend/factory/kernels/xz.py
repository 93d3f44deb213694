"""Any part of an `.xz` file without decompressing what stands before it, as far as the file's blocks allow.

`xz -T` (and so dpkg-deb) compresses in independent blocks, and the index at the file's end says where each begins; what is
needed of a gigabyte is then often a fraction. The format is that of "The .xz File Format", version 1.1.0. The blocks' own check
sums are not computed: packages are verified as a whole before they are read.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from kmend.core.errors import MalformedError

MAX_BLOCK = 64 * 1024 * 1024
"""Largest block that is taken, in decompressed bytes; `xz -6 -T` makes blocks of 24 MiB."""
MAX_BLOCKS = 100_000
_HEADER_MAGIC, _FOOTER_MAGIC = b"\xfd7zXZ\0", b"YZ"
_FOOTER = struct.Struct("<II2s2s")
_LZMA2 = 0x21
MAX_INDEX = 4 * 1024 * 1024
_KEPT = 2
"""Decompressed blocks that are kept."""
_PORTION = 64 * 1024


class XzError(MalformedError):
    """The file is damaged, or compressed in a way that is not read."""

    kind = "xz"
    exit_status = 1
    default_hint = "delete the package from the cache: it will be downloaded again"


class NoBlocksError(XzError):
    """The file is not an `.xz` file of blocks that can be reached one by one."""

    kind = "no-blocks"


@dataclass(frozen=True, slots=True)
class _Block:
    """Where a block lies: offsets and sizes in bytes, of the compressed and of the decompressed data."""

    offset: int
    packed: int
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class FilePart:
    """A part of an open file, where the `.xz` file lies."""

    stream: BinaryIO
    offset: int
    size: int

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` of the part on, fewer at its end."""
        self.stream.seek(self.offset + offset)
        return self.stream.read(max(0, min(size, self.size - offset)))


class _Unpacking:
    """A block, decompressed as far as somebody asked for; `room` is used for its bytes."""

    def __init__(self, part: FilePart, block: _Block, room: bytearray) -> None:
        header = (part.read(block.offset, 1)[0] + 1) * 4
        properties = _dictionary_size(part.read(block.offset, header))
        self._part = part
        self._at, self._end = block.offset + header, block.offset + block.packed
        self._size = block.size
        self._have = 0
        self.room = room
        self._decoder = lzma.LZMADecompressor(
            lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": properties}]
        )

    def upto(self, end: int) -> memoryview:
        """The block's first `end` bytes at least."""
        while self._have < end:
            portion = self._part.read(self._at, min(_PORTION, self._end - self._at))
            if not portion:
                raise XzError("a block of the .xz file is shorter than its index says")
            self._at += len(portion)
            try:
                output = self._decoder.decompress(portion)
            except (lzma.LZMAError, EOFError):
                raise XzError("a block of the .xz file is damaged") from None
            if self._have + len(output) > self._size:
                raise XzError("a block of the .xz file is longer than its index says")
            self.room[self._have : self._have + len(output)] = output
            self._have += len(output)
        return memoryview(self.room)[: self._have]


class XzBlocks:
    """The decompressed content of an `.xz` file; blocks are decompressed when they are asked for, and a few are kept."""

    def __init__(self, part: FilePart) -> None:
        """Read the index.

        Raises:
            NoBlocksError: not one `.xz` stream, or its blocks are too large to be taken one by one.
            XzError: the index contradicts itself.
        """
        self._part = part
        self._blocks = _blocks(part)
        self._starts = [block.start for block in self._blocks]
        self._open: OrderedDict[int, _Unpacking] = OrderedDict()
        self.size = self._blocks[-1].start + self._blocks[-1].size if self._blocks else 0

    def pieces(self, offset: int, size: int) -> Iterator[memoryview]:
        """The bytes of `[offset, offset + size)`, a piece for each block; a piece is good until the next one is taken.

        Raises:
            XzError: the range leaves the file, or a block is damaged.
        """
        if not 0 <= offset <= offset + size <= self.size:
            raise XzError(f"{size} bytes at {offset} are not in a file of {self.size}")
        while size:
            number = bisect_right(self._starts, offset) - 1
            block = self._blocks[number]
            begin = offset - block.start
            count = min(size, block.size - begin)
            yield self._unpacking(number).upto(begin + count)[begin : begin + count]
            offset += count
            size -= count

    def _unpacking(self, number: int) -> _Unpacking:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        room = bytearray()
        if len(self._open) >= _KEPT:
            # Its memory is used again: fresh memory of this size costs more time than filling it.
            room = self._open.popitem(last=False)[1].room
        self._open[number] = _Unpacking(self._part, self._blocks[number], room)
        return self._open[number]


def _blocks(part: FilePart) -> list[_Block]:
    head, footer = part.read(0, 12), part.read(max(0, part.size - 12), 12)
    if part.size < 32 or part.size % 4 or head[:6] != _HEADER_MAGIC or footer[-2:] != _FOOTER_MAGIC:
        raise NoBlocksError("not one whole .xz stream")
    checksum, backward, flags, _ = _FOOTER.unpack(footer)
    length = (backward + 1) * 4
    if zlib.crc32(footer[4:10]) != checksum or flags != head[6:8] or length > min(MAX_INDEX, part.size - 24):
        raise NoBlocksError("the end of the .xz file is damaged")
    index = part.read(part.size - 12 - length, length)
    if len(index) != length or zlib.crc32(index[:-4]) != int.from_bytes(index[-4:], "little") or index[0]:
        raise NoBlocksError("the index of the .xz file is damaged")
    count, position = _number(index, 1)
    if count > MAX_BLOCKS:
        raise NoBlocksError(f"the .xz file has {count} blocks")
    found = []
    offset, start = 12, 0
    for _ in range(count):
        packed, position = _number(index, position)
        size, position = _number(index, position)
        if size > MAX_BLOCK:
            raise NoBlocksError(f"a block of the .xz file holds {size} bytes")
        found.append(_Block(offset, packed, start, size))
        offset += (packed + 3) // 4 * 4
        start += size
    if offset != part.size - 12 - length:
        raise NoBlocksError("the index of the .xz file is not that of one stream")
    return found


def _number(data: bytes, position: int) -> tuple[int, int]:
    """A "multibyte integer" of the format, and where it ends."""
    value = 0
    for shift in range(0, 63, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise NoBlocksError("a number in the .xz file does not end")


def _dictionary_size(header: bytes) -> int:
    """The dictionary's size that a block header names; LZMA2 must be its only filter."""
    if len(header) < 8 or zlib.crc32(header[:-4]) != int.from_bytes(header[-4:], "little"):
        raise XzError("a block header of the .xz file is damaged")
    flags, position = header[1], 2
    for bit in (0x40, 0x80):
        if flags & bit:
            _, position = _number(header, position)
    if flags & 0x3F or header[position : position + 2] != bytes((_LZMA2, 1)) or header[position + 2] > 40:
        raise XzError("the .xz file is compressed in an unusual way")
    bits = header[position + 2]
    return min((2 | bits & 1) << (bits // 2 + 11), 0xFFFFFFFF)
