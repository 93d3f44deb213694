"""Which module files are loaded, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.lab.errors import KernelPackageError
from kmend.lab.modules import load_order, module_name, modules_to_load, parse_dependencies

TEXT = """\
kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/net/net-failover.ko: kernel/net/core/failover.ko
kernel/net/core/failover.ko:
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net-failover.ko kernel/net/core/failover.ko \
kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
"""


def test_dependencies_come_first() -> None:
    order = load_order(["virtio_net", "virtio-ring"], parse_dependencies(TEXT), frozenset())
    assert [module_name(path) for path in order] == ["virtio", "virtio_ring", "failover", "net_failover", "virtio_net"]


def test_built_in_modules_need_no_file() -> None:
    assert load_order(["ext4"], {}, frozenset({"ext4"})) == ()


def test_an_unknown_module_is_refused() -> None:
    with pytest.raises(KernelPackageError, match="no module nonsense"):
        load_order(["nonsense"], parse_dependencies(TEXT), frozenset())


@pytest.mark.parametrize("path", ["a/net-failover.ko", "net-failover", "x/net_failover.ko.xz"])
def test_names(path: str) -> None:
    assert module_name(path) == "net_failover"


@given(st.dictionaries(st.integers(1, 30), st.sets(st.integers(1, 30), max_size=4), max_size=20))
def test_order_holds_for_any_graph_without_cycles(edges: dict[int, set[int]]) -> None:
    graph = {node: {other for other in others if other < node} for node, others in edges.items()}
    for others in list(graph.values()):
        for other in others:
            graph.setdefault(other, set())

    def closure(node: int) -> list[int]:
        found: dict[int, None] = {}
        for other in sorted(graph[node], reverse=True):
            found.update(dict.fromkeys([other, *closure(other)]))
        return sorted(found, reverse=True)

    text = "".join(f"m{node}.ko: {' '.join(f'm{other}.ko' for other in closure(node))}\n" for node in graph)
    order = load_order([f"m{node}" for node in graph], parse_dependencies(text), frozenset())
    place = {path: number for number, path in enumerate(order)}
    assert len(place) == len(graph)
    for node, others in graph.items():
        assert all(place[f"m{other}.ko"] < place[f"m{node}.ko"] for other in others)


def test_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "modules.dep").write_text(TEXT)
    (tmp_path / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    assert modules_to_load(tmp_path, ["ext4", "failover"]) == ("kernel/net/core/failover.ko",)


def test_a_folder_without_lists(tmp_path: Path) -> None:
    with pytest.raises(KernelPackageError, match=r"modules\.dep"):
        modules_to_load(tmp_path, ["ext4"])
