"""Definitions that cannot be are refused before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmend import lab

KERNEL = lab.UnpackedKernel(Path("/nowhere"), "6.1-test", "0" * 64)


@pytest.mark.parametrize("cpus", [0, 65, -1])
def test_processors(cpus: int) -> None:
    with pytest.raises(lab.LabError, match="not possible"):
        lab.Definition(KERNEL, cpus=cpus)


@pytest.mark.parametrize("memory", [0, 64, 2 * 1024 * 1024])
def test_memory(memory: int) -> None:
    with pytest.raises(lab.LabError, match="not possible"):
        lab.Definition(KERNEL, memory_mib=memory)


@pytest.mark.parametrize("network", [lab.Network(to_host=(0,)), lab.Network(to_guest=(65536,))])
def test_ports(network: lab.Network) -> None:
    with pytest.raises(lab.LabError, match="TCP ports"):
        lab.Definition(KERNEL, network=network)


def test_processors_by_shape() -> None:
    assert lab.Definition(KERNEL).processors == 1
    assert lab.Definition(KERNEL, lab.Shape.FULL).processors == 2
    assert lab.Definition(KERNEL, lab.Shape.FULL, cpus=1).processors == 1
