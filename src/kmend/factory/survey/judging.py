"""One changed file on its way: build it, or say why not; and where nothing changes, prove that the vendor changed nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kmend.core.errors import KmendError
from kmend.factory.build import Built, NoChangeError, Refusal, RefusalCode, RefusedError, Vendor, build, write_build
from kmend.factory.build.compare import base_name
from kmend.factory.build.compile import compile_original, compile_plainly, included_files
from kmend.factory.build.unchanged import vendor_changes
from kmend.factory.derive import functions
from kmend.factory.derive.declarations import WORD
from kmend.factory.fixes import Fix, apply_series
from kmend.factory.kernels.prepared import Kernel
from kmend.factory.kernels.sources import source_files
from kmend.factory.survey.changes import ChangedFile, fix_of
from kmend.factory.survey.companions import (
    Companions,
    missing_files,
    missing_members,
    missing_names,
    named_headers,
    related,
    words_of_change,
    words_of_errors,
)
from kmend.factory.survey.record import FileResult, Outcome, RefusalRecord

_MAX_TRIES = 12
"""How often a file is compiled with more and more companions before it is given up."""
_MAX_COMPANIONS = 40
"""Other files than headers that are taken along at most: beyond that it is no single fix any more."""


@dataclass(frozen=True, slots=True)
class Judge:
    """What every file of a survey is judged with.

    Attributes:
        differing: what may come along, path -> content in both kernels; empty to take nothing.
    """

    kernel: Kernel
    vendor: Vendor
    differing: Mapping[str, tuple[bytes, bytes]]

    @property
    def versions(self) -> tuple[str, str]:
        """The package versions of both kernels."""
        return self.kernel.package, self.vendor.index.package

    def judge(self, change: ChangedFile, folder: Path) -> FileResult:
        """Take one file as a fix, with the companions that it needs.

        Args:
            folder: receives the livepatch, if there is one.
        """
        start = time.monotonic()
        reach = {*included_files(self.kernel, change.path), *named_headers(change.new, change.path)}
        companions = Companions(self.differing, reach)
        try:
            result = self._try(change, companions, folder)
        except KmendError as problem:
            result = FileResult(
                change.path, change.objects, Outcome.FAILED, message=f"{problem.kind}: {problem.message}"
            )
        return replace(result, companions=companions.paths, seconds=round(time.monotonic() - start, 2))

    def _try(self, change: ChangedFile, companions: Companions, folder: Path) -> FileResult:
        for _ in range(_MAX_TRIES):
            fix = fix_of(change, self.versions, companions.patch())
            try:
                if companions.paths:
                    # Compiling the file alone tells soonest what it still misses.
                    compile_plainly(self.kernel, compile_original(self.kernel, change.path), self._texts(fix))
                built = build(self.kernel, [fix], vendor=self.vendor)
            except RefusedError as problem:
                errors = [refusal for refusal in problem.refusals if refusal.code is RefusalCode.COMPILE_ERROR]
                others = [refusal for refusal in problem.refusals if refusal not in errors]
                missing = [refusal.symbol for refusal in others if refusal.code is RefusalCode.UNRESOLVED]
                if others and len(missing) == len(others) and companions.add_definitions(missing):
                    continue
                if others:
                    return _refused(change, RefusedError(others), Outcome.REFUSED)
                found = self.differing and self._more(change, companions, errors)
                if not found or sum(path.endswith(".c") for path in companions.paths) > _MAX_COMPANIONS:
                    return _refused(change, problem, Outcome.FAILED)
            except NoChangeError:
                result, differing = self._unchanged(change, fix)
                if not (differing and self._reached(change, companions, differing)):
                    return result
            else:
                write_build(built, folder)
                return FileResult(
                    change.path,
                    change.objects,
                    Outcome.BUILT,
                    functions=_replaced(built),
                    module=built.manifest.module.name,
                    vendor=built.manifest.vendor,
                )
        return FileResult(
            change.path, change.objects, Outcome.FAILED, message=f"it does not compile after {_MAX_TRIES} tries"
        )

    def _texts(self, fix: Fix) -> dict[str, bytes]:
        return {path: file.patched for path, file in apply_series(self._read, [fix]).items()}

    def _more(self, change: ChangedFile, companions: Companions, errors: list[Refusal]) -> bool:
        """Take what the compiler misses; only where it names nothing that helps, what the words of its complaints suggest."""
        named = [self._named(companions, refusal, change.path) for refusal in errors]
        return any(named) or any(self._guessed(change, companions, refusal) for refusal in errors)

    def _named(self, companions: Companions, refusal: Refusal, path: str) -> bool:
        """Take the header or the name that the compiler misses; or the other file that does not compile."""
        errors = refusal.message
        paths = missing_files(errors, refusal.file)
        if paths:
            there = source_files(self.versions[1], paths)
            found = [companions.create(path, content) for path, content in there.items() if content is not None]
            if any(found):
                return True
        if refusal.file != path:
            companions.reach |= included_files(self.kernel, refusal.file)
            if companions.add_file(refusal.file):
                return True
        names = missing_names(errors)
        return companions.add(names, missing_members(errors)) or companions.add_mentions(names)

    def _guessed(self, change: ChangedFile, companions: Companions, refusal: Refusal) -> bool:
        """Take what the words of the wrong lines name, or those of the change; near the file first, then anywhere."""
        if refusal.file == change.path:
            texts: tuple[bytes, ...] = (change.old, change.new)
        else:
            texts = self.differing.get(refusal.file) or (self._read(refusal.file) or b"",)
        # With `#line`, lines are counted as in the older text.
        words = frozenset().union(*(words_of_errors(refusal.message, refusal.file, text) for text in texts))
        changed = words_of_change(change)
        for reach in (related(companions.reach, change.path), None):
            if (
                companions.add(words, within=reach)
                or companions.add(changed, within=reach)
                or companions.add((), (), words, within=reach)
            ):
                return True
        return companions.add_directives()

    def _unchanged(self, change: ChangedFile, fix: Fix) -> tuple[FileResult, frozenset[str]]:
        """The result, and the functions in which the vendor's kernel differs all the same."""
        found = vendor_changes(self.kernel, self.vendor, change.path, self._texts(fix))
        if not found:
            return FileResult(change.path, change.objects, Outcome.NO_CHANGE), frozenset()
        told = "; ".join(f"{name}: {text}" for name, text in list(found.items())[:5])
        more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
        message = f"the fix changes no code of this file, but the vendor did, by headers: {told}{more}"
        return FileResult(change.path, change.objects, Outcome.FAILED, message=message), frozenset(found)

    def _reached(self, change: ChangedFile, companions: Companions, differing: frozenset[str]) -> bool:
        """Take the header hunks that these functions can see; if there are none, those that the whole file can."""
        names = {base_name(name).partition(".")[0] for name in differing}
        lines = change.new.decode("latin-1").split("\n")
        bodies = [lines[f.start - 1 : f.end] for f in functions(change.new) if f.name in names]
        words = {word for body in bodies for line in body for word in WORD.findall(line)}
        return companions.add_reached(words, self._read) or companions.add_reached(
            set(WORD.findall(change.new.decode("latin-1"))), self._read
        )

    def _read(self, path: str) -> bytes | None:
        file = self.kernel.tree.path / path
        return file.read_bytes() if file.is_file() else None


def _refused(change: ChangedFile, problem: RefusedError, outcome: Outcome) -> FileResult:
    records = tuple(_record(refusal) for refusal in problem.refusals)
    message = "the file does not compile without other changes of the newer kernel" if outcome is Outcome.FAILED else ""
    return FileResult(change.path, change.objects, outcome, refusals=records, message=message)


def _replaced(built: Built) -> tuple[str, ...]:
    return tuple(function.name for patched in built.manifest.objects for function in patched.functions)


def _record(refusal: Refusal) -> RefusalRecord:
    return RefusalRecord(refusal.code.value, refusal.symbol, refusal.section, refusal.offset, refusal.message)
