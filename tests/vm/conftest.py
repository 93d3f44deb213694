"""Real kernels for the tests that boot them: whichever of a few the archive, or the cache, still has."""

from __future__ import annotations

import pytest
from tests.vm.published import Published, publish

from kmend import lab
from kmend.factory.kernels.packages import choose_kernel, fetch_package, kernel_packages

KERNELS = (
    "debian:6.1.0-50-cloud-amd64@6.1.176-1",
    "debian:6.1.0-53-cloud-amd64@6.1.187-1",
    "debian:6.1.0-54-cloud-amd64",
    "debian:6.1.0-55-cloud-amd64",
    "debian:6.1.0-56-cloud-amd64",
)


@pytest.fixture(scope="session")
def kernel() -> lab.UnpackedKernel:
    ref = choose_kernel(KERNELS)
    assert ref.package is not None
    return lab.unpack(fetch_package(kernel_packages(ref).image, ref.package).path)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Two levels and the agent, made once for all tests that want them."""
    return publish(tmp_path_factory.mktemp("agent"))
