"""`kmend-factory derive`: a fix out of the difference between two of the distro's source packages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from kmend.core.durable import write_durably
from kmend.core.manifest import sha256_hex
from kmend.factory.commands.output import json_option, print_json, say
from kmend.factory.commands.parameters import check_output_file
from kmend.factory.derive import DerivedChange, derive


@dataclass(frozen=True, slots=True)
class _Report:
    """What `--json` prints."""

    output: str
    digest: str
    title: str
    cves: tuple[str, ...]
    taken: tuple[DerivedChange, ...]
    left: tuple[DerivedChange, ...]
    notes: tuple[str, ...]


@click.command("derive")
@click.option("--from", "old_version", required=True, metavar="VERSION", help="Package version of the kernel to mend.")
@click.option("--to", "new_version", required=True, metavar="VERSION", help="Package version that has the change.")
@click.option(
    "--file", "paths", required=True, multiple=True, metavar="PATH", help="Source file to compare; repeatable."
)
@click.option("--function", "names", multiple=True, metavar="NAME", help="Take only changes inside it; repeatable.")
@click.option("--hunk", "numbers", multiple=True, type=click.IntRange(min=1), metavar="N", help="Take only this hunk.")
@click.option("--cve", "cves", multiple=True, metavar="ID", help="What the fix closes; repeatable.")
@click.option("--subject", default="", metavar="TEXT", help="Title; by default what the changelog says of the CVE.")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Patch file to write."
)
@json_option
def command(
    old_version: str,
    new_version: str,
    paths: tuple[str, ...],
    names: tuple[str, ...],
    numbers: tuple[int, ...],
    cves: tuple[str, ...],
    subject: str,
    output: Path,
    as_json: bool,
) -> None:
    """Make a fix out of the difference between two source packages.

    Exit 0 written, 2 nothing like that differs (the message lists what does), 1 anything else.
    """
    check_output_file(output)
    derived = derive(
        old_version,
        new_version,
        paths,
        wanted_functions=names,
        wanted_hunks=numbers,
        cves=cves,
        subject=subject,
    )
    write_durably(output, derived.content)
    say(f"{output}: {derived.title}")
    for change in derived.taken:
        say(f"  taken     {change}")
    for change in derived.left:
        say(f"  left out  {change}")
    for note in derived.notes:
        say(f"  note: {note}")
    if as_json:
        print_json(
            _Report(
                output=str(output),
                digest=sha256_hex(derived.content),
                title=derived.title,
                cves=tuple(dict.fromkeys(cves)),
                taken=derived.taken,
                left=derived.left,
                notes=derived.notes,
            )
        )
