"""Parts of an .xz file: as decompressing it as a whole gives them, and errors for anything that is not sound."""

from __future__ import annotations

import io
import lzma
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmend.core.errors import MalformedError
from kmend.core.process import run
from kmend.factory.kernels.xz import FilePart, NoBlocksError, XzBlocks

PLAIN = random.Random(1).randbytes(30_000) + b"words and words " * 20_000 + bytes(50_000)


def packed(*options: str) -> bytes:
    """`PLAIN`, compressed by xz(1)."""
    return run(["xz", "--stdout", "-1", *options], stdin=PLAIN).stdout


BLOCKS = packed("--block-size=16384")


def opened(content: bytes, *, before: bytes = b"") -> XzBlocks:
    """The file inside another one."""
    return XzBlocks(FilePart(io.BytesIO(before + content + b"after"), len(before), len(content)))


def read(blocks: XzBlocks, offset: int, size: int) -> bytes:
    """The pieces, joined."""
    return b"".join(bytes(piece) for piece in blocks.pieces(offset, size))


@given(st.lists(st.tuples(st.integers(0, len(PLAIN)), st.integers(0, 60_000)), max_size=8))
@settings(max_examples=50)
def test_any_part_in_any_order(parts: list[tuple[int, int]]) -> None:
    blocks = opened(BLOCKS, before=b"!<arch>\n")
    assert blocks.size == len(PLAIN)
    for offset, size in parts:
        count = min(size, len(PLAIN) - offset)
        assert read(blocks, offset, count) == PLAIN[offset : offset + count]


@pytest.mark.parametrize("options", [["--block-size=16384", "-T2"], ["--check=none"], ["--check=sha256", "-9"], []])
def test_however_it_was_compressed(options: list[str]) -> None:
    assert read(opened(packed(*options)), 29_990, 20) == PLAIN[29_990:30_010]


def test_what_is_not_in_the_file() -> None:
    blocks = opened(BLOCKS)
    for offset, size in ((-1, 2), (len(PLAIN), 1), (0, len(PLAIN) + 1)):
        with pytest.raises(MalformedError):
            read(blocks, offset, size)
    assert read(blocks, len(PLAIN), 0) == b""


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"plain text, and a good deal of it",
        BLOCKS[:-4],
        BLOCKS + BLOCKS,
        BLOCKS + bytes(4),
        lzma.compress(b"x")[:-12],
    ],
)
def test_what_has_no_blocks(content: bytes) -> None:
    with pytest.raises(NoBlocksError):
        opened(content)


def test_blocks_that_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmend.factory.kernels.xz.MAX_BLOCK", 16_383)
    with pytest.raises(NoBlocksError, match="16384 bytes"):
        opened(BLOCKS)


def test_an_unusual_filter() -> None:
    blocks = opened(packed("--x86", "--lzma2=preset=1"))
    with pytest.raises(MalformedError, match="unusual"):
        read(blocks, 0, 10)


@given(st.lists(st.tuples(st.integers(0, len(BLOCKS) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=200)
def test_a_damaged_file_is_an_error_or_still_gives_that_many_bytes(edits: list[tuple[int, int]]) -> None:
    content = bytearray(BLOCKS)
    for place, value in edits:
        content[place] = value
    try:
        blocks = opened(bytes(content))
        assert len(read(blocks, 0, blocks.size)) == blocks.size
    except MalformedError:
        pass
