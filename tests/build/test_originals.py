"""The ground that everything stands on: what is compiled here is what the distro ships, and nothing is seen to change."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.fixmaker import Edit, FixMaker

from kmend.factory.build.compare import compare
from kmend.factory.build.compile import CompiledUnit, compile_original, compile_patched, shadow_tree
from kmend.factory.build.special import INIT_CODE
from kmend.factory.build.unit import Unit
from kmend.factory.build.verify import Mismatch, Placement
from kmend.factory.elf import read_object
from kmend.factory.fixes import apply_series, with_line_directives
from kmend.factory.kernels.prepared import Kernel

UNITS = (
    "fs/filesystems.c", "fs/inode.c", "fs/proc/cmdline.c", "fs/proc/loadavg.c", "fs/proc/uptime.c", "fs/proc/version.c",
    "fs/select.c", "kernel/audit_watch.c", "kernel/entry/common.c", "kernel/exit.c", "kernel/reboot.c",
    "kernel/time/hrtimer.c", "kernel/utsname_sysctl.c", "lib/kstrtox.c", "net/core/sock_map.c", "net/unix/af_unix.c",
    "security/keys/user_defined.c", "security/selinux/ss/policydb.c",
)  # fmt: skip
"""Built-in files of all kinds; those that the other tests compile anyway are among them."""


@pytest.fixture(scope="module")
def originals(prepared: Kernel) -> dict[str, CompiledUnit]:
    """Each file compiled as it is, from the cache if it was before."""
    return {source: compile_original(prepared, source) for source in UNITS}


def unit(compiled: CompiledUnit) -> Unit:
    """A compiled file, read."""
    return Unit(compiled.source, read_object(compiled.content))


def test_functions_are_the_shipped_ones(prepared: Kernel, originals: dict[str, CompiledUnit]) -> None:
    equal = 0
    mismatches: list[tuple[str, Mismatch]] = []
    for source, compiled in originals.items():
        found = unit(compiled)
        placement = Placement(found, prepared.vmlinux)
        for function in found.functions:
            if INIT_CODE.match(function.section.name):
                continue
            mismatch = placement.verify(function)
            if mismatch is None:
                equal += 1
            else:
                mismatches.append((source, mismatch))
    assert equal > 500
    assert len(mismatches) / (equal + len(mismatches)) < 0.01, mismatches
    unexplained = [
        (source, mismatch)
        for source, mismatch in mismatches
        # Without a section of its own a function may reach its neighbour by a two-byte jump instead of a five-byte one.
        if not mismatch.overridden and "bytes long when compiled here" not in mismatch.reason
    ]
    assert unexplained == []


def test_a_line_more_at_the_top_changes_nothing(
    prepared: Kernel, originals: dict[str, CompiledUnit], maker: FixMaker
) -> None:
    """Line numbers, numbered names and tables all move, but for `#line`; whatever still does must not count."""
    edits = []
    for source in UNITS:
        first = next(line for line in maker.source(source).splitlines(keepends=True) if line.startswith("#include"))
        edits.append(Edit(source, first, f"struct this_is_not_used;\n{first}", first=True))
    applied = apply_series(lambda path: maker.source(path).encode(), [maker.fix(*edits)])
    texts = {path: with_line_directives(file, path) for path, file in applied.items()}
    with shadow_tree(prepared.tree.path, texts) as shadow, ThreadPoolExecutor(2) as pool:
        patched = list(pool.map(lambda original: compile_patched(shadow, original), originals.values()))
    for original, compiled in zip(originals.values(), patched, strict=True):
        found = compare(unit(original), unit(compiled))
        where = original.source
        assert [old.name for old, _ in found.changed] == [], where
        assert [element.name for element in found.added] == [], where
        assert (found.removed, found.refusals) == ([], []), where


def _symbols(prepared: Kernel) -> Iterator[tuple[str, int, int]]:
    """Name, address, position of every symbol whose name is not unique."""
    counted: dict[str, int] = {}
    for symbol in prepared.kallsyms.symbols:
        counted[symbol.name] = counted.get(symbol.name, 0) + 1
        if len(prepared.kallsyms.named(symbol.name)) > 1:
            yield symbol.name, symbol.address, counted[symbol.name]


def test_kallsyms_is_in_the_kernels_order(prepared: Kernel) -> None:
    addresses = [symbol.address for symbol in prepared.kallsyms.symbols]
    assert addresses == sorted(addresses)
    assert len(addresses) > 80_000
    names = {symbol.name for symbol in prepared.kallsyms.symbols}
    assert not any(name.startswith(("kallsyms_names", "__kstrtab_", "__crc_")) for name in names)
    repeated = list(_symbols(prepared))
    assert len(repeated) > 1000
    for name, address, place in repeated:
        if sum(symbol.address == address for symbol in prepared.kallsyms.named(name)) == 1:
            assert prepared.kallsyms.sympos(name, address) == place
    assert prepared.kallsyms.sympos("unheard_of", 0) is None
