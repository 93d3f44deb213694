"""`kmend-server levels`, `recalls` and `status`: what the repository holds, and how the fleet stands."""

from __future__ import annotations

from typing import Any

import click

from kmend.server.commands.client import connect
from kmend.server.commands.output import json_option, print_json, print_table
from kmend.server.commands.times import moment, span


@click.command()
@click.option("--kernel", help="Only of this release.")
@click.option("--build-id", help="Only of this kernel build.")
@click.option("--cve", help="Only those that close it.")
@json_option
@click.pass_context
def command(context: click.Context, kernel: str | None, build_id: str | None, cve: str | None, as_json: bool) -> None:
    """Levels that are published, with where they are free and how many hosts run them."""
    rows = list(connect(context).every("levels", release=kernel, build_id=build_id, cve=cve))
    if as_json:
        print_json(rows)
        return
    shown = [{**row, "at": moment(row["published"]), "closes": _few(row["cves"])} for row in rows]
    print_table(
        shown,
        {"release": "KERNEL", "level": "LEVEL", "hosts": "HOSTS", "rings": "FREE IN", "channel": "CHANNEL", "at": "PUBLISHED",
         "closes": "CLOSES"},
    )  # fmt: skip


@click.command()
@json_option
@click.pass_context
def recalls(context: click.Context, as_json: bool) -> None:
    """What the publisher has recalled."""
    rows = connect(context).get("recalls")
    if as_json:
        print_json(rows)
        return
    shown = [{
        **row,
        "what": f"fix {row['fix'][:12]}" if row["fix"] else f"level {row['level']} of {row['build_id'][:12]}",
        "when": moment(row["at"]),
        "back": moment(row["withdrawn_at"]),
    } for row in rows]  # fmt: skip
    columns = {
        "number": "NUMBER",
        "what": "WHAT",
        "extent": "EXTENT",
        "when": "AT",
        "back": "WITHDRAWN",
        "reason": "REASON",
    }
    print_table(shown, columns)


@click.command()
@json_option
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """How the fleet stands: hosts by ring and level, and what goes on."""
    row = connect(context).get("status")
    if as_json:
        print_json(row)
        return
    left = row["repository_expires"] - row["now"]
    fresh = f"for {span(left)}" if left > 0 else "EXPIRED"
    if not row["repository_version"]:
        fresh = "nothing imported yet"
    click.echo(f"{row['server']}: repository version {row['repository_version']}, {fresh}")
    click.echo(f"{row['hosts']} hosts" + (f", {row['overdue']} overdue" if row["overdue"] else "") + "\n")
    print_table(_standing(row["rings"]), {"ring": "RING", "level": "LEVEL", "hosts": "HOSTS"})
    for rollout, item in row["rollouts"].items():
        click.echo(f"\nrollout {rollout} {item['name']}: {item['status']}")


def _standing(rings: dict[str, dict[str, int]]) -> list[dict[str, Any]]:
    return [
        {"ring": ring, "level": level if level != "0" else "none", "hosts": count}
        for ring, levels in sorted(rings.items())
        for level, count in levels.items()
    ]


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
