"""Real kernels for the tests that boot them: whichever of a few the archive, or the cache, still has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.unit.trust.loopback import serving
from tests.vm.faulted import TAINT_WARN, Front, Struck
from tests.vm.published import Published, publish

from kmend import lab
from kmend.agent.recovery import TAINT_DIE
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


@pytest.fixture(scope="session")
def struck_guest(published: Published) -> Iterator[Struck]:
    """One guest for all faults, which reaches a server of ours."""
    with serving(Front.script) as server:
        front = Front(server)
        network = lab.Network(to_host=(front.port,))
        with lab.boot(published.kernel, lab.Shape.FULL, network=network) as vm:
            host = Struck(vm, published, front)
            host.install()
            yield host


@pytest.fixture
def struck(struck_guest: Struck) -> Struck:
    """That guest, its kernel without livepatch and complaint, the agent as right after installing."""
    vm = struck_guest.vm
    if not vm.running:
        vm.start()
    if struck_guest.tainted() & (TAINT_WARN | TAINT_DIE):
        vm.power_off()
        vm.start()
    struck_guest.fresh()
    struck_guest.configure()
    return struck_guest
