"""The object store: requests that are signed as the specification's own examples, and a repository that is pushed and read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.server.repository.conftest import Press
from tests.unit.server.repository.imitation import Imitation, running

from kmend.server.config import ObjectStoreSection
from kmend.server.repository.errors import ObjectStoreError, RepositoryError
from kmend.server.repository.objects import Bucket
from kmend.server.repository.pushing import TIMESTAMP, order, push
from kmend.server.repository.sigv4 import Credentials, Request, authorization, encoded_path, encoded_query

EMPTY = hashlib.sha256(b"").hexdigest()
EXAMPLE = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
HOST = "examplebucket.s3.amazonaws.com"
MOMENT = "20130524T000000Z"
KEYS = Credentials("key-id", "key/secret+of=tests")


def signature(request: Request) -> str:
    return authorization(request, EXAMPLE, region="us-east-1", moment=MOMENT).rpartition("Signature=")[2]


def test_the_published_examples_of_the_specification() -> None:
    """Amazon S3 API reference, "Signature Calculations for the Authorization Header", examples."""
    common = {"host": HOST, "x-amz-date": MOMENT}
    get = Request("GET", "/test.txt", {}, {**common, "Range": "bytes=0-9", "x-amz-content-sha256": EMPTY}, EMPTY)
    assert signature(get) == "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    payload = hashlib.sha256(b"Welcome to Amazon S3.").hexdigest()
    headers = {**common, "Date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY",
               "x-amz-content-sha256": payload}  # fmt: skip
    put = Request("PUT", "/test$file.text", {}, headers, payload)
    assert signature(put) == "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
    listing = Request("GET", "/", {"max-keys": "2", "prefix": "J"}, {**common, "x-amz-content-sha256": EMPTY}, EMPTY)
    assert signature(listing) == "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    lifecycle = Request("GET", "/", {"lifecycle": ""}, {**common, "x-amz-content-sha256": EMPTY}, EMPTY)
    assert signature(lifecycle) == "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"


def test_paths_and_queries_are_encoded_once() -> None:
    assert encoded_path("/b/a b+c~d/é") == "/b/a%20b%2Bc~d/%C3%A9"
    assert encoded_query({"b": "x/y z", "a": ""}) == "a=&b=x%2Fy%20z"
    assert "secret" not in repr(KEYS)


@pytest.fixture
def store() -> Iterator[Imitation]:
    with running(Imitation(KEYS, "bucket")) as imitation:
        yield imitation


def bucket(store: Imitation, *, credentials: Credentials = KEYS, prefix: str = "kmend/") -> Bucket:
    return Bucket(store.url, store.bucket, store.region, prefix, credentials)


def test_files_are_put_found_read_by_pieces_and_listed(store: Imitation) -> None:
    opened = bucket(store)
    for number in range(8):
        opened.put(f"files/a{number}/x +{number}", b"0123456789", cache_control="no-cache")
    entry = opened.find("files/a3/x +3")
    assert entry is not None
    assert (entry.size, entry.modified) == (10, 1_700_000_000)
    assert entry.read(2, 3) == b"234"
    assert entry.read(0, 10) == b"0123456789"
    assert opened.find("files/none") is None
    assert sorted(opened.listing()) == [(f"files/a{number}/x +{number}", 10) for number in range(8)]
    opened.put("files/a3/x +3", b"another one", cache_control="no-cache")
    with pytest.raises(ObjectStoreError, match="HTTP 412"):
        entry.read(0, 10)
    assert store.denied == 0


def test_who_has_other_keys_gets_nothing(store: Imitation) -> None:
    other = bucket(store, credentials=Credentials("key-id", "guessed"))
    with pytest.raises(ObjectStoreError, match="HTTP 403"):
        other.put("a", b"b", cache_control="no-cache")
    with pytest.raises(ObjectStoreError, match="HTTP 403"):
        list(other.listing())
    assert other.find("a") is None
    assert store.denied == 3


def test_a_store_that_stumbles_is_asked_again_and_one_that_falls_is_an_error(store: Imitation) -> None:
    opened = bucket(store)
    store.failures[:] = [503, 500]
    opened.put("a", b"b", cache_control="no-cache")
    assert store.objects == {"kmend/a": b"b"}
    store.failures[:] = [500] * 10
    with pytest.raises(ObjectStoreError):
        opened.find("a")
    gone = Bucket("http://127.0.0.1:1", "bucket", "us-east-1", "", KEYS)
    with pytest.raises(ObjectStoreError, match="does not answer"):
        gone.find("a")


def test_a_repository_is_pushed_in_a_mirrors_order_and_read_back(store: Imitation, press: Press) -> None:
    press.publish(1, ["CVE-2026-2001"])
    (press.repository / ".hidden").write_bytes(b"not to be pushed")
    opened = bucket(store)
    done = push(press.repository, opened)
    keys = [key.removeprefix("kmend/") for key in store.puts]
    assert keys[-1] == TIMESTAMP
    assert keys == sorted(keys, key=order)
    last_content = max(number for number, key in enumerate(keys) if not key.startswith("metadata/"))
    assert all(key.startswith("metadata/") for key in keys[last_content + 1 :])
    assert len(keys) == done.files
    files = {path.relative_to(press.repository).as_posix(): path.read_bytes()
             for path in press.repository.rglob("*") if path.is_file() and not path.name.startswith(".")}  # fmt: skip
    assert {key.removeprefix("kmend/"): content for key, content in store.objects.items()} == files
    store.puts.clear()
    press.publish(2, ["CVE-2026-2001", "CVE-2026-2002"], base=1)
    again = push(press.repository, opened)
    assert again.kept > 0
    assert not [key for key in store.puts if key.startswith("kmend/files/") and key.removeprefix("kmend/") in files]


def test_there_must_be_a_repository(store: Imitation, tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="there is no repository"):
        push(tmp_path, bucket(store))


def test_credentials_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    path.write_text("an-id\na-secret\n")
    section = ObjectStoreSection(endpoint="https://s3.example", bucket="b", prefix="/a/b/", credentials=str(path))
    opened = Bucket.of(section)
    assert (opened.prefix, opened.credentials) == ("a/b/", Credentials("an-id", "a-secret"))
    path.write_text("only one line")
    with pytest.raises(ObjectStoreError, match="two lines"):
        Bucket.of(section)
    with pytest.raises(ObjectStoreError, match="needs endpoint"):
        Bucket.of(ObjectStoreSection())
