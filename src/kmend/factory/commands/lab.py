"""`kmend-factory lab`: run a command, or a shell, on a real kernel in a virtual machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kmend import lab
from kmend.core.errors import KmendError, UsageError
from kmend.core.kernel import KernelRef
from kmend.factory.commands.output import json_option, print_json, report_error, say, step
from kmend.factory.kernels.packages import available_versions, fetch_package, kernel_packages

STATUS_TIME_LIMIT = 124
STATUS_LAB_FAILED = 125
"""As `timeout` and `env` have it: the command's own statuses stay free."""


class LabUsageError(UsageError):
    """The command line asks for something that makes no sense; the status is the lab's own all the same."""

    exit_status = STATUS_LAB_FAILED


@click.group()
def command() -> None:
    """Boot real kernels in virtual machines.

    Exit status: that of the command in the guest; 124 if it ran out of time; 125 if the lab itself failed (no package,
    no QEMU, a kernel panic).
    """


def kernel_package(ref: KernelRef) -> Path:
    """The image package of a kernel ref, fetched if need be; without a version, the newest that the archive offers.

    Raises:
        PackageProblemError: it cannot be had.
        LabUsageError: the archive knows none at all.
    """
    name = kernel_packages(ref).image
    versions = (ref.package,) if ref.package is not None else available_versions(name)
    if not versions:
        raise LabUsageError(
            f"the archive offers no package {name}", hint="run 'apt-get update', or name a version that is in the cache"
        )
    return fetch_package(name, versions[0]).path


def _chosen_package(kernel: str | None, deb: Path | None) -> Path:
    if (kernel is None) == (deb is None):
        raise LabUsageError("no kernel is given, or two", hint="give either --kernel REF or --deb FILE")
    return deb if deb is not None else kernel_package(KernelRef.parse(kernel or ""))


def parse_copies(words: tuple[str, ...]) -> tuple[tuple[Path, str], ...]:
    """`HOST:GUEST` words as pairs of paths."""
    pairs = []
    for word in words:
        source, colon, target = word.rpartition(":")
        if not colon or not source or not target.startswith("/"):
            raise LabUsageError(f"{word!r} does not say what to copy where", hint="write --copy HOST-PATH:/GUEST/PATH")
        pairs.append((Path(source), target))
    return tuple(pairs)


def _definition(
    package: Path,
    shape: str,
    modules: tuple[str, ...],
    cpus: int | None,
    memory: int,
    args: str,
    trusted: tuple[Path, ...],
) -> lab.Definition:
    return lab.Definition(
        kernel=lab.unpack(package),
        shape=lab.Shape(shape),
        cpus=cpus,
        memory_mib=memory,
        modules=modules,
        network=lab.Network(),
        command_line=args,
        firmware=lab.SecureBoot.from_files(trusted) if trusted else None,
    )


_kernel = click.option("--kernel", metavar="REF", help="Kernel ref, such as debian:6.1.0-50-cloud-amd64@6.1.176-1.")
_deb = click.option("--deb", type=click.Path(path_type=Path), help="A linux-image-*-unsigned package file.")
_shape = click.option(
    "--shape",
    type=click.Choice([shape.value for shape in lab.Shape]),
    default=lab.Shape.MICRO.value,
    show_default=True,
    help="micro: busybox in memory. full: Debian with systemd and Python.",
)
_module = click.option("--module", "modules", multiple=True, metavar="NAME", help="Load this module first; repeatable.")
_copy = click.option(
    "--copy", "copies", multiple=True, metavar="HOST:GUEST", help="Copy a file or folder in; repeatable."
)
_cpus = click.option("--cpus", type=click.IntRange(1, 64), help="Default: 1 for micro, 2 for full.")
_memory = click.option("--memory", type=click.IntRange(128), default=1024, show_default=True, help="In MiB.")
_append = click.option("--append", "kernel_arguments", default="", metavar="WORDS", help="More kernel command line.")
_secure_boot = click.option(
    "--secure-boot",
    "trusted",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="CERTIFICATE",
    help="Boot under UEFI Secure Boot, with this X.509 certificate in db; repeatable.",
)


@command.command()
@_kernel
@_deb
@_shape
@_module
@_copy
@_cpus
@_memory
@_append
@_secure_boot
@click.option("--timeout", type=click.FloatRange(0, 86400), default=60.0, show_default=True, help="Seconds, for CMD.")
@json_option
@click.argument("words", nargs=-1, required=True, metavar="CMD...")
@click.pass_context
def run(
    ctx: click.Context,
    kernel: str | None,
    deb: Path | None,
    shape: str,
    modules: tuple[str, ...],
    copies: tuple[str, ...],
    cpus: int | None,
    memory: int,
    kernel_arguments: str,
    trusted: tuple[Path, ...],
    timeout: float,
    as_json: bool,
    words: tuple[str, ...],
) -> None:
    """Boot a kernel, run CMD as root, print what it prints, and exit with its status."""
    try:
        pairs = parse_copies(copies)
        package = _chosen_package(kernel, deb)
        with lab.Vm(_definition(package, shape, modules, cpus, memory, kernel_arguments, trusted)) as vm:
            with step("prepare the guest"):
                vm.prepare()
            vm.start()
            say(f"- {vm.definition.kernel.release} ({shape}, {vm.accelerator}) is up after {vm.boot_seconds:.1f} s")
            for source, target in pairs:
                vm.put(source, target)
            status = _run_in(vm, words, timeout, as_json)
    except lab.TimeLimitError as problem:
        report_error(problem)
        status = STATUS_TIME_LIMIT
    except lab.CommandFailedError as problem:
        report_error(problem)
        status = problem.status or STATUS_LAB_FAILED
    except KmendError as problem:
        report_error(problem)
        status = STATUS_LAB_FAILED
    ctx.exit(status)


def _run_in(vm: lab.Vm, words: tuple[str, ...], timeout: float, as_json: bool) -> int:
    running = vm.start_command(words)
    running.end_input()
    for out, err in running.follow(timeout):
        if not as_json:
            sys.stdout.buffer.write(out)
            sys.stdout.buffer.flush()
            sys.stderr.buffer.write(err)
            sys.stderr.buffer.flush()
    result = running.wait(check=False)
    if as_json:
        print_json(
            {
                "kernel": vm.definition.kernel.release,
                "shape": vm.definition.shape,
                "accelerator": vm.accelerator,
                "boot_seconds": round(vm.boot_seconds, 3),
                "command": words,
                "status": result.status,
                "seconds": round(result.seconds, 3),
                "stdout": result.text,
                "stderr": result.error_text,
            }
        )
    return result.status


@command.command()
@_kernel
@_deb
@_shape
@_module
@_copy
@_cpus
@_memory
@_append
@_secure_boot
@click.pass_context
def shell(
    ctx: click.Context,
    kernel: str | None,
    deb: Path | None,
    shape: str,
    modules: tuple[str, ...],
    copies: tuple[str, ...],
    cpus: int | None,
    memory: int,
    kernel_arguments: str,
    trusted: tuple[Path, ...],
) -> None:
    """Boot a kernel with a root shell on this terminal; the guest powers off when the shell ends."""
    try:
        pairs = parse_copies(copies)
        package = _chosen_package(kernel, deb)
        with lab.Vm(_definition(package, shape, modules, cpus, memory, kernel_arguments, trusted)) as vm:
            with step("prepare the guest"):
                vm.prepare()
            vm.shell(pairs)
    except KmendError as problem:
        report_error(problem)
        ctx.exit(STATUS_LAB_FAILED)
