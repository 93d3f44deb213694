"""What is kept of prepared kernels: found, told of when damaged, made anew, removed unless used."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmend.core import document
from kmend.core.kernel import KernelIdentity, KernelRef
from kmend.core.scratch import scratch_folder
from kmend.factory.kernels import prepared
from kmend.factory.kernels.prepared import (
    INDEX_VERSION,
    AmbiguousRefError,
    DamagedKernelError,
    Kernel,
    PreparedRecord,
    damaged_kernels,
    kernel_folder,
    prepare,
    prepared_kernels,
    prune,
)

REF = KernelRef("debian", "6.1.0-50-cloud-amd64", "6.1.176-1")


def make(ref: KernelRef, folder: Path) -> None:
    """In place of a preparation."""
    folder.mkdir(parents=True, exist_ok=True)
    record = PreparedRecord(
        index_version=INDEX_VERSION,
        identity=KernelIdentity("5ca1ab1e" * 5, ref.release, "#1 SMP", str(ref)),
        package=str(ref.package),
        compiler="gcc",
        make_variables=(),
        inputs={},
        vermagic="",
        module_struct_size=0,
    )
    (folder / "prepared.json").write_bytes(document.encode(record))


DAMAGED = (b"", b"{", b"[]", b"null", b'{"index_version": %d}' % INDEX_VERSION, b"\xff", b"[" * 100_000)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KMEND_CACHE", str(tmp_path))
    monkeypatch.setattr(prepared, "_prepare", make)
    monkeypatch.setattr(Kernel, "check", lambda kernel: None)
    return tmp_path


def test_prepared_once() -> None:
    assert prepare(REF).identity == prepare(REF).identity
    assert [kernel.identity.ref for kernel in prepared_kernels()] == [str(REF)]
    assert damaged_kernels() == ()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"index_version": %d}' % INDEX_VERSION, b"\xff", b"[" * 100_000]
)
def test_a_damaged_record(content: bytes) -> None:
    prepare(REF)
    (kernel_folder(REF) / "prepared.json").write_bytes(content)
    assert prepared_kernels() == ()
    (problem,) = damaged_kernels()
    assert problem.hint == f"make it anew: kmend-factory kernel prepare {REF}"
    with pytest.raises(DamagedKernelError, match="is damaged"):
        prepare(REF)
    assert prepare(REF, heal=True).identity.ref == str(REF)
    assert damaged_kernels() == ()


def test_damage_deeper_down_is_healed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = prepare(REF).folder
    (folder / "marker").write_text("of the damaged one")

    def check(kernel: Kernel) -> None:
        raise DamagedKernelError(kernel.folder, "units.json: cut short")

    def anew(ref: KernelRef, folder: Path) -> None:
        (folder / "marker").unlink()
        make(ref, folder)

    monkeypatch.setattr(prepared, "_prepare", anew)
    monkeypatch.setattr(Kernel, "check", check)
    prepare(REF, heal=True)
    assert not (folder / "marker").exists()


def test_a_kernel_of_another_version_of_kmend_is_made_anew_without_a_word() -> None:
    folder = prepare(REF).folder
    (folder / "prepared.json").write_bytes(b'{"index_version": 1, "what": "else"}')
    assert (prepared_kernels(), damaged_kernels()) == ((), ())
    assert prepare(REF).record.index_version == INDEX_VERSION


def test_prune_removes_what_nobody_uses() -> None:
    kernel = prepare(REF)
    other = prepare(KernelRef("debian", "6.1.0-50-amd64", "6.1.176-1")).folder
    with scratch_folder("preparing", kernel.folder.parent) as busy:
        found = prune()
        assert kernel.folder.name in found.in_use
        assert busy.name in found.in_use
        assert busy.exists()
    assert kernel.folder.exists()
    assert not other.exists()
    del kernel
    assert prune().in_use == ()
    assert prepared_kernels() == ()


def test_prune_keeps_what_it_is_told() -> None:
    folder = prepare(REF).folder
    assert prune(REF).in_use == ()
    assert folder.exists()


def test_a_ref_that_is_not_unique(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "available_versions", lambda name: ("6.1.176-1", "6.1.187-1"))
    with pytest.raises(AmbiguousRefError, match="2 versions are offered") as caught:
        prepare(KernelRef("debian", "6.1.0-50-cloud-amd64"))
    assert caught.value.exit_status == 2
