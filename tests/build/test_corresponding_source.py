"""What is handed on with a livepatch so that anyone can build it again."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fixmaker import Edit, FixMaker

from kmend.core import document
from kmend.core.manifest import sha256_hex
from kmend.factory.build import Built, build, write_build
from kmend.factory.build.corresponding import Inputs
from kmend.factory.fixes import parse_fix
from kmend.factory.kernels.prepared import Kernel
from kmend.trust.signing.publishing import read_build

LOADAVG = Edit("fs/proc/loadavg.c", "%u/%d %d\\n", "%u/%d %d mended\\n")
FILESYSTEMS = Edit("fs/filesystems.c", '"" : "nodev"', '"" : "virtual"')


@pytest.fixture(scope="module")
def built(prepared: Kernel, maker: FixMaker) -> Built:
    names = ("first fix (äö)/../.patch", "../second.patch")
    edits = (LOADAVG, FILESYSTEMS)
    fixes = [parse_fix(maker.patch([edit]).encode(), name) for edit, name in zip(edits, names, strict=True)]
    return build(prepared, fixes, level=3, base=2)


def test_what_there_is(prepared: Kernel, built: Built) -> None:
    series = built.source["series"].decode().split()
    assert series == ["0001-.patch", "0002-second.patch"], "plain names, whatever the author's files were called"
    assert [sha256_hex(built.source[name]) for name in series] == [fix.digest for fix in built.manifest.fixes]
    assert set(built.source) == {*series, "series", "glue.c", "commands", "inputs.json", "README"}
    assert built.source["glue.c"].decode() == built.glue
    inputs = document.decode(Inputs, built.source["inputs.json"])
    assert (inputs.kernel, inputs.level, inputs.base) == (prepared.identity, 3, 2)
    assert inputs.packages == built.manifest.built.inputs
    assert any(name.startswith("linux-source-") for name in inputs.packages)
    assert inputs.tools["compiler"] == prepared.record.compiler
    commands = built.source["commands"].decode()
    for file in ("fs/proc/loadavg.c", "fs/filesystems.c"):
        assert f"# {file}\ngcc" in commands
    assert str(prepared.folder) not in commands
    assert "--level 3 --base 2" in built.source["README"].decode()


def test_the_manifest_names_it_and_publish_takes_it(built: Built, tmp_path: Path) -> None:
    assert {file.name: file.content.sha256 for file in built.manifest.source} == {
        name: sha256_hex(content) for name, content in built.source.items()
    }
    write_build(built, tmp_path / "build")
    assert set(read_build(tmp_path / "build").source) == set(built.source.values())
