"""Kernel refs and build IDs."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.core.errors import MalformedError
from kmend.core.kernel import KernelRef, build_id_from_notes


def note(name: bytes, kind: int, content: bytes) -> bytes:
    """An ELF note, padded as the gABI asks."""
    name += b"\0"
    return (
        struct.pack("<III", len(name), len(content), kind)
        + name
        + bytes(-len(name) % 4)
        + content
        + bytes(-len(content) % 4)
    )


def test_the_build_id_is_found_among_other_notes() -> None:
    notes = note(b"Xen", 6, b"abc") + note(b"Linux", 3, b"x" * 20) + note(b"GNU", 3, bytes(range(20)))
    assert build_id_from_notes(notes) == bytes(range(20)).hex()
    assert build_id_from_notes(note(b"Xen", 3, b"x" * 20)) is None
    assert build_id_from_notes(b"") is None


@given(st.binary(max_size=300))
def test_any_notes_are_read_or_refused(notes: bytes) -> None:
    try:
        found = build_id_from_notes(notes)
    except MalformedError:
        return
    assert found is None or len(found) in (40, 64)


def test_notes_cut_short_are_refused() -> None:
    with pytest.raises(MalformedError, match="middle of a note"):
        build_id_from_notes(note(b"GNU", 3, bytes(20))[:-8])


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("debian:6.1.0-50-cloud-amd64@6.1.176-1", KernelRef("debian", "6.1.0-50-cloud-amd64", "6.1.176-1")),
        ("debian:6.1.0-50-amd64", KernelRef("debian", "6.1.0-50-amd64")),
    ],
)
def test_refs_are_read_and_written(text: str, ref: KernelRef) -> None:
    assert KernelRef.parse(text) == ref
    assert str(ref) == text


@pytest.mark.parametrize(
    "text", ["", "debian", "debian:", "debian:../x", "debian:6.1@", "Debian:6.1", "debian:6.1@1;rm", "a" * 999]
)
def test_what_is_no_ref_is_refused(text: str) -> None:
    with pytest.raises(MalformedError, match="not a kernel ref"):
        KernelRef.parse(text)
