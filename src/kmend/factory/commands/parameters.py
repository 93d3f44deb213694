"""What is given on the command line, checked before anything else is done."""

from __future__ import annotations

from pathlib import Path

import click

from kmend.core.errors import MalformedError
from kmend.core.kernel import KernelRef


class KernelRefType(click.ParamType[KernelRef]):
    """`distro:release[@package-version]`."""

    name = "ref"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> KernelRef:
        """Read it, or tell what is wrong with it."""
        if isinstance(value, KernelRef):
            return value
        try:
            return KernelRef.parse(str(value))
        except MalformedError as problem:
            self.fail(f"{problem.message}; {problem.hint}", param, ctx)


KERNEL_REF = KernelRefType()


def check_output_file(path: Path | None) -> None:
    """Make sure, before long work, that a file can be put there.

    Raises:
        click.UsageError: its folder is missing, or it is a folder itself.
    """
    if path is None:
        return
    if path.is_dir():
        raise click.UsageError(f"{path} is a folder; name a file to write")
    if not path.parent.is_dir():
        raise click.UsageError(f"{path.parent}, where {path.name} is to be written, is not a folder; make it first")
