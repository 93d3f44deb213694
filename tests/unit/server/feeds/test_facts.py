"""Kernel facts by the factory's program: what it is asked, and what becomes of its answer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.unit.intel.test_applicability import FACTS

from kmend.core.document import encode
from kmend.server.feeds import FeedError, facts_of

REF = "debian:6.1.0-9-amd64"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for `kmend-factory`, which notes how it was called."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "facts.json").write_bytes(encode(FACTS))
    path = tmp_path / "kmend-factory"
    path.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncat {tmp_path}/facts.json\n')
    path.chmod(0o755)
    return path


def test_the_factory_is_asked(program: Path) -> None:
    assert facts_of(REF) == FACTS
    assert facts_of(REF, quick=True) == FACTS
    assert program.with_name("calls").read_text().splitlines() == [
        f"kernel facts {REF} --json",
        f"kernel facts {REF} --quick --json",
    ]


def test_what_the_factory_says_is_passed_on(program: Path) -> None:
    program.write_text(
        '#!/bin/sh\necho "error: no package linux-source-6.1" >&2\necho "hint: it has gone" >&2\nexit 4\n'
    )
    with pytest.raises(FeedError, match="no package linux-source") as caught:
        facts_of(REF, quick=True)
    assert caught.value.hint == "it has gone"


def test_without_the_factory(program: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FeedError, match="is not installed here"):
        facts_of(REF)
    (tmp_path / "facts.json").write_bytes(encode(FACTS))
    assert facts_of(REF, tmp_path / "facts.json") == FACTS
