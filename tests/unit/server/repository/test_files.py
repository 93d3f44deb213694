"""Handing out files: what HTTP wants, and no way out of the folder."""

from __future__ import annotations

import asyncio
import email.utils
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.server.repository import files
from kmend.server.repository.errors import RepositoryError
from kmend.server.repository.files import RepositoryFiles, Span, cache_control, plain_path
from kmend.server.repository.folder import SMALL, Folder

DIGEST = "ab" * 32
BIG = os.urandom(1_000_000)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    for name, content in {
        "metadata/timestamp.json": b'{"a": 1}',
        "metadata/3.snapshot.json": b"{}",
        f"files/ab/{DIGEST}": BIG,
        "files/ab/empty": b"",
        ".lock": b"hidden",
        "metadata/.hidden.json": b"hidden",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "files/link").symlink_to(tmp_path / "secret")
    (root / "files/out").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(root / "files/pipe")
    return root


def ask(app: RepositoryFiles, path: str, method: str = "GET", **headers: str) -> Answer:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(dict(message))

    async def receive() -> dict[str, Any]:
        raise AssertionError("nothing is to be received")

    scope = {"type": "http", "method": method, "path": path,
             "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]}  # fmt: skip
    asyncio.run(app(scope, receive, send))
    head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], head, b"".join(message.get("body", b"") for message in sent[1:]))


@pytest.fixture
def app(folder: Path) -> RepositoryFiles:
    return RepositoryFiles(Folder(folder))


def test_a_file_comes_whole_with_what_caches_need(app: RepositoryFiles) -> None:
    found = ask(app, f"/repository/files/ab/{DIGEST}")
    assert (found.status, found.body) == (200, BIG)
    assert found.headers["content-length"] == str(len(BIG))
    assert "immutable" in found.headers["cache-control"]
    assert found.headers["content-type"] == "application/octet-stream"
    stamp = ask(app, "/repository/metadata/timestamp.json")
    assert (stamp.status, stamp.body) == (200, b'{"a": 1}')
    assert stamp.headers["cache-control"] == "no-cache"
    assert stamp.headers["content-type"] == "application/json"
    assert ask(app, "/repository/files/ab/empty").status == 200


