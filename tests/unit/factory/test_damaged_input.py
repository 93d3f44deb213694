"""Damaged input of every kind ends in a `KmendError`: the fuzzing targets for a few seconds, with chosen seeds.

`make fuzz` runs the same targets for long, guided by coverage, on real objects and patches; what it finds is tested beside the
code that was at fault.
"""

from __future__ import annotations

import random

import pytest
from tests.fuzz.samples import samples
from tests.fuzz.targets import TARGETS

from kmend.core.errors import KmendError

EXECUTIONS = {"patch": 4000, "object": 250, "image": 400, "lists": 600, "package": 300}


@pytest.mark.parametrize("name", TARGETS)
def test_samples_are_read(name: str) -> None:
    accepted = 0
    for sample in samples()[name]:
        try:
            TARGETS[name].run(sample)
        except KmendError:
            continue
        accepted += 1
    assert accepted >= 1


@pytest.mark.parametrize("name", TARGETS)
def test_only_kmend_errors_come_out(name: str) -> None:
    target, inputs = TARGETS[name], samples()[name]
    rng = random.Random(7)
    accepted = refused = 0
    for _ in range(EXECUTIONS[name]):
        damaged = target.mutate(rng.choice(inputs), rng)
        try:
            target.run(damaged)
        except KmendError:
            refused += 1
        else:
            accepted += 1
    assert accepted + refused == EXECUTIONS[name]
    assert accepted > 0
