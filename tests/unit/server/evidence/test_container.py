"""A pack is a tar that ordinary tools read, and of which no byte is free."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.server.evidence.container import MAX_MEMBER, Pack, Writer
from kmend.server.evidence.errors import PackDamagedError


def written(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    writer = Writer(stream.write)
    for name, content in members.items():
        writer.add(name, content)
    writer.end()
    return stream.getvalue()


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}(/[A-Za-z0-9][A-Za-z0-9._-]{0,10})?", fullmatch=True)


@given(st.dictionaries(NAMES, st.binary(max_size=1500), max_size=5))
def test_what_goes_in_comes_out_and_tar_reads_it(
    tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.tar"
    path.write_bytes(written(members))
    pack = Pack(path)
    assert {name: pack.read(name) for name in pack.names} == members
    with tarfile.open(path) as archive:
        found = {item.name: archive.extractfile(item) for item in archive.getmembers()}
        assert {name: file.read() for name, file in found.items() if file is not None} == members


def by_tarfile(**changes: object) -> bytes:
    info = tarfile.TarInfo("a")
    for name, value in changes.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.USTAR_FORMAT) + bytes(1024)


STRANGE: dict[str, Callable[[], bytes]] = {
    "leads out of the folder": lambda: by_tarfile(name="../a"),
    "leads out in its middle": lambda: by_tarfile(name="a/../../b"),
    "is absolute": lambda: by_tarfile(name="/etc/passwd"),
    "is hidden": lambda: by_tarfile(name=".a"),
    "is a link": lambda: by_tarfile(type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "is a hard link": lambda: by_tarfile(type=tarfile.LNKTYPE, linkname="b"),
    "is a folder": lambda: by_tarfile(type=tarfile.DIRTYPE),
    "is a device": lambda: by_tarfile(type=tarfile.CHRTYPE),
    "has a time": lambda: by_tarfile(mtime=1),
    "has an owner": lambda: by_tarfile(uname="root"),
    "may be run": lambda: by_tarfile(mode=0o755),
    "claims to be huge": lambda: by_tarfile(size=MAX_MEMBER + 1),
    "claims to be more than there is": lambda: by_tarfile(size=MAX_MEMBER),
    "has an extension before it": lambda: tarfile.TarInfo("ä" * 80).tobuf(tarfile.PAX_FORMAT) + bytes(1024),
    "is twice there": lambda: by_tarfile()[:512] + by_tarfile(),
    "is no tar": lambda: b"PK\x03\x04" + bytes(2000),
    "is compressed": lambda: b"\x1f\x8b\x08" + bytes(2000),
    "is empty": lambda: b"",
}


@pytest.mark.parametrize("what", list(STRANGE))
def test_a_member_that_is_not_as_a_pack_has_it_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "strange.tar"
    path.write_bytes(STRANGE[what]())
    with pytest.raises(PackDamagedError):
        Pack(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PackDamagedError, match="cannot read"):
        Pack(tmp_path / "none.tar")
