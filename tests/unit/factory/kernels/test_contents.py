"""What is inside a package: the same, whether its compression lets single parts be had or not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.factory.kernels.debs import tar_xz, write_deb

from kmend.core.process import run
from kmend.factory.kernels.contents import Member, contents
from kmend.factory.kernels.packages import Package, PackageProblemError

FILES = {
    "./usr/lib/one": b"1" * 100_000,
    "./usr/lib/" + "long/" * 40 + "name": b"two",
    "./usr/lib/empty": b"",
    "./usr/lib/three": bytes(range(256)) * 300,
}


def package(path: Path) -> Package:
    return Package("x", "1", path, "0" * 64)


def with_data(folder: Path, name: str, content: bytes) -> Package:
    """A .deb whose archive of data has another compression."""
    path = folder / "x.deb"
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": tar_xz({"./control": b"Package: x\nVersion: 1\n"}),
        name: content,
    }
    with path.open("wb") as stream:
        stream.write(b"!<arch>\n")
        for part, body in parts.items():
            stream.write(f"{part:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(body):<10}`\n".encode())
            stream.write(body + b"\n" * (len(body) % 2))
    return package(path)


def in_blocks(folder: Path) -> Package:
    plain = run(["xz", "--decompress"], stdin=tar_xz(FILES)).stdout
    return with_data(folder, "data.tar.xz", run(["xz", "--stdout", "--block-size=20480"], stdin=plain).stdout)


def in_one_piece(folder: Path) -> Package:
    return package(write_deb(folder / "x.deb", FILES))


def in_gzip(folder: Path) -> Package:
    plain = run(["xz", "--decompress"], stdin=tar_xz(FILES)).stdout
    return with_data(folder, "data.tar.gz", run(["gzip", "--stdout"], stdin=plain).stdout)


def uncompressed(folder: Path) -> Package:
    return with_data(folder, "data.tar", run(["xz", "--decompress"], stdin=tar_xz(FILES)).stdout)


@pytest.mark.parametrize("make", [in_blocks, in_one_piece, in_gzip, uncompressed])
def test_files_and_parts_of_them(tmp_path: Path, make: object) -> None:
    assert callable(make)
    with contents(make(tmp_path)) as inside:
        found = {member.path: member for member in inside.members()}
        assert {path: inside.read(member) for path, member in reversed(found.items())} == {
            path.removeprefix("./"): content for path, content in FILES.items()
        }
        three = found["usr/lib/three"]
        assert inside.read(three, 1000, 5) == FILES["./usr/lib/three"][1000:1005]
        assert inside.read(three, three.size - 2, 100) == b"\xfe\xff"
        assert inside.read(three, three.size + 5, 100) == b""


def test_a_member_that_is_not_in_the_package(tmp_path: Path) -> None:
    with contents(in_blocks(tmp_path)) as inside, pytest.raises(PackageProblemError, match="middle"):
        inside.read(Member("x", 10**9, 10))


def test_an_unsafe_path(tmp_path: Path) -> None:
    made = package(write_deb(tmp_path / "x.deb", {"../outside": b"x"}))
    with contents(made) as inside, pytest.raises(PackageProblemError, match="unsafe"):
        list(inside.members())


@pytest.mark.parametrize("content", [b"", b"!<arch>\n", b"no package at all" * 10])
def test_what_is_no_package(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(content)
    with pytest.raises(PackageProblemError), contents(package(path)):
        pass


def test_a_package_that_was_cut_short(tmp_path: Path) -> None:
    whole = in_blocks(tmp_path)
    whole.path.write_bytes(whole.path.read_bytes()[:-2000])
    with pytest.raises(PackageProblemError), contents(whole) as inside:
        list(inside.members())
