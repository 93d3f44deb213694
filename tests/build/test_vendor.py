"""A livepatch held against the vendor's own fixed kernel: its code is known again, and what is not the vendor's is found.

Which kernels and which file serve as the example is found out at run time, from what the archive offers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.conftest import KERNELS

from kmend.core import document
from kmend.core.manifest import HeldFunction, Manifest, VendorRecord
from kmend.factory.build import Built, Cause, NoChangeError, RefusedError, Vendor, build, explain
from kmend.factory.derive import select
from kmend.factory.fixes import Fix, parse_fix
from kmend.factory.kernels.packages import PackageGoneError, choose_kernel
from kmend.factory.kernels.prepared import Kernel, KernelIndex, prepare_index
from kmend.factory.survey.changes import ChangedFile, changed_files, fix_of

LIKELY = ("kernel/audit.c", "net/ipv4/ip_output.c", "kernel/time/posix-timers.c", "kernel/", "net/ipv4/", "fs/")
"""Where to look for an example, the likeliest first."""


@dataclass(frozen=True, slots=True)
class Example:
    """A file whose whole difference builds and gives the vendor's code, two functions or more of it."""

    vendor: Vendor
    change: ChangedFile
    versions: tuple[str, str]
    built: Built

    @property
    def function(self) -> str:
        """A function whose source the vendor changed, as the compiler names it."""
        (patched,) = self.built.manifest.objects
        text = self.change.new.decode(errors="replace")
        return next(f.name for f in patched.functions if re.search(rf"^[^\n;]*\b{f.name}\(", text, re.MULTILINE))


@pytest.fixture(scope="module")
def newer(prepared: Kernel) -> KernelIndex:
    """Another kernel of the same series: the first that is offered."""
    others = [text for text in KERNELS if text != prepared.identity.ref]
    try:
        return prepare_index(choose_kernel(others))
    except PackageGoneError as gone:
        pytest.fail(f"two kernels are needed: {gone.message}")


@pytest.fixture(scope="module")
def example(prepared: Kernel, newer: KernelIndex) -> Example:
    """The first file that serves."""
    vendor = Vendor.of(newer)
    versions = (prepared.package, newer.package)
    for change in _candidates(prepared, newer):
        try:
            built = build(prepared, [fix_of(change, versions)], vendor=vendor)
        except (RefusedError, NoChangeError):
            continue
        if len(select({change.path: (change.old, change.new)}).taken) > 1 and len(functions_of(built)) > 1:
            return Example(vendor, change, versions, built)
    pytest.fail(f"no file between {versions[0]} and {versions[1]} serves as an example")


def _candidates(prepared: Kernel, newer: KernelIndex) -> Iterator[ChangedFile]:
    for place in LIKELY:
        for change in changed_files(prepared, newer.package, [place]):
            if change.objects == ("vmlinux",):
                yield change


def held(built: Built) -> VendorRecord:
    """What was found."""
    assert built.manifest.vendor is not None
    return built.manifest.vendor


def functions_of(built: Built) -> dict[str, HeldFunction]:
    """By name, cold parts left out."""
    return {f.name: f for f in held(built).functions if ".cold" not in f.name}


def rebuilt(prepared: Kernel, example: Example, text: bytes) -> Built:
    """The livepatch of a fix that makes the example's file say `text`."""
    change = ChangedFile(example.change.path, example.change.objects, example.change.old, text)
    return build(prepared, [fix_of(change, example.versions)], vendor=example.vendor)


def test_the_vendors_own_code_is_known_again(example: Example) -> None:
    assert {function.name: function.cause for function in held(example.built).functions if not function.identical} == {}
    assert held(example.built).kernel == example.vendor.index.identity


def test_the_manifest_carries_it_and_explain_tells_it(example: Example) -> None:
    again = document.decode(Manifest, document.encode(example.built.manifest))

    assert again.vendor == example.built.manifest.vendor
    told = "\n".join(explain(example.built))
    count = len(held(example.built).functions)
    assert f"{count} of {count} functions are identical" in told
    assert f"  {example.function} identical" in told


def test_a_manifest_from_before_is_read(example: Example) -> None:
    plain = document.plain(example.built.manifest)
    assert isinstance(plain, dict)
    del plain["vendor"]

    assert document.from_plain(Manifest, plain).vendor is None


def test_a_planted_alien_hunk_is_found(prepared: Kernel, example: Example) -> None:
    planted = planted_in(example.change.new, example.function)

    found = functions_of(rebuilt(prepared, example, planted))

    assert not found[example.function].identical
    assert found[example.function].cause == Cause.ALIEN_CHANGE.value
    assert any(function.identical for function in found.values())


def test_a_dropped_hunk_is_found(prepared: Kernel, example: Example) -> None:
    pair = {example.change.path: (example.change.old, example.change.new)}
    changed = list(
        dict.fromkeys(f for c in select(pair).taken for f in c.functions if f in functions_of(example.built))
    )
    for dropped in changed:
        kept = [c.hunk for c in select(pair).taken if dropped not in c.functions]
        if not kept:
            continue
        patch = b"Description: a hunk is missing\n---\n" + select(pair, wanted_hunks=kept).patch
        fix: Fix = parse_fix(patch, "dropped.patch")
        try:
            built = build(prepared, [fix], vendor=example.vendor)
        except (RefusedError, NoChangeError):
            continue
        record = functions_of(built)
        if dropped in record:
            assert record[dropped].cause == Cause.HUNKS_NOT_TAKEN.value
            return
        # The function is not replaced at all; put one harmless change in, so that it is.
        text = planted_in(applied(example.change.old, fix), dropped)
        function = functions_of(rebuilt(prepared, example, text))[dropped]
        assert function.cause == Cause.ALIEN_CHANGE.value
        assert "not taken" in function.detail
        return
    pytest.fail("no hunk of the example can be dropped")


def applied(old: bytes, fix: Fix) -> bytes:
    """The text that the fix makes of `old`."""
    from kmend.factory.fixes import apply_series

    (file,) = apply_series(lambda path: old, [fix]).values()
    return file.patched


def planted_in(text: bytes, function: str) -> bytes:
    """The text with a statement that has an effect at the start of a function's body."""
    place = re.search(rf"^[^\n;#]*\b{function}\([^;{{]*\n\{{\n".encode(), text, re.MULTILINE)
    assert place is not None, function
    return text[: place.end()] + b'\tbarrier();\n\tasm volatile("nop");\n' + text[place.end() :]
