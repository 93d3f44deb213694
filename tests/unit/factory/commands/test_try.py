"""`kmend-factory try`: what is told before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from kmend.core.errors import KmendError
from kmend.factory.desk import TrialError, read_probe
from kmend.factory.desk.trial import MAX_PROBE
from kmend.factory.main import cli

KERNEL = ("--kernel", "debian:6.1.0-50-cloud-amd64@6.1.176-1")


def attempt(*words: str | Path) -> None:
    result = CliRunner().invoke(cli, ["try", *KERNEL, *map(str, words)], standalone_mode=False)
    assert result.exception is not None
    raise result.exception


def test_a_probe_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(TrialError, match="cannot read the probe"):
        attempt("--test", tmp_path / "absent", "fix.patch")
    with pytest.raises(TrialError, match="cannot read the probe"):
        read_probe(tmp_path)
    (tmp_path / "empty").write_text(" \n")
    with pytest.raises(TrialError, match="is empty"):
        read_probe(tmp_path / "empty")
    with (tmp_path / "large").open("wb") as stream:
        stream.write(b"#!/bin/sh\n")
        stream.truncate(MAX_PROBE + 1)
    with pytest.raises(TrialError, match="larger than 64 MiB"):
        read_probe(tmp_path / "large")


def test_what_else_is_told_at_once(tmp_path: Path) -> None:
    probe, fix = tmp_path / "probe", tmp_path / "fix.patch"
    probe.write_text("exit 0\n")
    with pytest.raises(KmendError, match="does not say what to copy where"):
        attempt("--test", probe, "--copy", "nonsense", fix)
    with pytest.raises(KmendError, match="cannot read the fix"):
        attempt("--test", probe, fix)
    fix.write_text("--- a/fs/a.c\n+++ b/fs/a.c\n@@ -1 +1 @@\n-a\n+b\n")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/something").write_text("")
    with pytest.raises(TrialError, match="is not an empty folder"):
        attempt("--test", probe, "--keep", tmp_path / "kept", fix)
