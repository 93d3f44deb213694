"""What reads bytes from outside, as functions of bytes: whatever comes in, only a `KmendError` may come out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from tests.fuzz.mutations import Mutator, mutate_list, mutate_object, mutate_package, mutate_patch
from tests.fuzz.samples import sample_objects

from kmend.core.errors import KmendError
from kmend.core.kernel import build_id_from_notes
from kmend.factory.build.compare import compare
from kmend.factory.build.safety.balance import balance_notices
from kmend.factory.build.safety.changes import FileChanges
from kmend.factory.build.safety.conditionals import left_out
from kmend.factory.build.special import replacement_of, table_entries, unwind_entries
from kmend.factory.build.unit import Unit
from kmend.factory.elf import read_object, write_object
from kmend.factory.elf.headers import reader_of
from kmend.factory.elf.inlining import read_inlining
from kmend.factory.fixes import AppliedFile, ChangeKind, apply_series, parse_fix, with_line_directives
from kmend.factory.fixes.applying import split_lines
from kmend.factory.kernels.contents import contents
from kmend.factory.kernels.exports import Exports
from kmend.factory.kernels.kallsyms import Kallsyms
from kmend.factory.kernels.packages import Package
from kmend.factory.kernels.tree import read_config
from kmend.factory.kernels.units import module_details, units_of
from kmend.factory.kernels.vmlinux import Vmlinux, extract


def patch(data: bytes) -> None:
    """Read a fix, apply it to the text that its own hunks ask for and to another, number the lines of the result."""
    fix = parse_fix(data, "fuzzed.patch")
    fix.record()
    wanted = {
        change.path: b"".join(line for hunk in change.hunks for line in hunk.before)
        for change in fix.files
        if change.kind is not ChangeKind.CREATE
    }
    for read in (wanted.get, lambda path: b"int x;\n" * 20 if path in wanted else None):
        try:
            applied = apply_series(read, [fix])
        except KmendError:
            continue
        for file in applied.values():
            _check_applied(file)


def _check_applied(file: AppliedFile) -> None:
    assert len(split_lines(file.patched)) == len(file.origins)
    changes = FileChanges(file)
    list(balance_notices(changes.before, changes.after, changes.functions))
    left_out(file.patched, {"CONFIG_A": "y"}, module=False)
    if file.kind is not ChangeKind.DELETE:
        for name in ("", file.path):
            numbered = with_line_directives(file, name)
            kept = [line for line in split_lines(numbered) if not line.startswith(b"#line ")]
            assert kept == [line for line in split_lines(file.patched) if not line.startswith(b"#line ")]


def object_file(data: bytes) -> None:
    """Read an object, cut it up, compare it with itself and with a sound one, write it and read that again."""
    for reader in (units_of, read_inlining):
        with suppress(KmendError):
            reader(data)
    with suppress(KmendError):
        module_details(reader_of(data), len(data))
    image = read_object(data)
    unit = Unit("fuzzed.c", image)
    for entries in table_entries(unit).values():
        for entry in entries:
            if entry.table == ".altinstructions":
                replacement_of(unit, entry)
    for function in unit.functions:
        unwind_entries(unit, function)
    for other in (unit, _reference()):
        compare(unit, other)
        compare(other, unit)
    written = write_object(image)
    assert write_object(read_object(written)) == written


@lru_cache(maxsize=1)
def _reference() -> Unit:
    return Unit("reference.c", read_object(sample_objects()[0]))


def image(data: bytes) -> None:
    """Cut down a vmlinux and ask the result."""
    with tempfile.TemporaryDirectory(prefix="kmend-fuzz-") as name:
        folder = Path(name)
        extract(reader_of(data), len(data), folder)
        found = Vmlinux(folder)
        for block in range(3):
            for label in found.file_blocks("x.c"):
                list(found.block_symbols(label))
            found.symbols_at(block)
        found.named("linux_banner")
        found.references(0, 1 << 40)
        _ = found.traceable


def lists(data: bytes) -> None:
    """Symbols, exports, configuration and notes."""
    with tempfile.TemporaryDirectory(prefix="kmend-fuzz-") as name:
        path = Path(name) / "list"
        path.write_bytes(data)
        for reader in (
            lambda: Kallsyms.from_system_map(path).named("x"),
            lambda: Exports.from_symvers(path).get("x"),
            lambda: build_id_from_notes(data),
            lambda: read_config(data.decode(errors="replace")),
        ):
            with suppress(KmendError):
                reader()


def package(data: bytes) -> None:
    """List a package and read of each file the beginning and the end."""
    with tempfile.TemporaryDirectory(prefix="kmend-fuzz-") as name:
        path = Path(name) / "package.deb"
        path.write_bytes(data)
        with contents(Package("package", "1", path, "")) as found:
            for member in islice(found.members(), 20):
                found.read(member, 0, 5000)
                found.read(member, max(0, member.size - 100), 1000)


@dataclass(frozen=True, slots=True)
class Target:
    """A reader under test, how its input is damaged, and the longest input, in bytes."""

    run: Callable[[bytes], None]
    mutate: Mutator
    max_bytes: int


TARGETS = {
    "patch": Target(patch, mutate_patch, 64 * 1024),
    "object": Target(object_file, mutate_object, 96 * 1024),
    "image": Target(image, mutate_object, 96 * 1024),
    "package": Target(package, mutate_package, 32 * 1024),
    "lists": Target(lists, mutate_list, 16 * 1024),
}
