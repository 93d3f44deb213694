"""The debug companion of a livepatch: every byte of the livepatched functions has its source line, added lines told apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fixmaker import Edit, FixMaker

from kmend.factory.build import Built, build
from kmend.factory.build.debugmodule import debug_module, debug_symbols
from kmend.factory.desk.companion import find_companion, keep_companion, write_companion
from kmend.factory.desk.sourcelines import source_lines
from kmend.factory.kernels.prepared import Kernel

PRINTED = '\t\tseq_printf(m, "%s\\t%s\\n",'
CALLED = '\t\tif (strlen(tmp->name) > 99)\n\t\t\tseq_puts(m, "long ");\n'
FILESYSTEMS = Edit("fs/filesystems.c", PRINTED, f"{CALLED}{PRINTED}")
NAP = "\tif (!t->task)\n\t\treturn 0;\n\n\trestart ="
SHARED_SECTION = Edit("kernel/time/hrtimer.c", NAP, NAP.replace(" 0;", " READ_ONCE(t->timer.node.expires) == 77;"))
STATE = Edit("drivers/block/zram/zram_drv.c", "\tval = init_done(zram);\n", "\tval = init_done(zram) + 40;\n")


@pytest.fixture(scope="module")
def built(prepared: Kernel, maker: FixMaker) -> Built:
    return build(prepared, [maker.fix(FILESYSTEMS, SHARED_SECTION, STATE)])


def test_every_replaced_function_has_its_lines(built: Built, maker: FixMaker, tmp_path: Path) -> None:
    write_companion(built, tmp_path)
    companion = find_companion(built.manifest.module.name, None, [tmp_path])
    assert companion.build_id is not None
    functions = [function for group in built.manifest.objects for function in group.functions]
    assert {function.source for function in functions} >= {FILESYSTEMS.path, SHARED_SECTION.path, STATE.path}
    added: dict[str, list[tuple[int, str | None]]] = {}
    for function in functions:
        (symbol,) = debug_symbols(companion.image, function.name)
        assert symbol.section is not None
        assert symbol.size == function.new_size
        addresses = range(symbol.value, symbol.value + symbol.size)
        found = source_lines(companion.file, symbol.section.name, addresses)
        assert len(found) == symbol.size, function.name
        outermost = {lines[-1] for lines in found.values()}
        assert {line.function for line in outermost} == {function.name}
        assert {line.file for line in outermost} == {function.source}
        every = {line for lines in found.values() for line in lines}
        added.setdefault(function.source, []).extend(
            sorted((line.line, companion.text(line.file, line.line, added=True)) for line in every if line.added)
        )
        for line in every:
            if line.file == function.source and not line.added:
                text = companion.text(line.file, line.line, added=False)
                assert text == maker.source(line.file).splitlines()[line.line - 1], "the kernel's own line and number"
    first = maker.source(FILESYSTEMS.path).splitlines().index(PRINTED) + 1
    assert added[FILESYSTEMS.path] == [
        (first, "\t\tif (strlen(tmp->name) > 99)"),
        (first + 1, '\t\t\tseq_puts(m, "long ");'),
    ], "though the lines that they stand before have the same numbers"
    assert len(added[SHARED_SECTION.path]) == 1
    assert len(added[STATE.path]) == 1


def test_it_does_not_tell_where_it_was_made(
    prepared: Kernel, built: Built, maker: FixMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "elsewhere"))
    again = build(prepared, [maker.fix(FILESYSTEMS, SHARED_SECTION, STATE)])
    one = debug_module(built.module, built.objects)
    assert debug_module(again.module, again.objects) == one
    assert b".shadow-" not in one
    assert str(prepared.folder).encode() not in one


def test_the_store_has_it_by_name_and_as_debuggers_look_for_it(built: Built, tmp_path: Path) -> None:
    folder = keep_companion(built, tmp_path)
    assert keep_companion(built, tmp_path) == folder, "the same again takes its place"
    companion = find_companion(built.manifest.module.name, None, [tmp_path])
    build_id = companion.build_id
    assert build_id is not None
    link = tmp_path / ".build-id" / build_id[:2] / f"{build_id[2:]}.debug"
    assert link.resolve() == folder / f"{built.manifest.module.name}.ko.debug"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".build-id", ".lock", built.manifest.module.name]
