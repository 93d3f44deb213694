"""`kmend-factory survey`: every changed file between two kernels as a fix, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import click

from kmend.core.cache import cache_root
from kmend.core.kernel import KernelRef
from kmend.factory.commands.output import json_option, print_json
from kmend.factory.commands.parameters import KERNEL_REF
from kmend.factory.commands.progress import ShownProgress
from kmend.factory.kernels.packages import same_flavour
from kmend.factory.kernels.prepared import resolve
from kmend.factory.survey import FileResult, Outcome, Settings, Survey, survey


@click.command()
@click.option(
    "--kernel",
    "ref",
    required=True,
    type=KERNEL_REF,
    metavar="REF",
    help="Which kernel: distro:release@package-version.",
)
@click.option(
    "--to", "newer", required=True, metavar="VERSION", help="Package version (or kernel ref) of the vendor's newer one."
)
@click.option(
    "--only", multiple=True, metavar="PATH", help="Only this file, or this folder if it ends with /; repeatable."
)
@click.option("--limit", type=click.IntRange(min=0), default=0, metavar="N", help="At most N files; 0 for all.")
@click.option("--every", type=click.IntRange(min=1), default=1, metavar="K", help="Only each K-th file.")
@click.option("--load/--no-load", default=True, show_default=True, help="Load what was built in virtual machines.")
@click.option(
    "--with-companions/--without-companions",
    default=True,
    show_default=True,
    help="Give a file that does not compile what it needs of the newer kernel's other changes.",
)
@click.option("--processes", type=click.IntRange(1, 64), default=2, show_default=True, help="Files built at once.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keeps results and livepatches; goes on there.",
)
@json_option
def command(
    ref: KernelRef,
    newer: str,
    only: tuple[str, ...],
    limit: int,
    every: int,
    load: bool,
    with_companions: bool,
    processes: int,
    output: Path | None,
    as_json: bool,
) -> int:
    """Take every changed .c file that is compiled in the kernel as one fix: build it, compare it, load it.

    Exit status: 0 done, 1 something failed.
    """
    kernel = resolve(ref)
    vendor = KernelRef.parse(newer) if ":" in newer else same_flavour(kernel, newer)
    folder = output if output is not None else cache_root() / "surveys" / f"{kernel}--{vendor}".replace(":", "-")
    settings = Settings(kernel, vendor, folder, only, limit, every, load, processes, with_companions)
    with ShownProgress() as progress:
        found = survey(settings, progress)
    if as_json:
        print_json(found)
    else:
        _tell(found)
        click.echo(f"results and livepatches: {folder}")
    return 1 if found.totals.failed else 0


def _tell(found: Survey) -> None:
    for result in found.files:
        click.echo(f"{result.outcome.value:10} {result.path}{_story(result)}")
    totals = found.totals
    click.echo(f"{totals.files} changed files of {found.kernel.ref} to {found.vendor.ref}:")
    shares = {
        "built": totals.built,
        "  loaded": totals.loaded,
        "  equal to the vendor's": totals.equal_to_vendor,
        "refused": totals.refused,
        "no change": totals.no_change,
        "failed": totals.failed,
    }
    for name, count in shares.items():
        click.echo(f"  {name:24}{count:5}{_share(count, totals.files)}")
    equal, identical = totals.functions_equal_to_vendor, totals.functions_identical
    click.echo(f"functions equal to the vendor's: {equal} of {totals.functions}{_share(equal, totals.functions)}")
    click.echo(f"  their line numbers too: {identical}{_share(identical, totals.functions)}")
    for title, counts in (("refusals", totals.refusals), ("differences", totals.causes)):
        if counts:
            click.echo(f"{title}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))


def _story(result: FileResult) -> str:
    if result.outcome is Outcome.BUILT and result.vendor is not None:
        held = result.vendor.functions
        return f"  {sum(function.identical for function in held)}/{len(held)} identical"
    codes = ", ".join(dict.fromkeys(refusal.code for refusal in result.refusals))
    return f"  {codes or result.message.partition(chr(10))[0][:100]}"


def _share(count: int, of: int) -> str:
    return f"  {100 * count / of:.1f} %" if of else ""
