"""A package archive and an empty cache for each test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.unit.factory.kernels import debs


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> debs.Archive:
    """An archive without packages; its client programs come first on PATH."""
    monkeypatch.setenv("KMEND_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'archive' / 'bin'}:{os.environ['PATH']}")
    return debs.install(tmp_path / "archive")
