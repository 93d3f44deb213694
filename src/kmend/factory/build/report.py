"""The account of a built livepatch in words."""

from __future__ import annotations

from collections.abc import Iterator

from kmend.core.manifest import VendorRecord
from kmend.factory.build.builder import Built


def explain(built: Built) -> Iterator[str]:
    """The account, line by line: what changed and why, what each reference resolved to, what was checked."""
    manifest = built.manifest
    yield f"livepatch {manifest.module.name} for {manifest.kernel.ref}"
    yield f"  kernel build {manifest.kernel.build_id}, {manifest.kernel.version}"
    for fix in manifest.fixes:
        yield f"  fix {fix.digest[:12]} {fix.title}" + (f" ({', '.join(fix.cves)})" if fix.cves else "")
    sizes = {(f.source, f.name): f for o in manifest.objects for f in o.functions}
    for unit in built.units:
        yield f"{unit.source}:"
        for name in unit.changed:
            function = sizes.get((unit.source, name))
            if function is not None:
                equal = "; its original equals the shipped kernel's" if name in manifest.proof.originals_equal else ""
                yield (
                    f"  {name} changes from {function.old_size} to {function.new_size} bytes and is replaced "
                    f"(sympos {function.sympos}){equal}"
                )
        for name, callers in unit.promoted:
            yield f"  {name} cannot be redirected itself; replaced through {', '.join(callers)}"
        yield from (f"  {sentence}" for sentence in unit.told)
        for name in unit.added:
            yield f"  {name} is new"
        for name in unit.removed:
            yield f"  {name} is no longer there; the kernel's own copy stays"
        yield from (
            f"  {decision.function} -> {decision.target}: {decision.way}"
            for decision in built.extraction.decisions
            if decision.source == unit.source
        )
    yield from (f"stays loaded until reboot: {reason}" for reason in manifest.pinned)
    yield from (f"{notice.code}: {notice.message}" for notice in manifest.warnings)
    if manifest.vendor is not None:
        yield from _against(manifest.vendor)
    yield f"loader simulation passed: {', '.join(manifest.proof.loader_checks)}"
    yield f"module: {manifest.module.size} bytes, SHA-256 {manifest.module.sha256}"


def _against(vendor: VendorRecord) -> Iterator[str]:
    equal = sum(function.identical for function in vendor.functions)
    yield f"against {vendor.kernel.ref}: {equal} of {len(vendor.functions)} functions are identical"
    for function in vendor.functions:
        told = "identical" if function.identical else f"differs ({function.cause}): {function.detail}"
        yield f"  {function.name} {told}"
