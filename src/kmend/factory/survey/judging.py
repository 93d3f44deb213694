"""One changed file on its way: build it, or say why not; and where nothing changes, prove that the vendor changed nothing."""

from __future__ import annotations

import time
from pathlib import Path

from kmend.core.errors import KmendError
from kmend.factory.build import Built, NoChangeError, Refusal, RefusalCode, RefusedError, Vendor, build, write_build
from kmend.factory.build.unchanged import vendor_changes
from kmend.factory.fixes import Fix
from kmend.factory.kernels.prepared import Kernel
from kmend.factory.survey.changes import ChangedFile
from kmend.factory.survey.record import FileResult, Outcome, RefusalRecord


def judge(kernel: Kernel, vendor: Vendor, change: ChangedFile, fix: Fix, folder: Path) -> FileResult:
    """Take one file as a fix.

    Args:
        folder: receives the livepatch, if there is one.
    """
    start = time.monotonic()
    try:
        result = _judge(kernel, vendor, change, fix, folder)
    except KmendError as problem:
        result = FileResult(change.path, change.objects, Outcome.FAILED, message=f"{problem.kind}: {problem.message}")
    seconds = round(time.monotonic() - start, 2)
    return FileResult(
        result.path,
        result.objects,
        result.outcome,
        result.functions,
        result.refusals,
        result.module,
        result.message,
        result.vendor,
        None,
        seconds,
    )


def _judge(kernel: Kernel, vendor: Vendor, change: ChangedFile, fix: Fix, folder: Path) -> FileResult:
    try:
        built = build(kernel, [fix], vendor=vendor)
    except RefusedError as problem:
        compiles = not any(refusal.code is RefusalCode.COMPILE_ERROR for refusal in problem.refusals)
        return FileResult(
            change.path,
            change.objects,
            Outcome.REFUSED if compiles else Outcome.FAILED,
            refusals=tuple(_record(refusal) for refusal in problem.refusals),
            message="" if compiles else "the file does not compile without other changes of the newer kernel",
        )
    except NoChangeError:
        return _unchanged(kernel, vendor, change)
    write_build(built, folder)
    return FileResult(
        change.path,
        change.objects,
        Outcome.BUILT,
        functions=_replaced(built),
        module=built.manifest.module.name,
        vendor=built.manifest.vendor,
    )


def _unchanged(kernel: Kernel, vendor: Vendor, change: ChangedFile) -> FileResult:
    found = vendor_changes(kernel, vendor, change.path, change.new)
    if not found:
        return FileResult(change.path, change.objects, Outcome.NO_CHANGE)
    told = "; ".join(f"{name}: {text}" for name, text in list(found.items())[:5])
    more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
    return FileResult(
        change.path,
        change.objects,
        Outcome.FAILED,
        message=f"the fix changes no code of this file, but the vendor did, by headers: {told}{more}",
    )


def _replaced(built: Built) -> tuple[str, ...]:
    return tuple(function.name for patched in built.manifest.objects for function in patched.functions)


def _record(refusal: Refusal) -> RefusalRecord:
    return RefusalRecord(refusal.code.value, refusal.symbol, refusal.section, refusal.offset, refusal.message)
