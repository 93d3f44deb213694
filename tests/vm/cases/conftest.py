"""Guests for cases: with the tracing and debugging file systems, and a program that makes calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.vm.livepatched import compiled, unpacked

from kmend import lab
from kmend.factory.kernels.prepared import Kernel

MOUNTS = """\
mkdir -p /trace && mount -t tracefs none /trace && mount -t debugfs none /sys/kernel/debug
echo 64 > /trace/buffer_size_kb
"""


@pytest.fixture(scope="session")
def image(prepared: Kernel) -> lab.UnpackedKernel:
    """The prepared kernel's own package."""
    return unpacked(prepared)


@pytest.fixture(scope="session")
def call(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that makes calls."""
    return compiled(Path(__file__).with_name("call.c"), tmp_path_factory.mktemp("call") / "call")


class Guests:
    """A guest that several tests share, as long as it lives."""

    def __init__(self, image: lab.UnpackedKernel, call: Path) -> None:
        self._image = image
        self._call = call
        self._vm: lab.Vm | None = None

    def one(self) -> lab.Vm:
        """The guest; another one if the last test killed it."""
        if self._vm is None or not self._vm.running:
            self.end()
            self._vm = furnished(self._image, self._call)
        return self._vm

    def end(self) -> None:
        """Cut its power."""
        if self._vm is not None:
            self._vm.close()
            self._vm = None


def furnished(image: lab.UnpackedKernel, call: Path, *modules: str, cpus: int = 2) -> lab.Vm:
    """A booted guest with all that the probes need."""
    vm = lab.boot(image, cpus=cpus, modules=modules)
    try:
        vm.put(call, "/call")
        vm.sh(MOUNTS)
    except BaseException:
        vm.close()
        raise
    return vm


@pytest.fixture(scope="module")
def guests(image: lab.UnpackedKernel, call: Path) -> Iterator[Guests]:
    """A guest for the tests of one module."""
    shared = Guests(image, call)
    yield shared
    shared.end()


@pytest.fixture
def fresh(image: lab.UnpackedKernel, call: Path) -> Iterator[lab.Vm]:
    """A guest of one's own."""
    with furnished(image, call) as vm:
        yield vm
