"""`kmend-factory recall`: say that a fix or a level must no longer be loaded; take that back; list what stands."""

from __future__ import annotations

from pathlib import Path

import click

from kmend.core.recall import Extent, Recalls
from kmend.factory.commands.keys import now, passphrase_for
from kmend.factory.commands.output import json_option, print_json
from kmend.trust.signing.keyfiles import KeyFolder
from kmend.trust.signing.publishing import Publisher


@click.command()
@click.option("--keys", "folder", required=True, type=click.Path(path_type=Path), help="The folder of keys.")
@click.option("--repository", required=True, type=click.Path(path_type=Path), help="The repository's folder.")
@click.option(
    "--fix", default="", help="The fix to recall, by its SHA-256: in whichever level of whichever kernel it is."
)
@click.option("--build-id", default="", help="The level to recall: of this kernel build,")
@click.option("--level", type=click.IntRange(min=1), default=None, help="and of this number.")
@click.option(
    "--extent",
    type=click.Choice([extent.value for extent in Extent]),
    default=Extent.REVERT.value,
    show_default=True,
    help="stop-new: not loaded any more; stop-reapply: nor at boot; revert: taken off where it is loaded.",
)
@click.option("--reason", default="", help="For people, one line.")
@click.option("--withdraw", type=click.IntRange(min=1), default=None, help="Take back the recall of this number.")
@json_option
def command(
    folder: Path,
    repository: Path,
    fix: str,
    build_id: str,
    level: int | None,
    extent: str,
    reason: str,
    withdraw: int | None,
    as_json: bool,
) -> None:
    """Recall a fix (--fix) or a level (--build-id, --level), withdraw a recall, or without any of these list them.

    Needs the recall key, which is offline/recall-1.pem of the folder, and the online keys; not the targets keys.
    """
    publisher = Publisher(repository, KeyFolder(folder, passphrase_for), now=now())
    if withdraw is not None:
        if fix or build_id:
            raise click.UsageError("recall something, or withdraw a recall; not both")
        recalls = publisher.withdraw(withdraw)
    elif fix or build_id:
        if not reason or bool(fix) == bool(build_id) or bool(build_id) != (level is not None):
            raise click.UsageError("give --reason, and either --fix or both --build-id and --level")
        recalls = publisher.recall(Extent(extent), reason, fix=fix, build_id=build_id, level=level or 0)
    else:
        recalls = publisher.recalls()
    if as_json:
        print_json(recalls)
    else:
        _show(recalls)


def _show(recalls: Recalls) -> None:
    if not recalls.recalls:
        click.echo("nothing is recalled")
    for item in recalls.recalls:
        what = f"fix {item.fix}" if item.fix else f"level {item.level} of kernel build {item.build_id}"
        click.echo(f"{item.number}: {what}: {item.extent.value}: {item.reason}")
