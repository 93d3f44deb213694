"""Real records of the kernel CNA's, KEV, EPSS and CISA's table, as they lie beside the project."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from kmend.intel.feeds import Cna, read_archive

DATA = Path(__file__).parents[4] / "shared/data"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with the data sets."""
    assert DATA.is_dir(), f"the data sets belong in {DATA}"
    return DATA


@pytest.fixture(scope="session")
def cna(data: Path) -> Cna:
    """All 14,626 records of August 2026."""
    return read_archive(data / "vulns-2026-08-21.tar.xz")


@pytest.fixture(scope="session")
def kev_catalogue(data: Path) -> bytes:
    return lzma.decompress((data / "kev-2026-08-07.json.xz").read_bytes())


@pytest.fixture(scope="session")
def epss_scores(data: Path) -> str:
    return lzma.decompress((data / "epss-kernel-2026-08-16.csv.xz").read_bytes()).decode()