def test_what_has_not_changed_is_not_sent_again(app: RepositoryFiles, folder: Path) -> None:
    path = "/repository/metadata/timestamp.json"
    first = ask(app, path)
    etag, modified = first.headers["etag"], first.headers["last-modified"]
    for condition in ({"if_none_match": etag}, {"if_none_match": f'"x", W/{etag}'}, {"if_none_match": "*"},
                      {"if_modified_since": modified}):  # fmt: skip
        found = ask(app, path, **condition)
        assert (found.status, found.body) == (304, b"")
        assert found.headers["etag"] == etag
    # An ETag that differs counts, whatever the date says.
    assert ask(app, path, if_none_match='"x"', if_modified_since=modified).status == 200
    earlier = email.utils.formatdate(email.utils.parsedate_to_datetime(modified).timestamp() - 10, usegmt=True)
    assert ask(app, path, if_modified_since=earlier).status == 200
    assert ask(app, path, if_modified_since="yesterday").status == 200
    before = (folder / "metadata/timestamp.json").stat()
    (folder / "metadata/timestamp.json").write_bytes(b'{"a": 2}')
    os.utime(folder / "metadata/timestamp.json", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert ask(app, path, if_none_match=etag).body == b'{"a": 2}'


def test_pieces(app: RepositoryFiles) -> None:
    path, size = f"/repository/files/ab/{DIGEST}", len(BIG)
    etag = ask(app, path, "HEAD").headers["etag"]
    for asked, span in {"bytes=0-0": (0, 1), "bytes=500000-": (500_000, size), f"bytes={size - 1}-": (size - 1, size),
                        "bytes=-10": (size - 10, size), f"bytes=-{size * 2}": (0, size),
                        f"bytes=5-{size * 2}": (5, size)}.items():  # fmt: skip
        found = ask(app, path, range=asked, if_range=etag)
        assert found.status == 206, asked
        assert found.body == BIG[span[0] : span[1]]
        assert found.headers["content-range"] == f"bytes {span[0]}-{span[1] - 1}/{size}"
    for asked in (f"bytes={size}-", "bytes=-0"):
        found = ask(app, path, range=asked)
        assert (found.status, found.headers["content-range"]) == (416, f"bytes */{size}")
    for asked in ("bytes=5-2", "bytes=a-b", "bytes=1-2,4-5", "lines=1-2", "bytes=-", "bytes"):
        assert ask(app, path, range=asked).status == 200
    assert ask(app, path, range="bytes=0-0", if_range='"other"').status == 200


def test_head_says_the_same_without_the_content(app: RepositoryFiles) -> None:
    found, whole = ask(app, f"/repository/files/ab/{DIGEST}", "HEAD"), ask(app, f"/repository/files/ab/{DIGEST}")
    assert (found.status, found.headers, found.body) == (200, whole.headers, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_it_only_hands_out(app: RepositoryFiles, method: str) -> None:
    found = ask(app, "/repository/metadata/timestamp.json", method)
    assert (found.status, found.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "metadata", "metadata/", "nothing", "../secret", "metadata/../../secret", "files/link", "files/out/secret",
        "files/pipe", ".lock", "metadata/.hidden.json", "//etc/passwd", "/etc/passwd", "metadata//timestamp.json",
        "metadata/timestamp.json/", "metadata/timestamp.json/x", "metadata\\timestamp.json", "metadata/timestamp.json\0",
        "a/b/c/d/e/f", "..", "%2e%2e/secret", "files/" + "a" * 300,
    ],
)  # fmt: skip
def test_there_is_no_way_out(app: RepositoryFiles, path: str) -> None:
    found = ask(app, f"/repository/{path}")
    assert (found.status, found.body) == (404, b"")
    assert found.headers["cache-control"] == "no-store"


def test_a_source_that_fails_is_not_a_missing_file(folder: Path) -> None:
    class Broken(Folder):
        def find(self, path: str) -> None:
            raise RepositoryError("the disk is gone")

    found = ask(RepositoryFiles(Broken(folder)), "/repository/metadata/timestamp.json")
    assert (found.status, found.headers["retry-after"]) == (503, "10")


def test_a_file_that_ends_early_breaks_the_connection(folder: Path, app: RepositoryFiles) -> None:
    class Shrinking(Folder):
        def find(self, path: str) -> Any:
            entry = super().find(path)
            assert entry is not None
            entry.size *= 2
            return entry

    with pytest.raises(ConnectionAbortedError):
        ask(RepositoryFiles(Shrinking(folder)), f"/repository/files/ab/{DIGEST}")


@given(st.text(max_size=40))
def test_no_text_becomes_a_path_that_climbs(text: str) -> None:
    path = plain_path(text)
    assert path in ("", text)
    assert ".." not in path.split("/")
    assert not path.startswith(("/", "."))


@given(st.text(max_size=20), st.integers(0, 1000))
def test_any_range_lies_within_the_file(asked: str, size: int) -> None:
    found = files.wanted({"range": f"bytes={asked}"}, size, '"e"')
    if isinstance(found, Span):
        assert 0 <= found.start <= size
        assert 0 < found.length <= size - found.start


def test_what_is_named_by_content_or_version_is_kept_for_ever() -> None:
    for path in (f"files/ab/{DIGEST}", f"targets/kernels/x/{DIGEST}.levels.json", f"targets/agent/{DIGEST}.k.deb",
                 "metadata/12.snapshot.json", "metadata/1.root.json"):  # fmt: skip
        assert cache_control(path) == files.FOREVER
    for path in ("metadata/timestamp.json", f"signatures/ab/{DIGEST}.p7s", "install/install.sh", "files/ab/other"):
        assert cache_control(path) == files.ASK


def test_small_and_large_files_have_tags_of_their_content(folder: Path) -> None:
    for size in (SMALL, SMALL + 1):
        path = folder / "files/ab/sized"
        path.write_bytes(b"a" * size)
        entry = Folder(folder).find("files/ab/sized")
        assert entry is not None
        before = entry.etag
        entry.close()
        other = folder / "files/ab/new"
        other.write_bytes(b"b" * size)
        other.rename(path)
        entry = Folder(folder).find("files/ab/sized")
        assert entry is not None
        assert entry.etag != before
        assert entry.read(size - 1, 10) == b"b"
        entry.close()
