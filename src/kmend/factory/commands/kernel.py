"""`kmend-factory kernel`: prepare kernel builds, show them, hand out their facts, free the space they take."""

from __future__ import annotations

from pathlib import Path

import click

from kmend.core import document
from kmend.core.durable import write_durably
from kmend.core.kernel import KernelRef
from kmend.factory.commands.output import json_option, print_json, say, say_error, step
from kmend.factory.commands.parameters import KERNEL_REF, check_output_file
from kmend.factory.kernels.prepared import Kernel, damaged_kernels, prepare, prepared_kernels, prune
from kmend.factory.kernels.quickfacts import quick_facts


@click.group()
def command() -> None:
    """Kernel builds: prepare, list, show, facts, prune."""


@command.command("list")
@json_option
def list_kernels(as_json: bool) -> int:
    """The kernels that are prepared in the cache.

    Exit status 1: some are damaged; standard error says which.
    """
    kernels, damaged = prepared_kernels(), damaged_kernels()
    if as_json:
        print_json([kernel.identity for kernel in kernels])
    else:
        for kernel in kernels:
            click.echo(f"{kernel.identity.ref}  {kernel.identity.build_id}")
    for problem in damaged:
        say_error(problem)
    if not kernels and not damaged:
        say("none; prepare one with: kmend-factory kernel prepare REF")
    return 1 if damaged else 0


@command.command("prepare")
@click.argument("ref", type=KERNEL_REF)
@json_option
def prepare_kernel(ref: KernelRef, as_json: bool) -> None:
    """Download and prepare the kernel REF (about half a minute and 1 GB; at once if it is there already).

    What is kept of it is looked at, and made anew if it is damaged.
    """
    with step(f"preparing {ref}"):
        kernel = prepare(ref, heal=True)
    if as_json:
        print_json(kernel.record)
    else:
        click.echo(f"{kernel.identity.ref}  {kernel.identity.build_id}")


@command.command("show")
@click.argument("ref", type=KERNEL_REF)
@json_option
def show(ref: KernelRef, as_json: bool) -> None:
    """What is known of the kernel REF."""
    kernel = prepare(ref)
    kernel.check()
    summary = _summary(kernel)
    if as_json:
        print_json(summary)
        return
    width = max(map(len, summary))
    for name, value in summary.items():
        click.echo(f"{name:{width}}  {value}")


def _summary(kernel: Kernel) -> dict[str, object]:
    return {
        "ref": kernel.identity.ref,
        "build id": kernel.identity.build_id,
        "version": kernel.identity.version,
        "compiler": kernel.record.compiler,
        "source files": len(kernel.units),
        "built in": sum("vmlinux" in objects for objects in kernel.units.values()),
        "modules": len(kernel.modules),
        "symbols": len(kernel.kallsyms.symbols),
        "traceable functions": len(kernel.vmlinux.traceable),
        "folder": str(kernel.folder),
    }


@command.command("facts")
@click.argument("ref", type=KERNEL_REF)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write them there instead of to standard output.")
@click.option("--quick", is_flag=True, help="If the kernel is not prepared, do not: ask its source's Makefiles.")
@json_option
def facts(ref: KernelRef, output: Path | None, quick: bool, as_json: bool) -> None:
    """The kernel's facts as a JSON document: files compiled, modules, configuration.

    They are made from the kernel's debug information, for which it is prepared. With --quick they may be made from what its build
    was told to compile: image and source package are enough then, and `made_from` is `kbuild`.
    """
    check_output_file(output)
    found = document.encode(quick_facts(ref) if quick else prepare(ref).facts())
    if output is None:
        click.echo(found)
    else:
        write_durably(output, found + b"\n")


@command.command("prune")
@click.option("--keep", type=KERNEL_REF, metavar="REF", help="Keep this one.")
@json_option
def prune_kernels(keep: KernelRef | None, as_json: bool) -> None:
    """Remove prepared kernels that no process is working with; packages stay, so preparing again needs no download."""
    pruned = prune(keep)
    if as_json:
        print_json({"freed_bytes": pruned.freed, "in_use": pruned.in_use})
    else:
        click.echo(f"{pruned.freed / 1e9:.1f} GB freed")
    for name in pruned.in_use:
        say(f"kept, since it is being used: {name}")
