"""A machine whose tools are not those that compiled the kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.build.conftest import Builder
from tests.fixmaker import Edit, FixMaker

from kmend.factory.kernels.prepared import Kernel
from kmend.factory.kernels.tree import EnvironmentDiffersError, check_toolchain, prepare_tree

VERSION = "fs/proc/version.c"


def _with_tool(folder: Path, name: str, says: str) -> str:
    """A PATH on which a program of that name comes first and says that."""
    tool = folder / name
    tool.write_text(f"#!/bin/sh\necho '{says}'\n")
    tool.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("tool", "says", "named"),
    [
        ("pahole", "v1.29", "CONFIG_PAHOLE_VERSION: the distro's kernel has 124, this machine 129"),
        ("ld", "GNU ld (GNU Binutils) 2.44", "CONFIG_LD_VERSION: the distro's kernel has 24000, this machine 24400"),
        ("as", "nonsense", "CONFIG_AS_VERSION: the distro's kernel has 24000, this machine nothing"),
    ],
)
def test_a_build_with_other_tools(
    command: Builder, maker: FixMaker, tmp_path: Path, tool: str, says: str, named: str
) -> None:
    patch = maker.patch([Edit(VERSION, "\treturn 0;\n", "\treturn 1;\n", first=True)])
    outcome = command(patch, environment={"PATH": _with_tool(tmp_path, tool, says)})
    assert outcome.status == 4, outcome.stderr
    assert outcome.document["error"]["kind"] == "environment-differs"
    assert named in outcome.stderr


def test_another_compiler(prepared: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = prepared.config["CONFIG_CC_VERSION_TEXT"].strip('"')
    compiler = wanted.split()[0]
    assert check_toolchain(prepared.config) == compiler
    monkeypatch.setenv("PATH", _with_tool(tmp_path, compiler, f"{compiler} (Debian 12.1.0-1) 12.1.0"))
    with pytest.raises(EnvironmentDiffersError) as caught:
        check_toolchain(prepared.config)
    assert wanted in caught.value.message
    assert "12.1.0-1" in caught.value.message
    assert "Debian 12" in caught.value.hint


def test_a_missing_tool(prepared: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentDiffersError) as caught:
        check_toolchain(prepared.config)
    for name in ("CONFIG_CC_VERSION_TEXT", "CONFIG_AS_VERSION", "CONFIG_LD_VERSION", "CONFIG_PAHOLE_VERSION"):
        assert name in caught.value.message


def test_another_pahole_stops_a_preparation_before_it_begins(
    prepared: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = tmp_path / "headers"
    headers.mkdir()
    (headers / ".config").write_bytes((prepared.tree.path / ".config").read_bytes())
    monkeypatch.setenv("PATH", _with_tool(tmp_path, "pahole", "v1.29"))
    with pytest.raises(EnvironmentDiffersError, match="CONFIG_PAHOLE_VERSION"):
        prepare_tree(tmp_path / "source", headers, prepared.identity.release, prepared.record.package)
    assert not (tmp_path / "source").exists()
