"""The way from fixes to a livepatch, step by step (DESIGN, section 4)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from kmend import __version__
from kmend.core.manifest import (
    BuildRecord,
    FileRecord,
    Manifest,
    ModuleRecord,
    Notice,
    PatchedFunction,
    PatchedObject,
    ProofRecord,
    SourceFile,
    module_name,
    sha256_hex,
)
from kmend.core.scratch import scratch_folder
from kmend.factory.build.callbacks import CallingUnit, callback_refusals, callbacks_among
from kmend.factory.build.compare import Comparison, base_name, compare, parent_name
from kmend.factory.build.compile import (
    CompiledUnit,
    check_includes,
    compile_original,
    compile_originals,
    compile_patched,
    compile_plainly,
    object_path,
    shadow_of,
)
from kmend.factory.build.corresponding import corresponding_source
from kmend.factory.build.extract import Extraction, Extractor
from kmend.factory.build.glue import choose_anchors, compile_glue, glue_source
from kmend.factory.build.layout import DebugTypes, layout_refusals, read_types
from kmend.factory.build.link import finish, link
from kmend.factory.build.loader import simulate
from kmend.factory.build.moduleview import ModulePlacement
from kmend.factory.build.plainproof import PlainProof
from kmend.factory.build.policy import check_functions, check_sections, drop_discarded
from kmend.factory.build.preflight import check_files
from kmend.factory.build.promote import promote
from kmend.factory.build.refusal import ALLOWABLE, NoChangeError, Refusal, RefusalCode, RefusedError
from kmend.factory.build.removed import removed_functions
from kmend.factory.build.resolve import VMLINUX, Modules, Resolver
from kmend.factory.build.safety import (
    NOTICE_CODES,
    Review,
    ReviewedUnit,
    old_prototypes,
    resident_refusals,
    residents,
    review,
)
from kmend.factory.build.sources import Sources, series_sources
from kmend.factory.build.unit import External, Unit
from kmend.factory.build.vendor import PatchedFile, Vendor, hold
from kmend.factory.build.verify import Placement
from kmend.factory.elf import read_object, write_object
from kmend.factory.fixes import Fix
from kmend.factory.kernels.prepared import Kernel
from kmend.factory.kernels.tree import check_toolchain

_KLP_RELOCATION_WARNING = 1500
"""6.1 walks all kernel symbols for each klp relocation; from about here on the load takes noticeable time."""

WARNING_CODES = NOTICE_CODES | {"note", "new-data", "no-change", "many-klp-relocations", "callback"}
"""Every code that a warning of the manifest may have; scripts may test these words."""


@dataclass(frozen=True, slots=True)
class UnitReport:
    """What happened to one source file: names of its functions, by what became of them; `told` says more in sentences."""

    source: str
    changed: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    promoted: tuple[tuple[str, tuple[str, ...]], ...] = ()
    told: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Built:
    """A finished, unsigned livepatch and its account.

    Attributes:
        module: the module file's bytes.
        source: the corresponding source, file name -> content.
        glue: the C text of the glue.
        objects: the patched objects, with debug information, in the order of extraction.
        texts: the patched files as they were compiled.
    """

    manifest: Manifest
    module: bytes
    source: Mapping[str, bytes]
    glue: str
    units: tuple[UnitReport, ...]
    extraction: Extraction
    objects: tuple[bytes, ...]
    texts: Mapping[str, bytes]


@dataclass(slots=True)
class _Unit:
    """A source file on its way through the build."""

    source: str
    original: CompiledUnit
    patched: CompiledUnit
    comparison: Comparison
    placement: Placement | ModulePlacement
    before: DebugTypes
    after: DebugTypes
    refusals: list[Refusal] = field(default_factory=list)
    proved: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    @property
    def reviewed(self) -> ReviewedUnit:
        """What the safety reports look at."""
        return ReviewedUnit(self.source, self.patched.content, self.comparison, self.placement, self.before, self.after)

    def calling(self, sources: Sources) -> CallingUnit:
        """What is looked at for callbacks."""
        _, text = sources.before_and_after(self.source)
        return CallingUnit(self.source, self.placement.object, text, self.comparison.added, self.after.prototypes)


def build(
    kernel: Kernel,
    fixes: Sequence[Fix],
    *,
    level: int = 1,
    base: int | None = None,
    vendor: Vendor | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Built:
    """Build one livepatch from a series of fixes.

    Args:
        kernel: prepared.
        fixes: in the order of the series.
        level: the livepatch's number; base: the level that it is built on.
        vendor: the vendor's own fixed kernel, to hold the result against.
        progress: is told what is being done, a line each.

    Raises:
        RefusedError: the fixes cannot become a livepatch; every reason found is in it.
        NoChangeError: the compiled code does not change.
        EnvironmentDiffersError: this machine's compiler is no longer the one that the kernel was prepared with.
        KmendError: the environment or kmend itself failed.
    """
    paths, refusals = check_files(fixes, kernel.units, kernel.included_in)
    allowed, unusable = _statements(fixes)
    if refusals or unusable:
        raise RefusedError([*refusals, *unusable])
    sources = series_sources(kernel, fixes, paths)
    if not sources.units:
        raise NoChangeError(
            "the fix changes no file that is compiled into this kernel",
            hint="this kernel does not need it; see 'kmend-factory kernel facts' for what it is made of",
        )
    check_toolchain(kernel.config)
    progress(f"compiling {len(sources.units)} file{'s' * (len(sources.units) != 1)}, original and patched")
    with scratch_folder("build") as folder:
        modules = Modules(kernel)
        units = _compile_all(kernel, sources, folder, modules)
        progress("comparing with the shipped kernel")
        for unit in units:
            _judge(kernel, unit, allowed)
        # Files that share a header tell the same of it.
        told = {
            (refusal.code, refusal.message): refusal for unit in reversed(units) for refusal in reversed(unit.refusals)
        }
        found = list(reversed(told.values()))
        callers = old_prototypes(kernel, [unit.reviewed for unit in units], modules)
        staying = resident_refusals(residents(kernel, [unit.reviewed for unit in units], modules))
        found += [refusal for refusal in (*callers, *staying) if (refusal.code, refusal.symbol) not in allowed]
        found += callback_refusals([unit.calling(sources) for unit in units])
        if found:
            raise RefusedError(found)
        units = [unit for unit in units if unit.source not in sources.untouched or unit.comparison.changed]
        if not any(unit.comparison.changed or callbacks_among(unit.comparison.added) for unit in units):
            gone = [note for unit in units for note in unit.gone]
            raise NoChangeError(
                "; ".join(["the fix changes no function of this kernel", *gone]),
                hint="a livepatch takes no code out of a kernel; change what the function does, or its callers"
                if gone
                else "its lines may lie in code that this configuration leaves out, or only in comments",
            )
        extraction = _extract(kernel, units, allowed, modules)
        reviewed = review(kernel, sources.applied, [unit.reviewed for unit in units], extraction, modules)
        progress("linking")
        texts = {path: sources.texts[path] for path in sources.applied}
        built = _assemble(kernel, fixes, units, extraction, reviewed, texts, level, base, folder, modules)
        if vendor is None:
            return built
        progress(f"comparing with {vendor.index.identity.ref}")
        held = hold(vendor, [_patched_file(kernel, unit, sources, extraction) for unit in units])
        return replace(built, manifest=replace(built.manifest, vendor=held))


def _statements(fixes: Sequence[Fix]) -> tuple[frozenset[tuple[RefusalCode, str]], list[Refusal]]:
    """What the fixes' authors vouch for, and refusals of statements about what nobody can vouch for."""
    words = {code.value: code for code in ALLOWABLE}
    found = set()
    refusals = []
    for fix in fixes:
        for statement in fix.statements:
            if statement.code in words:
                found.add((words[statement.code], statement.symbol))
            else:
                refusals.append(
                    Refusal(
                        RefusalCode.STATEMENT,
                        f"{fix.name} states 'Kmend-Allow: {statement.code} {statement.symbol}', "
                        "and that is nothing that a statement can allow",
                        hint=f"a statement can allow {', '.join(sorted(words))}",
                        symbol=statement.symbol,
                    )
                )
    return frozenset(found), refusals


