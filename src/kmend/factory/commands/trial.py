"""`kmend-factory try`: build a fix, and see in a virtual machine whether it mends what a probe shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from kmend import lab
from kmend.core import document
from kmend.core.durable import write_durably
from kmend.core.kernel import KernelRef
from kmend.factory.build import Built, NoChangeError, RefusedError, build, write_build
from kmend.factory.commands.lab import kernel_package, parse_copies
from kmend.factory.commands.output import json_option, print_json, report_error, say
from kmend.factory.commands.parameters import KERNEL_REF
from kmend.factory.desk import decode_trace, keep_companion, read_trace, write_companion
from kmend.factory.desk.companion import store_folder
from kmend.factory.desk.trace import TraceError
from kmend.factory.desk.trial import ProbeError, Settings, Trial, hold_trial, read_probe
from kmend.factory.desk.verdict import HINTS, Verdict
from kmend.factory.fixes import read_fix
from kmend.factory.kernels.prepared import prepare

STATUS_NO = 5
"""The command came to its end, and the answer is no."""
_SHOWN_LINES = 12
"""Of the kernel's complaints, for people."""


@click.command("try")
@click.option(
    "--kernel",
    "ref",
    required=True,
    type=KERNEL_REF,
    metavar="REF",
    help="Kernel ref: distro:release@version.",
)
@click.option(
    "--test", "probe", required=True, type=click.Path(path_type=Path), metavar="SCRIPT", help="The probe; see below."
)
@click.option("--module", "modules", multiple=True, metavar="NAME", help="Load this module too; repeatable.")
@click.option("--copy", "copies", multiple=True, metavar="HOST:GUEST", help="Copy a file or folder in; repeatable.")
@click.option(
    "--shape",
    type=click.Choice([shape.value for shape in lab.Shape]),
    default=lab.Shape.MICRO.value,
    show_default=True,
    help="micro: busybox in memory. full: Debian with systemd and Python.",
)
@click.option("--cpus", type=click.IntRange(1, 64), help="Default: 1 for micro, 2 for full.")
@click.option("--memory", type=click.IntRange(128), default=1024, show_default=True, help="In MiB.")
@click.option(
    "--timeout",
    type=click.FloatRange(1, 3600),
    default=60,
    show_default=True,
    help="Seconds for each run of the probe.",
)
@click.option(
    "--keep", type=click.Path(path_type=Path), metavar="DIR", help="Keep livepatch, outputs, kernel log there."
)
@json_option
@click.argument("fixes", nargs=-1, required=True, type=click.Path(path_type=Path))
def command(
    ref: KernelRef,
    probe: Path,
    modules: tuple[str, ...],
    copies: tuple[str, ...],
    shape: str,
    cpus: int | None,
    memory: int,
    timeout: float,
    keep: Path | None,
    as_json: bool,
    fixes: tuple[Path, ...],
) -> int:
    """Build FIXES, boot the kernel, run the probe, load the livepatch, run the probe again, take it off.

    The probe runs as root in the guest, with the argument `before` or `after`. It exits with 0 where all is well, with 125 if it
    cannot tell, with anything else where the kernel misbehaves; to be killed, to hang, or to bring the kernel down says that too.

    Exit status: 0 mended, 5 not, 2 the fixes are refused, 3 no functional change, 4 this machine cannot compile that kernel,
    1 the trial could not be held.
    """
    settings = Settings(read_probe(probe), parse_copies(copies), modules, lab.Shape(shape), cpus, memory, timeout)
    series = [read_fix(path) for path in fixes]
    if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise ProbeError(f"{keep} is not an empty folder", hint="name a new folder with --keep")
    kernel = prepare(ref)
    try:
        built = build(kernel, series, progress=_progress)
    except (RefusedError, NoChangeError) as problem:
        if not as_json:
            return report_error(problem)
        refusals = problem.refusals if isinstance(problem, RefusedError) else ()
        outcome = "refused" if isinstance(problem, RefusedError) else "no-change"
        print_json({"verdict": outcome, "message": problem.message, "refusals": refusals})
        click.echo(problem.diagnosis(), err=True)
        return problem.exit_status
    keep_companion(built)
    trial = hold_trial(
        lab.unpack(kernel_package(KernelRef.parse(kernel.identity.ref))), built, settings, progress=_progress
    )
    decoded = _decoded(trial)
    if keep is not None:
        _keep(keep, built, trial)
    if as_json:
        print_json({**_report(built, trial), "decoded": decoded})
    else:
        _tell(built, trial, decoded)
    return 0 if trial.verdict is Verdict.MENDED else STATUS_NO


def _progress(message: str) -> None:
    say(f"- {message}")


def _decoded(trial: Trial) -> list[str]:
    """Source lines of the livepatched functions in what the kernel complained of."""
    text = "\n".join(trial.complaints)
    try:
        decoded = decode_trace(read_trace(text.encode()), [store_folder()])
    except TraceError:
        return []
    told = {
        f"{found.frame}: {line.source.file}:{line.source.line} {line.text}".rstrip(): None
        for found in decoded.frames
        if found.livepatch
        for line in found.lines[:1]
    }
    return list(told)


def _report(built: Built, trial: Trial) -> dict[str, object]:
    return {
        "verdict": trial.verdict,
        "hint": HINTS.get(trial.verdict, ""),
        "kernel": built.manifest.kernel,
        "module": built.manifest.module.name,
        "before": trial.before,
        "after": trial.after,
        "problem": trial.problem,
        "complaints": trial.complaints,
        "notes": trial.notes,
    }


def _keep(folder: Path, built: Built, trial: Trial) -> None:
    write_build(built, folder / "build")
    write_companion(built, folder / "build" / "debug")
    for phase, run in (("before", trial.before), ("after", trial.after)):
        if run is not None:
            write_durably(folder / f"{phase}.stdout", run.stdout.encode())
            write_durably(folder / f"{phase}.stderr", run.stderr.encode())
    write_durably(folder / "kernel.log", trial.kernel_log.encode())
    write_durably(folder / "trial.json", document.pretty(_report(built, trial)).encode() + b"\n")


def _tell(built: Built, trial: Trial, decoded: list[str]) -> None:
    for phase, run in (("before", trial.before), ("after", trial.after)):
        if run is not None:
            click.echo(f"{phase}: {run.behaviour.value} ({run.reason}, {run.seconds:.1f} s)")
            _indented("", run.stdout.splitlines())
            _indented("stderr: ", run.stderr.splitlines())
    _indented("kernel, before: ", trial.before.complaints[:_SHOWN_LINES])
    if trial.problem:
        click.echo(f"problem: {trial.problem}")
    _indented("kernel: ", trial.complaints[:_SHOWN_LINES])
    if len(trial.complaints) > _SHOWN_LINES:
        click.echo(f"  kernel: and {len(trial.complaints) - _SHOWN_LINES} more lines; --keep keeps them all")
    _indented("source: ", decoded)
    for note in trial.notes:
        click.echo(f"note: {note}")
    click.echo(f"{built.manifest.module.name}: {trial.verdict.value}")
    if trial.verdict in HINTS:
        say(f"hint: {HINTS[trial.verdict]}")


def _indented(label: str, lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(f"  {label}{line}")
