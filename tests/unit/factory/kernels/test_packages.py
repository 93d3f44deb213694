"""Packages are what the signed lists say, or an error says why not; a second use costs nothing."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import namedtuple
from pathlib import Path

import pytest
from tests.unit.factory.kernels.debs import Archive, children

from kmend.core.errors import SystemProblemError
from kmend.core.kernel import KernelRef
from kmend.factory.kernels.packages import (
    PackageGoneError,
    PackageProblemError,
    available_versions,
    choose_kernel,
    fetch_package,
    kernel_packages,
    members,
    unpack,
)

FILES = {"./usr/share/doc/readme": b"words\n", "./boot/vmlinuz": bytes(range(256)) * 1000}
REF = "debian:6.1.0-50-cloud-amd64@6.1.176-1"


def test_a_package_is_downloaded_and_verified_once(archive: Archive) -> None:
    source = archive.offer("linux-doc", "1:6.1+b~1-1", FILES)
    package = fetch_package("linux-doc", "1:6.1+b~1-1")
    assert package.path.name == "linux-doc_1%3a6.1+b~1-1_all.deb"
    assert package.path.read_bytes() == source.read_bytes()
    calls = archive.calls()
    assert len(calls) == 2
    assert fetch_package("linux-doc", "1:6.1+b~1-1") == package
    assert archive.calls() == calls


def test_a_cached_package_that_was_touched_is_verified_again(archive: Archive) -> None:
    archive.offer("linux-doc", "1", FILES)
    package = fetch_package("linux-doc", "1")
    os.utime(package.path, (0, 0))
    assert fetch_package("linux-doc", "1") == package
    assert [call.split()[0] for call in archive.calls()] == ["apt-cache", "apt-get", "apt-cache"]


def test_a_cached_package_that_was_changed_is_downloaded_again(
    archive: Archive, caplog: pytest.LogCaptureFixture
) -> None:
    archive.offer("linux-doc", "1", FILES)
    package = fetch_package("linux-doc", "1")
    good = package.path.read_bytes()
    package.path.write_bytes(b"something else")
    assert fetch_package("linux-doc", "1").path.read_bytes() == good
    assert "damaged" in caplog.text


def test_a_cached_package_is_used_when_the_archive_dropped_it(archive: Archive) -> None:
    archive.offer("linux-doc", "1", FILES)
    package = fetch_package("linux-doc", "1")
    archive.offers.clear()
    archive.publish()
    assert fetch_package("linux-doc", "1") == package


def test_what_is_not_as_the_lists_say_is_not_kept(archive: Archive) -> None:
    source = archive.offer("linux-doc", "1", FILES)
    source.write_bytes(source.read_bytes() + b"\n")
    with pytest.raises(PackageProblemError, match="signed package lists say"):
        fetch_package("linux-doc", "1")
    cache = Path(os.environ["KMEND_CACHE"], "packages")
    assert [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == []


def test_a_version_that_is_gone_tells_which_are_there(archive: Archive) -> None:
    archive.offer("linux-doc", "3", FILES)
    archive.offer("linux-doc", "2", FILES)
    with pytest.raises(PackageGoneError) as caught:
        fetch_package("linux-doc", "1")
    assert caught.value.offered == ("3", "2")
    assert caught.value.hint == "the archive offers 3, 2"
    assert available_versions("linux-doc") == ("3", "2")
    with pytest.raises(PackageGoneError) as caught:
        fetch_package("linux-other", "1")
    assert "apt-get update" in caught.value.hint


@pytest.mark.parametrize(
    ("complaint", "error", "word"),
    [
        ("E: Failed to fetch http://x/y.deb  404  Not Found [IP: 1.2.3.4 80]", PackageGoneError, "apt-get update"),
        ("E: Write error - write (28: No space left on device)", SystemProblemError, "KMEND_CACHE"),
        ("E: You don't have enough free space in /x.", SystemProblemError, "KMEND_CACHE"),
        ("E: Could not resolve 'archive.example'", PackageProblemError, "network"),
    ],
)
def test_a_download_that_fails_says_why(
    archive: Archive, complaint: str, error: type[PackageProblemError], word: str
) -> None:
    archive.offer("linux-doc", "1", FILES)
    archive.offers[0]["complaint"] = complaint
    archive.publish()
    with pytest.raises(error) as caught:
        fetch_package("linux-doc", "1")
    assert word in caught.value.hint
    archive.offers[0]["complaint"] = ""
    archive.publish()
    assert fetch_package("linux-doc", "1").version == "1"


def test_a_disk_that_is_too_small_is_noticed_before(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.offer("linux-doc", "1", FILES)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 10, 1000))
    with pytest.raises(SystemProblemError, match="has 0 MB left"):
        fetch_package("linux-doc", "1")
    assert not any(call.startswith("apt-get") for call in archive.calls())


@pytest.mark.parametrize(
    ("name", "version"), [("../x", "1"), ("x y", "1"), ("-x", "1"), ("linux", "../1"), ("linux", "-o")]
)
def test_names_that_are_no_names_are_refused(archive: Archive, name: str, version: str) -> None:
    with pytest.raises(PackageProblemError):
        fetch_package(name, version)
    assert archive.calls() == []


def test_a_kernel_has_five_packages() -> None:
    assert kernel_packages(KernelRef.parse(REF)).names == (
        "linux-image-6.1.0-50-cloud-amd64-unsigned",
        "linux-image-6.1.0-50-cloud-amd64-dbg",
        "linux-headers-6.1.0-50-cloud-amd64",
        "linux-headers-6.1.0-50-common",
        "linux-source-6.1",
    )
    assert (
        kernel_packages(KernelRef.parse("debian:6.1.0-50-rt-amd64")).headers_common
        == "linux-headers-6.1.0-50-common-rt"
    )
    for text in ("ubuntu:6.1.0-50-cloud-amd64", "debian:6.1.0"):
        with pytest.raises(PackageProblemError):
            kernel_packages(KernelRef.parse(text))


def offer_kernel(archive: Archive, text: str, *, without: str = "") -> None:
    ref = KernelRef.parse(text)
    for name in kernel_packages(ref).names:
        if without not in name or not without:
            archive.offer(name, str(ref.package), FILES)


def test_the_first_kernel_that_is_complete_is_chosen(archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    offer_kernel(archive, "debian:6.1.0-47-cloud-amd64@6.1.170-3", without="-dbg")
    offer_kernel(archive, REF)
    offer_kernel(archive, "debian:6.1.0-53-cloud-amd64@6.1.187-1")
    wanted = ["debian:6.1.0-47-cloud-amd64@6.1.170-3", "debian:6.1.0-50-cloud-amd64", "debian:6.1.0-53-cloud-amd64"]
    assert str(choose_kernel(wanted)) == REF
    assert f"kernel {REF} is used" in caplog.text
    assert "no linux-image-6.1.0-47-cloud-amd64-dbg" in caplog.text


def test_a_kernel_that_is_cached_needs_no_archive(archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    offer_kernel(archive, REF)
    for name in kernel_packages(KernelRef.parse(REF)).names:
        fetch_package(name, "6.1.176-1")
    archive.offers.clear()
    archive.publish()
    calls = archive.calls()
    assert str(choose_kernel([REF])) == REF
    assert archive.calls() == calls
    assert f"kernel {REF} is used" in caplog.text


def test_no_kernel_that_is_complete_is_an_error_with_reasons(archive: Archive) -> None:
    offer_kernel(archive, REF, without="linux-source")
    with pytest.raises(PackageGoneError) as caught:
        choose_kernel([REF, "debian:6.1.0-53-cloud-amd64"])
    assert "no linux-source-6.1" in caught.value.hint
    assert "no linux-image-6.1.0-53-cloud-amd64-unsigned" in caught.value.hint


def test_members_are_streamed(archive: Archive) -> None:
    archive.offer("linux-doc", "1", FILES)
    package = fetch_package("linux-doc", "1")
    assert dict(members(package, lambda name: name.startswith("boot/"))) == {"boot/vmlinuz": FILES["./boot/vmlinuz"]}
    name, _content = next(members(package, lambda name: True))
    assert name == "usr/share/doc/readme"
    assert "dpkg-deb" not in children()


def test_a_package_is_unpacked_without_its_links(archive: Archive, tmp_path: Path) -> None:
    archive.offer("linux-doc", "1", FILES)
    assert unpack(fetch_package("linux-doc", "1"), tmp_path / "out", lambda name: "doc" in name) == 1
    assert (tmp_path / "out" / "usr/share/doc/readme").read_bytes() == b"words\n"


@pytest.mark.parametrize("path", ["../etc/passwd", "/etc/passwd", "./usr/../../etc/passwd"])
def test_a_package_with_an_unsafe_path_is_refused(archive: Archive, tmp_path: Path, path: str) -> None:
    archive.offer("linux-doc", "1", {path: b"x"})
    with pytest.raises(PackageProblemError, match="unsafe path"):
        unpack(fetch_package("linux-doc", "1"), tmp_path / "out", lambda name: True)


def test_a_package_that_cannot_be_read_is_an_error(archive: Archive) -> None:
    source = archive.offer("linux-doc", "1", FILES)
    content = source.read_bytes()
    for damaged in (content[:-4000], b"garbage", b""):
        archive.offers.clear()
        archive.offer("linux-doc", "1", {}).write_bytes(damaged)
        archive.offers[0].update(SHA256=hashlib.sha256(damaged).hexdigest())
        archive.publish()
        for path in Path(os.environ["KMEND_CACHE"]).glob("packages/*.deb*"):
            path.unlink()
        with pytest.raises(PackageProblemError, match="read"):
            list(members(fetch_package("linux-doc", "1"), lambda name: True))