def _compile_all(kernel: Kernel, sources: Sources, folder: Path, modules: Modules) -> list[_Unit]:
    """Compile every file twice, several at once; the originals come from the cache where they can."""
    if len(sources.units) > 1:
        compile_originals(kernel, sources.units)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        originals = list(pool.map(lambda source: compile_original(kernel, source), sources.units))
        with shadow_of(kernel, sources.texts) as shadow:
            jobs = [
                pool.submit(_compile_one, kernel, sources, shadow, original, folder / str(n))
                for n, original in enumerate(originals)
            ]
            found = [job.exception() for job in jobs]
            rejected = [
                refusal for problem in found if isinstance(problem, RefusedError) for refusal in problem.refusals
            ]
            done = [job for job, problem in zip(jobs, found, strict=True) if not isinstance(problem, RefusedError)]
            results = [job.result() for job in done]
            if rejected:
                raise RefusedError([*rejected, *(refusal for _, refusals, _ in results for refusal in refusals)])
    units = []
    for original, (compiled, refusals, types) in zip(originals, results, strict=True):
        for home in kernel.units[original.source]:
            comparison = compare(_unit(original), _unit(compiled))
            placement: Placement | ModulePlacement
            if home == VMLINUX:
                placement = Placement(comparison.original, kernel.vmlinux)
            else:
                placement = ModulePlacement(comparison.original, modules.shipped(home))
            unit = _Unit(original.source, original, compiled, comparison, placement, *types)
            unit.refusals = [*refusals, *comparison.refusals]
            units.append(unit)
    return units


