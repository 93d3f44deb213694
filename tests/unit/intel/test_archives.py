"""Archives of records: packed in any usual way, and bounded as a whole."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.core.errors import KmendError, MalformedError
from kmend.intel.feeds import archives, read_archive, unpacked
from kmend.intel.feeds.archives import Unpacked, files_of_archive, files_of_folder

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "none": bytes,
}  # fmt: skip


def everything(name: str) -> bool:
    return True


@pytest.mark.parametrize("packer", PACKERS.values(), ids=PACKERS)
@given(content=st.binary(max_size=3000), times=st.integers(1, 400), size=st.integers(1, 100_000))
def test_what_was_packed_comes_out(packer: Callable[[bytes], bytes], content: bytes, times: int, size: int) -> None:
    whole = b"\n" + content * times
    stream = Unpacked(io.BytesIO(packer(whole)), "it", len(whole))
    assert b"".join(iter(lambda: stream.read(size), b"")) == whole
    assert unpacked(packer(whole), "it", len(whole)) == whole
    with pytest.raises(MalformedError, match="more than is read"):
        unpacked(packer(whole), "it", len(whole) - 1)


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz"])
def test_several_streams_padding_and_what_is_cut_short(name: str) -> None:
    packed = PACKERS[name](random.Random(1).randbytes(600_000))
    assert unpacked(packed + packed, "it", 2_000_000) == 2 * random.Random(1).randbytes(600_000)
    assert unpacked(packed + bytes(64), "it", 2_000_000) == random.Random(1).randbytes(600_000)
    for length in (10, len(packed) // 2, len(packed) - 1):
        with pytest.raises(MalformedError, match="cannot be unpacked"):
            unpacked(packed[:length], "it", 2_000_000)
    broken = bytearray(packed)
    broken[len(packed) // 2] ^= 0xFF
    with pytest.raises(MalformedError, match="cannot be unpacked"):
        unpacked(bytes(broken), "it", 2_000_000)


def bomb(path: Path, size: int) -> Path:
    with tarfile.open(path, "w:xz") as archive:
        member = tarfile.TarInfo("vulns/README")
        member.size = size
        archive.addfile(member, io.BytesIO(bytes(size)))
    return path


def test_an_archive_is_bounded_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file would be small enough, or is not even wanted."""
    path = bomb(tmp_path / "bomb.tar.xz", 50_000_000)
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(archives, "MAX_TOTAL", 1_000_000)
    with pytest.raises(MalformedError, match="more than is read"):
        read_archive(path)


def test_an_archive_of_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "many.tar.gz", "w:gz") as archive:
        for number in range(20):
            archive.addfile(tarfile.TarInfo(f"vulns/{number}"))
    monkeypatch.setattr(archives, "MAX_MEMBERS", 19)
    with pytest.raises(MalformedError, match="more than 19 files"):
        list(files_of_archive(tmp_path / "many.tar.gz", everything))
    for number in range(20):
        (tmp_path / f"f{number}").write_bytes(b"")
    with pytest.raises(MalformedError, match="more than 19 files"):
        list(files_of_folder(tmp_path, everything))


def test_a_folder_is_bounded_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        (tmp_path / f"f{number}").write_bytes(bytes(1000))
    (tmp_path / "link").symlink_to(tmp_path / "f0")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/config").write_bytes(b"[x]")
    assert [name for name, _ in files_of_folder(tmp_path, everything)] == ["f0", "f1", "f2", "f3"]
    monkeypatch.setattr(archives, "MAX_TOTAL", 3500)
    with pytest.raises(MalformedError, match="more than is read"):
        list(files_of_folder(tmp_path, everything))


def test_a_header_that_claims_to_be_huge(tmp_path: Path) -> None:
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 1 << 34
    (tmp_path / "x.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(MalformedError, match="header of"):
        list(files_of_archive(tmp_path / "x.tar", everything))


@given(st.binary(max_size=2000))
def test_no_bytes_surprise(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.tar"
    path.write_bytes(content)
    with contextlib.suppress(KmendError):
        list(files_of_archive(path, everything))
