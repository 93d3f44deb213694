"""`kmend-factory selfcheck`: files with a line more must build to no change."""

from __future__ import annotations

from pathlib import Path

import click

from kmend.core import document
from kmend.core.durable import write_durably
from kmend.core.kernel import KernelRef
from kmend.factory.commands.output import json_option, print_json
from kmend.factory.commands.parameters import KERNEL_REF, check_output_file
from kmend.factory.commands.progress import ShownProgress
from kmend.factory.kernels.prepared import resolve
from kmend.factory.survey import SelfCheck, self_check


@click.command()
@click.option(
    "--kernel",
    "ref",
    required=True,
    type=KERNEL_REF,
    metavar="REF",
    help="Which kernel: distro:release@package-version.",
)
@click.option("--count", type=click.IntRange(min=1), default=300, show_default=True, help="How many files to draw.")
@click.option("--seed", type=int, default=1, show_default=True, help="Decides which files.")
@click.option("--processes", type=click.IntRange(1, 64), default=2, show_default=True, help="Files built at once.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the document there too.")
@json_option
def command(ref: KernelRef, count: int, seed: int, processes: int, output: Path | None, as_json: bool) -> int:
    """Compile files of the kernel again with a comment added at the top: none of them may count as changed.

    Exit status: 0 no file changed, 1 some did; they are listed with symbol, section and offset.
    """
    check_output_file(output)
    kernel = resolve(ref)
    with ShownProgress() as progress:
        found = self_check(kernel, count, seed, processes, progress)
    if output is not None:
        write_durably(output, document.encode(found))
    if as_json:
        print_json(found)
    else:
        _tell(found)
    return 1 if found.exceptions else 0


def _tell(found: SelfCheck) -> None:
    for result in found.files:
        if result.verdict.value == "no_change":
            continue
        click.echo(f"{result.verdict.value:10} {result.path} ({', '.join(result.objects)}) {result.message}")
        for evidence in result.evidence:
            place = f"{evidence.symbol} {evidence.section}" + (f"+{evidence.offset:#x}" if evidence.offset >= 0 else "")
            click.echo(f"  {evidence.code}: {place.strip()}: {evidence.message}")
    click.echo(
        f"{found.no_change} of {len(found.files)} files do not change with a line more "
        f"(seed {found.seed}, drawn from {found.candidates})"
    )
