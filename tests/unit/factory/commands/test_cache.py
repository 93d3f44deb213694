"""What the cache command says of the prepared kernels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kmend.factory.main import cli

KERNEL = "debian-6.1.0-50-cloud-amd64@6.1.176-1"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one kernel of two large parts and small ones."""
    monkeypatch.setenv("KMEND_CACHE", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name, size in (("tree/kernel/sys.c", 3_000_000), ("index/image.bin", 2_000_000), ("modules/x.ko", 10_000)):
        path = tmp_path / "kernels" / KERNEL / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    (tmp_path / "kernels" / KERNEL / "prepared.json").write_text("{}")
    return tmp_path


def test_the_parts_of_each_kernel(cache: Path) -> None:
    document = json.loads(CliRunner().invoke(cli, ["cache", "--json"]).stdout)
    parts = document["kernels"][KERNEL]
    assert set(parts) == {"tree", "index", "other"}
    assert 3_000_000 <= parts["tree"] < 3_100_000
    assert 10_000 <= parts["other"] < 100_000
    assert sum(parts.values()) == document["bytes"]["kernels"]
    shown = CliRunner().invoke(cli, ["cache"]).stdout
    assert f"{KERNEL}: index 2 MB, tree 3 MB, other 0 MB" in shown


def test_an_empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMEND_CACHE", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert json.loads(CliRunner().invoke(cli, ["cache", "--json"]).stdout)["kernels"] == {}
