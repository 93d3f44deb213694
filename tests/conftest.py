"""What tests of every kind share: how properties are tried, and, where a real kernel is needed, one that is prepared."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from tests.fixmaker import FixMaker

from kmend.factory.kernels.packages import choose_kernel
from kmend.factory.kernels.prepared import Kernel, prepare

# No test asserts a time: on a busy machine any step may be slow.
settings.register_profile("kmend", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kmend")

KERNELS = (
    "debian:6.1.0-50-cloud-amd64@6.1.176-1",
    "debian:6.1.0-53-cloud-amd64@6.1.187-1",
    "debian:6.1.0-54-cloud-amd64@6.1.190-1",
    "debian:6.1.0-55-cloud-amd64@6.1.192-1",
    "debian:6.1.0-56-cloud-amd64@6.1.192-2",
    "debian:6.1.0-47-cloud-amd64@6.1.170-3",
)
"""In the order of preference: archives drop old versions, and every test here works with any of these."""


@pytest.fixture(scope="session")
def prepared() -> Kernel:
    """A prepared kernel; the first use on a machine downloads and prepares it."""
    return prepare(choose_kernel(KERNELS))


@pytest.fixture(scope="session")
def maker(prepared: Kernel) -> FixMaker:
    """Makes fixes for the prepared kernel."""
    return FixMaker(prepared.tree.path)
