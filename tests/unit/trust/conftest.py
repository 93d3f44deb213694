"""Keys and a small repository to copy from."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from tests.unit.sample_livepatch import livepatch, write_build

from kmend.trust.signing import keyfiles
from kmend.trust.signing.keyfiles import KeyFolder, KeyPlan
from kmend.trust.signing.publishing import Publisher, read_build

NOW = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


def no_passphrase(path: Path) -> bytes:
    """For keys that are not encrypted."""
    raise AssertionError(f"{path} should not be encrypted")


def publisher(repository: Path, keys: Path, *, now: datetime.datetime = NOW) -> Publisher:
    """A publisher with unencrypted keys."""
    return Publisher(repository, KeyFolder(keys, no_passphrase), now=now)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trust") / "keys"
    keyfiles.create(folder, KeyPlan(bin_bits=2, module_key_bits=2048), now=NOW)
    return folder


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Path:
    """A repository with level 1; to be copied, not changed."""
    base = tmp_path_factory.mktemp("original")
    build = write_build(base / "build", *livepatch(1, ["CVE-2026-2001"]))
    publisher(base / "repository", keys).publish([read_build(build)])
    return base / "repository"