def _compile_one(
    kernel: Kernel, sources: Sources, shadow: Path, original: CompiledUnit, folder: Path
) -> tuple[CompiledUnit, list[Refusal], tuple[DebugTypes, DebugTypes]]:
    """Compile the patched file, and compare the layouts of its types with the original's."""
    folder.mkdir()
    old_path = folder / "original.o"
    old_path.write_bytes(original.content)
    compiled = compile_patched(shadow, original)
    check_includes(shadow, kernel.tree.path, original.source, sources.texts)
    new_path = shadow / object_path(original.source)
    types = read_types(old_path, folder), read_types(new_path, folder)
    return compiled, layout_refusals(original.source, types[0].aggregates, types[1].aggregates), types


def _unit(compiled: CompiledUnit) -> Unit:
    return Unit(compiled.source, read_object(compiled.content))


def _judge(kernel: Kernel, unit: _Unit, allowed: frozenset[tuple[RefusalCode, str]]) -> None:
    comparison = unit.comparison
    left_out = drop_discarded(comparison, unit.placement)
    gone, unit.gone = removed_functions(comparison)
    promote(comparison, unit.placement)
    plain = PlainProof(kernel, unit.original, unit.placement)
    refusals, unit.proved = check_functions(comparison, unit.placement, allowed, plain.proves)
    included = [new for _, new in comparison.changed] + comparison.added
    more, notes = check_sections(comparison, included)
    unit.notes = [*left_out, *unit.gone, *notes]
    everything = [*unit.refusals, *refusals, *more, *gone]
    unit.refusals = [refusal for refusal in everything if (refusal.code, base_name(refusal.symbol)) not in allowed]


def _extract(
    kernel: Kernel, units: Sequence[_Unit], allowed: frozenset[tuple[RefusalCode, str]], modules: Modules
) -> Extraction:
    extractor = Extractor()
    data = frozenset(symbol for code, symbol in allowed if code is RefusalCode.NEW_WRITABLE_DATA)
    wanted = {
        reference.target.name
        for unit in units
        for element in unit.comparison.patched.elements
        for reference in element.references
        if isinstance(reference.target, External)
    }
    elsewhere = frozenset(
        element.name
        for unit in units
        for element in [*unit.comparison.added, *unit.comparison.new_objects]
        if element.is_global and element.name in wanted
    )
    for number, unit in enumerate(units):
        resolver = Resolver(kernel, unit.comparison.original, unit.placement, modules)
        extractor.add(number, unit.comparison, unit.placement.object, resolver, elsewhere, data)
    extraction = extractor.finish()
    if extraction.refusals:
        raise RefusedError(extraction.refusals)
    return extraction


