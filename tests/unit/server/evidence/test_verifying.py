"""A pack verifies as it was made, and after no change whatever."""

from __future__ import annotations

from tests.unit.server.evidence.conftest import Packed
from tests.unit.server.evidence.packing import wrong


def test_a_pack_verifies_without_the_server(packed: Packed) -> None:
    found = packed.yard.verify(packed.path)
    assert wrong(found) == {}
    assert found.verified
