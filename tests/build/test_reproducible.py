"""The same fix on the same kernel is the same module, whoever builds it, wherever and whenever."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.build.conftest import Builder
from tests.fixmaker import Edit, FixMaker

from kmend.factory.build import build, write_build
from kmend.factory.build.debugmodule import debug_module
from kmend.factory.kernels.prepared import Kernel

PATH = "fs/filesystems.c"


def test_bit_by_bit(prepared: Kernel, maker: FixMaker, command: Builder, tmp_path: Path) -> None:
    edit = Edit(
        PATH,
        '\t\tseq_printf(m, "%s\\t%s\\n",',
        '\t\tif (WARN_ON_ONCE(!tmp->name))\n\t\t\tbreak;\n\t\tseq_printf(m, "%s:\\t%s\\n",',
    )
    built = build(prepared, [maker.fix(edit)])
    again = build(prepared, [maker.fix(edit)])
    assert again.module == built.module
    assert again.manifest == built.manifest
    write_build(built, tmp_path / "here")

    elsewhere, temporary = tmp_path / "another folder", tmp_path / "temporary"
    elsewhere.mkdir()
    temporary.mkdir()
    environment = {
        "TMPDIR": str(temporary),
        "HOME": str(elsewhere),
        "TZ": "Asia/Tokyo",
        "LANG": "de_DE.UTF-8",
        "KBUILD_BUILD_USER": "me",
        "KMEND_CACHE": str(prepared.folder.parents[1]),
    }
    outcome = command(maker.patch([edit]), output=elsewhere / "out", cwd=elsewhere, environment=environment)
    assert outcome.status == 0, outcome.stderr
    name = f"{built.manifest.module.name}.ko"
    assert (elsewhere / "out" / name).read_bytes() == (tmp_path / "here" / name).read_bytes() == built.module
    assert (elsewhere / "out" / "source" / "glue.c").read_text() == built.glue
    assert list(temporary.iterdir()) == []
    for secret in (str(tmp_path), str(prepared.folder), "/tmp/", "kmend-build-"):
        assert secret.encode() not in built.module


def test_the_name_follows_the_content(prepared: Kernel, maker: FixMaker) -> None:
    one, other = (
        build(prepared, [maker.fix(Edit(PATH, '"" : "nodev"', f'"" : "{text}"'))]) for text in ("mended", "healed")
    )
    higher = build(prepared, [maker.fix(Edit(PATH, '"" : "nodev"', '"" : "mended"'))], level=2, base=1)
    names = {built.manifest.module.name for built in (one, other, higher)}
    assert len(names) == 3
    assert one.manifest.module.size == other.manifest.module.size


_OTHERS = (".kmend-", "tree.making", "use.lock")
"""What other builds, at work at the same time, may have there."""


def test_nothing_is_left_beside_the_tree(prepared: Kernel, maker: FixMaker) -> None:
    def beside() -> list[str]:
        return sorted(path.name for path in prepared.folder.iterdir() if not path.name.startswith(_OTHERS))

    before = beside()
    build(prepared, [maker.fix(Edit(PATH, '"" : "nodev"', '"" : "virtual"'))])
    assert beside() == before
    assert (prepared.tree.path / PATH).read_text().count('"" : "nodev"') == 1
    assert not (prepared.tree.path / "fs/filesystems.o").exists()


@pytest.mark.slow
def test_the_number_of_processors_and_the_place_of_the_shadow(
    prepared: Kernel, maker: FixMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits = (
        Edit(PATH, '"" : "nodev"', '"" : "virtual"'),
        Edit("fs/proc/loadavg.c", "%u/%d %d\\n", "%u/%d %d mended\\n"),
        Edit("drivers/block/zram/zram_drv.c", "\tval = init_done(zram);\n", "\tval = init_done(zram) + 40;\n"),
    )
    fix = maker.fix(*edits)
    built = []
    for processors, place in ((1, prepared.folder), (7, tmp_path)):
        monkeypatch.setattr("os.cpu_count", lambda count=processors: count)
        monkeypatch.setattr("kmend.factory.build.compile._shadow_place", lambda folder=place: folder)
        built.append(build(prepared, [fix]))
    assert built[0].module == built[1].module
    assert built[0].manifest == built[1].manifest
    assert debug_module(built[0].module, built[0].objects) == debug_module(built[1].module, built[1].objects)
