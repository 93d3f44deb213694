"""Kernels that cannot be prepared here: what is missing is named, and nothing is downloaded in vain."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.unit.factory.kernels.debs import Archive

from kmend.core.kernel import KernelRef
from kmend.factory.kernels.packages import kernel_packages
from kmend.factory.kernels.prepared import prepare, prepare_index
from kmend.factory.kernels.tree import EnvironmentDiffersError

REF = KernelRef.parse("debian:6.1.0-50-cloud-amd64@6.1.176-1")
NAMES = kernel_packages(REF)
VERSION = "6.1.176-1"


def offer(archive: Archive, *names: str, version: str = VERSION, config: str = "") -> None:
    """Offer packages; the headers hold that configuration."""
    for name in names:
        archive.offer(name, version, {f"./usr/src/{NAMES.headers}/.config": config.encode()})


def refused(ref: KernelRef) -> EnvironmentDiffersError:
    """What preparing it says."""
    with pytest.raises(EnvironmentDiffersError) as caught:
        prepare(ref)
    assert caught.value.exit_status == 4
    return caught.value


def downloads(archive: Archive) -> list[str]:
    """What was downloaded."""
    return [call.split()[-1] for call in archive.calls() if call.startswith("apt-get")]


def test_every_missing_package_is_named(archive: Archive) -> None:
    offer(archive, NAMES.image, NAMES.headers, NAMES.headers_common)
    offer(archive, NAMES.debug, version="6.1.177-1")
    problem = refused(REF)
    assert f"no {NAMES.debug}, {NAMES.source} in version {VERSION}" in problem.message
    assert f"{NAMES.debug} in version 6.1.177-1" in problem.hint
    assert downloads(archive) == []
    with pytest.raises(EnvironmentDiffersError, match=NAMES.debug):
        prepare_index(REF)


@pytest.mark.parametrize(
    "text",
    ["ubuntu:6.1.0-50-cloud-amd64@6.1.176-1", "ubuntu:5.15.0-91-generic", "debian:6.12.107+deb12-amd64@6.12.107-1"],
)
def test_a_kernel_of_another_kind(archive: Archive, text: str) -> None:
    problem = refused(KernelRef.parse(text))
    assert "debug symbols" in problem.message
    assert "headers and source" in problem.message
    assert archive.calls() == []


def test_a_compiler_that_is_not_installed(archive: Archive, tmp_path: Path) -> None:
    """The headers' configuration names it; the large packages are not downloaded before."""
    offer(archive, *NAMES.names, config='CONFIG_CC_VERSION_TEXT="gcc-99 (Debian 99.1.0-1) 99.1.0"\n')
    problem = refused(REF)
    assert 'the distro\'s kernel has "gcc-99 (Debian 99.1.0-1) 99.1.0", this machine' in problem.message
    assert "install the packages gcc-99 " in problem.hint
    assert downloads(archive) == [f"{NAMES.headers}={VERSION}"]
    assert not list(Path(os.environ["KMEND_CACHE"]).glob("kernels/*/*"))
