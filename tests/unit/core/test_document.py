"""Documents: what is written is read back, and what is not of the form is refused with the member's name."""

from __future__ import annotations

import contextlib
import enum
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.core import document
from kmend.core.errors import KmendError, MalformedError
from kmend.core.kernel import KernelIdentity
from kmend.core.manifest import (
    BuildRecord,
    FixRecord,
    Levels,
    Manifest,
    ModuleRecord,
    PatchedFunction,
    PatchedObject,
    ProofRecord,
)


class Color(enum.Enum):
    """A word with few values."""

    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Inner:
    """A member with members."""

    number: int
    ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class Outer:
    """Every kind of member that documents know."""

    name: str
    color: Color
    inner: Inner
    many: tuple[Inner, ...] = ()
    table: dict[str, int] | None = None


@given(
    st.builds(
        Outer,
        name=st.text(),
        color=st.sampled_from(Color),
        inner=st.builds(Inner, st.integers(), st.floats(allow_nan=False, allow_infinity=False)),
        many=st.lists(st.builds(Inner, st.integers())).map(tuple),
        table=st.none() | st.dictionaries(st.text(), st.integers()),
    )
)
def test_what_is_written_is_read_back(value: Outer) -> None:
    encoded = document.encode(value)
    assert document.decode(Outer, encoded) == value
    assert document.encode(document.decode(Outer, encoded)) == encoded


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_refused_or_read(content: bytes) -> None:
    with contextlib.suppress(MalformedError):
        document.decode(Outer, content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a valid JSON"),
        (b"[]", "an object is expected"),
        (b'{"name": 1, "color": "red", "inner": {"number": 1}}', "Outer.name: str is expected"),
        (b'{"name": "a", "color": "green", "inner": {"number": 1}}', "'green' is not one of red, blue"),
        (b'{"name": "a", "color": "red", "inner": {"number": true}}', "Outer.inner.number: int is expected"),
        (b'{"name": "a", "color": "red"}', "Outer.inner is missing"),
        (b'{"name": "a", "name": "b", "color": "red", "inner": {"number": 1}}', "given twice"),
        (b'{"name": "a", "color": "red", "inner": {"number": 1, "ratio": NaN}}', "NaN is not a JSON number"),
        (b'{"name": "a", "color": "red", "inner": {"number": 1}, "many": {}}', "a list is expected"),
        (b"[" * 100_000, "not a valid JSON"),
        (b"\xff\xfe", "not a valid JSON"),
    ],
)
def test_what_is_wrong_is_named(content: bytes, said: str) -> None:
    with pytest.raises(MalformedError, match=said):
        document.decode(Outer, content)


def test_too_large_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(MalformedError, match="at most 10"):
        document.decode(Outer, b"x" * 11, max_bytes=10)


def test_unknown_members_are_ignored() -> None:
    assert document.decode(Inner, b'{"number": 3, "later": {"a": [1]}}') == Inner(3)


def manifest(**changes: object) -> dict[str, object]:
    """A good manifest as JSON's own types, changed."""
    good = Manifest(
        kernel=KernelIdentity("a" * 40, "6.1.0-50-cloud-amd64", "#1 SMP", "debian:6.1.0-50-cloud-amd64@6.1.176-1"),
        level=2,
        base=1,
        fixes=(FixRecord("b" * 64, "a fix", ("CVE-2026-52928",), "vendor", ("net/unix/af_unix.c",)),),
        module=ModuleRecord("kmend_2_0123abcd", "c" * 64, 1000),
        objects=(PatchedObject("vmlinux", None, (PatchedFunction("unix_ioctl", 0, 1, 2, "net/unix/af_unix.c"),)),),
        built=BuildRecord("kmend-factory 0", "gcc"),
        proof=ProofRecord(("unix_ioctl",), ()),
    )
    tree = document.plain(good)
    assert isinstance(tree, dict)
    return {**tree, **changes}


def test_a_manifest_is_read_back() -> None:
    read = document.from_plain(Manifest, manifest())
    assert read.cves == ("CVE-2026-52928",)
    assert read.objects[0].functions[0].sysfs_name == "unix_ioctl,1"


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "kmend-manifest/2"},
        {"level": 0},
        {"level": 3},
        {"base": 2},
        {"fixes": []},
        {"objects": []},
        {"module": {"name": "evil", "sha256": "c" * 64, "size": 1}},
        {"module": {"name": "kmend_2_0123abcd", "sha256": "C" * 64, "size": 1}},
        {"module": {"name": "kmend_2_0123abcd", "sha256": "c" * 64, "size": 1 << 40}},
        {"objects": [{"name": "../x", "build_id": None, "functions": [
            {"name": "f", "sympos": 0, "old_size": 1, "new_size": 1, "source": "x.c"}]}]},
        {"objects": [{"name": "vmlinux", "build_id": None, "functions": [
            {"name": "f/..", "sympos": 0, "old_size": 1, "new_size": 1, "source": "x.c"}]}]},
        {"fixes": [{"digest": "b" * 64, "title": "", "cves": ["CVE-1"], "origin": "", "files": []}]},
    ],
)  # fmt: skip
def test_a_manifest_that_lies_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(KmendError):
        document.from_plain(Manifest, manifest(**changes))


def test_levels_must_rise() -> None:
    file = {"sha256": "d" * 64, "size": 1}
    record = {"manifest": file, "module": file, "published": 0}
    tree = {"build_id": "a" * 40, "levels": [{"level": 2, **record}, {"level": 1, **record}]}
    with pytest.raises(MalformedError, match="rising"):
        document.from_plain(Levels, tree)