def _patched_file(kernel: Kernel, unit: _Unit, sources: Sources, extraction: Extraction) -> PatchedFile:
    """What of a file is held against the vendor's kernel."""

    def plainly() -> Unit | None:
        try:
            return _unit(compile_plainly(kernel, unit.original, sources.plain_texts))
        except RefusedError:
            return None

    added = {name for source, name in extraction.added_functions if source == unit.source}
    brought = [new for _, new in unit.comparison.changed] + [e for e in unit.comparison.added if e.name in added]
    return PatchedFile(
        unit.placement.object, unit.comparison.patched, tuple(brought), *sources.before_and_after(unit.source), plainly
    )


def _assemble(
    kernel: Kernel,
    fixes: Sequence[Fix],
    units: Sequence[_Unit],
    extraction: Extraction,
    reviewed: Review,
    texts: Mapping[str, bytes],
    level: int,
    base: int | None,
    folder: Path,
    modules: Modules,
) -> Built:
    code = write_object(extraction.image)
    namespaces = sorted({r.namespace for r in extraction.resolutions.values() if r.namespace})
    glue = glue_source(
        kernel,
        level,
        extraction.replacements,
        extraction.callbacks,
        extraction.clear_tables,
        namespaces,
        choose_anchors(kernel),
    )
    # The name carries a digest of the content that does not hold the name itself (docs/decisions/0004-module-name.md).
    name = module_name(level, hashlib.sha256(code + glue.encode()).hexdigest())
    module = finish(kernel, link(kernel, code, compile_glue(kernel, glue, name, folder), folder))
    checks = simulate(kernel, module, name)
    compiled = list(dict.fromkeys(unit.patched for unit in units))
    source = corresponding_source(kernel, fixes, compiled, glue, name, level, base)
    functions: dict[str, list[PatchedFunction]] = {}
    for r in extraction.replacements:
        patched = PatchedFunction(r.original.name, r.sympos, r.original.size, r.patched.size, r.source)
        functions.setdefault(r.object, []).append(patched)
    for callback in extraction.callbacks:
        functions.setdefault(callback.object, [])
    manifest = Manifest(
        kernel=kernel.identity,
        level=level,
        base=base,
        fixes=tuple(fix.record() for fix in fixes),
        module=ModuleRecord(name, sha256_hex(module), len(module)),
        objects=tuple(PatchedObject(home, modules.build_id(home), tuple(group)) for home, group in functions.items()),
        pinned=tuple(dict.fromkeys(reviewed.pins)),
        built=BuildRecord(f"kmend-factory {__version__}", kernel.record.compiler, kernel.record.inputs),
        proof=ProofRecord(tuple(sorted(proved for unit in units for proved in unit.proved)), checks),
        warnings=tuple(dict.fromkeys([*_warnings(units, extraction), *reviewed.notices])),
        source=tuple(
            SourceFile(label, FileRecord(sha256_hex(content), len(content))) for label, content in source.items()
        ),
    )
    reports = tuple(
        UnitReport(
            unit.source,
            tuple(old.name for old, _ in unit.comparison.changed if parent_name(old.name) is None),
            tuple(element.name for element in unit.comparison.added),
            tuple(unit.comparison.removed),
            tuple(unit.comparison.promoted),
            tuple(sentence for source, sentence in reviewed.told if source == unit.source),
        )
        for unit in units
    )
    objects = tuple(unit.patched.content for unit in units)
    return Built(manifest, module, source, glue, reports, extraction, objects, texts)


def _warnings(units: Sequence[_Unit], extraction: Extraction) -> list[Notice]:
    found = [Notice("note", note) for unit in units for note in unit.notes]
    found += [Notice("note", note) for note in extraction.notes]
    for source, name, writable in extraction.new_data:
        kind = "writable" if writable else "constant"
        found.append(
            Notice("new-data", f"{source} brings the new {kind} object {name}; it belongs to this level alone")
        )
    for callback in extraction.callbacks:
        found.append(Notice("callback", f"{callback.source} has a {callback.kind.value} callback of {callback.object}"))
    for unit in units:
        if not unit.comparison.changed and not callbacks_among(unit.comparison.added):
            found.append(
                Notice("no-change", f"{unit.source} is changed by the fix, but its code in this kernel is not")
            )
    relocations = sum(
        1 for s in extraction.image.sections for r in s.relocations if r.symbol.name.startswith(".klp.sym.")
    )
    if relocations > _KLP_RELOCATION_WARNING:
        found.append(Notice("many-klp-relocations", f"{relocations} klp relocations make loading slow on 6.1 kernels"))
    return found
