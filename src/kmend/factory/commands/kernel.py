"""`kmend-factory kernel`: prepare kernel builds, show them, hand out their facts, free the space they take."""

from __future__ import annotations

from pathlib import Path

import click

from kmend.core import document
from kmend.core.kernel import KernelRef
from kmend.factory.commands.output import json_option, print_json, step
from kmend.factory.kernels.prepared import Kernel, prepare, prepared_kernels, prune


@click.group()
def command() -> None:
    """Kernel builds: prepare, list, show, facts, prune."""


@command.command("list")
@json_option
def list_kernels(as_json: bool) -> None:
    """The kernels that are prepared in the cache."""
    kernels = prepared_kernels()
    if as_json:
        print_json([kernel.identity for kernel in kernels])
        return
    for kernel in kernels:
        click.echo(f"{kernel.identity.ref}  {kernel.identity.build_id}")
    if not kernels:
        click.echo("none; prepare one with: kmend-factory kernel prepare REF", err=True)


@command.command("prepare")
@click.argument("ref")
@json_option
def prepare_kernel(ref: str, as_json: bool) -> None:
    """Download and prepare the kernel REF (about half a minute and 1.5 GB; at once if it is there already)."""
    with step(f"preparing {ref}"):
        kernel = prepare(KernelRef.parse(ref))
    if as_json:
        print_json(kernel.record)
    else:
        click.echo(f"{kernel.identity.ref}  {kernel.identity.build_id}")


@command.command("show")
@click.argument("ref")
@json_option
def show(ref: str, as_json: bool) -> None:
    """What is known of the kernel REF."""
    kernel = prepare(KernelRef.parse(ref))
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
@click.argument("ref")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write them there instead of to standard output.")
@json_option
def facts(ref: str, output: Path | None, as_json: bool) -> None:
    """The kernel's facts as a JSON document: files compiled, modules, configuration."""
    found = document.encode(prepare(KernelRef.parse(ref)).facts())
    if output is None:
        click.echo(found)
    else:
        output.write_bytes(found + b"\n")


@command.command("prune")
@click.option("--keep", metavar="REF", help="Keep this one.")
@json_option
def prune_kernels(keep: str | None, as_json: bool) -> None:
    """Remove prepared kernels from the cache; packages stay, so preparing again needs no download."""
    freed = prune(KernelRef.parse(keep) if keep else None)
    if as_json:
        print_json({"freed_bytes": freed})
    else:
        click.echo(f"{freed / 1e9:.1f} GB freed")
