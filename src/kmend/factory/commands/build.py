"""`kmend-factory build`: fixes in, a livepatch out."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import click

from kmend.core.kernel import KernelRef
from kmend.core.manifest import MAX_LEVEL
from kmend.factory.build import NoChangeError, RefusedError, Vendor, build, explain, reserved_folder, write_build
from kmend.factory.commands.output import json_option, print_json, report_error, say
from kmend.factory.commands.parameters import KERNEL_REF
from kmend.factory.desk.companion import keep_companion, write_companion
from kmend.factory.fixes import Fix, read_fix
from kmend.factory.kernels.prepared import prepare, prepare_index


@click.command()
@click.option(
    "--kernel",
    "ref",
    required=True,
    type=KERNEL_REF,
    metavar="REF",
    help="The kernel build: distro:release@package-version.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Receives the livepatch."
)
@click.option("--level", type=click.IntRange(1, MAX_LEVEL), default=1, show_default=True, help="The level's number.")
@click.option("--base", type=click.IntRange(1, MAX_LEVEL), default=None, help="The level that this one is built on.")
@click.option(
    "--explain", "explained", is_flag=True, help="Tell what changed, why, and what each reference resolved to."
)
@click.option(
    "--vendor",
    "vendor_ref",
    type=KERNEL_REF,
    metavar="REF",
    help="The vendor's own fixed kernel: compare with it.",
)
@json_option
@click.argument("fixes", nargs=-1, required=True, type=click.Path(path_type=Path))
def command(
    ref: KernelRef,
    output: Path,
    level: int,
    base: int | None,
    explained: bool,
    vendor_ref: KernelRef | None,
    as_json: bool,
    fixes: tuple[Path, ...],
) -> int:
    """Build a livepatch from FIXES, patch files in the order of the series.

    Exit status: 0 built, 2 refused or wrong usage, 3 no functional change, 4 this machine cannot compile that kernel, 1 failed.
    """
    if base is not None and base >= level:
        raise click.UsageError(f"level {level} cannot be built on level {base}; a level is built on a lower one")
    series = [read_fix(path) for path in fixes]
    with reserved_folder(output):
        return _build(ref, output, series, level, base, explained, vendor_ref, as_json)


def _build(
    ref: KernelRef,
    output: Path,
    series: Sequence[Fix],
    level: int,
    base: int | None,
    explained: bool,
    vendor_ref: KernelRef | None,
    as_json: bool,
) -> int:
    start = time.monotonic()
    kernel = prepare(ref)
    vendor = Vendor.of(prepare_index(vendor_ref)) if vendor_ref is not None else None
    prepared = time.monotonic()
    try:
        built = build(
            kernel, series, level=level, base=base, vendor=vendor, progress=lambda message: say(f"- {message}")
        )
    except RefusedError as problem:
        if as_json:
            print_json({"outcome": "refused", "refusals": problem.refusals})
            click.echo(problem.diagnosis(), err=True)
            return problem.exit_status
        return report_error(problem)
    except NoChangeError as problem:
        if as_json:
            print_json({"outcome": "no-change", "message": problem.message})
            click.echo(problem.diagnosis(), err=True)
            return problem.exit_status
        return report_error(problem)
    write_build(built, output)
    write_companion(built, output / "debug")
    keep_companion(built)
    for notice in built.manifest.warnings:
        say(f"warning: {notice.message}")
    cost = _cost()
    if as_json:
        print_json({"outcome": "built", "manifest": built.manifest, "folder": str(output), "cost": cost})
    elif explained:
        for line in explain(built):
            click.echo(line)
    else:
        click.echo(output / f"{built.manifest.module.name}.ko")
    say(
        f"built in {time.monotonic() - prepared:.1f} s (kernel ready after {prepared - start:.1f} s); "
        f"{cost['cpu_seconds']:.2f} CPU seconds, peak memory {cost['peak_mib']:.0f} MiB"
    )
    return 0


def _cost() -> dict[str, float]:
    """CPU time of this process and of all programs it ran, and the largest memory of any of them, by the kernel's account."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    used = os.times()
    return {
        "cpu_seconds": used.user + used.system + used.children_user + used.children_system,
        "peak_mib": max(own.ru_maxrss, children.ru_maxrss) / 1024,
    }
