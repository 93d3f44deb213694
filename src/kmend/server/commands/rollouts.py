"""`kmend-server rollouts` and `plans`: who gets a new level when, and how it goes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import tomllib

from kmend.core import durable
from kmend.server.commands.client import Client, connect
from kmend.server.commands.output import json_option, print_json, print_table
from kmend.server.commands.times import moment

_MAX_PLAN = 256 * 1024
_OVER = ("finished", "aborted", "halted")


@click.group()
def command() -> None:
    """Rollouts: a level, offered to rings in stages."""


@command.command("list")
@json_option
@click.pass_context
def list_(context: click.Context, as_json: bool) -> None:
    """Rollouts, the newest first."""
    rows = connect(context).get("rollouts", limit=200)["items"]
    if as_json:
        print_json(rows)
        return
    shown = [{**row, "at": moment(row["created_at"]), "where": _where(row)} for row in rows]
    columns = {"id": "ID", "name": "NAME", "status": "STATUS", "where": "STAGE", "at": "MADE", "reason": "REASON"}
    print_table(shown, columns)


@command.command()
@click.argument("name")
@click.option("--plan", required=True, help="The name of a plan that is kept.")
@click.option("--target", "targets", multiple=True, help="BUILD_ID=LEVEL; several may be given.")
@click.option(
    "--kernel", "kernels", multiple=True, help="A kernel's release: its newest level, or the one that --level names."
)
@click.option("--level", type=click.IntRange(1), help="With --kernel.")
@click.option("--newest", is_flag=True, help="The newest level of every kernel build.")
@click.option(
    "--emergency", is_flag=True, help="No soak, windows and approvals between stages; two people must approve first."
)
@click.option("--keep-soaking", is_flag=True, help="When it halts, hosts that soak are not sent back.")
@click.option("--start", is_flag=True, help="Begin at once.")
@json_option
@click.pass_context
def create(
    context: click.Context,
    name: str,
    plan: str,
    targets: tuple[str, ...],
    kernels: tuple[str, ...],
    level: int | None,
    newest: bool,
    emergency: bool,
    keep_soaking: bool,
    start: bool,
    as_json: bool,
) -> None:
    """Make a rollout by a plan."""
    client = connect(context)
    wanted = _targets(client, targets, kernels, level, newest)
    body = {"name": name, "plan": plan, "targets": wanted, "emergency": emergency, "return_soaking": not keep_soaking,
            "start": start}  # fmt: skip
    _told(client.post("rollouts", body=body), as_json)


@command.command()
@click.argument("rollout")
@json_option
@click.pass_context
def show(context: click.Context, rollout: str, as_json: bool) -> None:
    """One rollout: how far each stage is, who failed, and why."""
    row = connect(context).get("rollouts", rollout)
    if as_json:
        print_json(row)
    else:
        _show(row)


@command.command()
@click.argument("rollout")
@click.option("--format", "form", type=click.Choice(["ndjson", "csv"]), default="ndjson", show_default=True)
@json_option
@click.pass_context
def grants(context: click.Context, rollout: str, form: str, as_json: bool) -> None:
    """Every host that was granted, with what became of it."""
    pieces = connect(context).lines("rollouts", rollout, "grants", format="ndjson" if as_json else form)
    if as_json:
        print_json([json.loads(line) for line in b"".join(pieces).splitlines()])
        return
    for piece in pieces:
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


@command.command()
@click.argument("rollout")
@click.option("--every", type=click.FloatRange(0.2, 3600), default=2.0, show_default=True, help="Seconds.")
@json_option
@click.pass_context
def watch(context: click.Context, rollout: str, every: float, as_json: bool) -> int:
    """Show what changes until it is over or has halted; exit status 0 if it finished, 1 otherwise."""
    client = connect(context)
    before = ""
    while True:
        row = client.get("rollouts", rollout)
        line = f"{row['status']}: {_where(row)}: {_tally(row)}" + (f": {row['reason']}" if row["reason"] else "")
        if line != before:
            click.echo(f"{time.strftime('%H:%M:%S')} {line}", err=as_json)
            before = line
        if row["status"] in _OVER:
            if as_json:
                print_json(row)
            elif row["failures"]:
                _show(row)
            return 0 if row["status"] == "finished" else 1
        time.sleep(every)


@command.command()
@click.argument("rollout")
@json_option
@click.pass_context
def start(context: click.Context, rollout: str, as_json: bool) -> None:
    """Begin; where an approval is needed first, wait for it."""
    _told(connect(context).post("rollouts", rollout, "start"), as_json)


def _with_reason(word: str, text: str) -> None:
    @command.command(word, help=text)
    @click.argument("rollout")
    @click.option("--reason", required=True, help="For people, and the audit log.")
    @json_option
    @click.pass_context
    def acting(context: click.Context, rollout: str, reason: str, as_json: bool) -> None:
        _told(connect(context).post("rollouts", rollout, word, body={"reason": reason}), as_json)


for _word, _text in {
    "approve": "Approve the stage that waits; not by whoever made the rollout, and each person counts once.",
    "pause": "Grant nobody any more until it is resumed; hosts on their way go on.",
    "resume": "Go on after a pause or a halt; the failures so far are forgiven, and named in the audit log.",
    "abort": "End it for good; hosts that soak its level are sent back, where they allow it.",
}.items():
    _with_reason(_word, _text)


@command.command()
@click.argument("rollout")
@click.option(
    "--stage", required=True, type=click.IntRange(1), help="Its number, as `show` has it; it must be the open one."
)
@click.option("--reason", required=True, help="For people, and the audit log.")
@json_option
@click.pass_context
def promote(context: click.Context, rollout: str, stage: int, reason: str, as_json: bool) -> None:
    """Take the open stage for passed, and open the next."""
    body = {"reason": reason, "stage": stage - 1}
    _told(connect(context).post("rollouts", rollout, "promote", body=body), as_json)


@click.group()
def plans() -> None:
    """Plans: the stages that rollouts go through."""


@plans.command("list")
@json_option
@click.pass_context
def list_plans(context: click.Context, as_json: bool) -> None:
    """Plans that are kept."""
    rows = connect(context).get("plans")
    if as_json:
        print_json(rows)
        return
    shown = [{**row, "stages": ", ".join(f"{stage['ring']} {stage['share']:.0%}" for stage in row["plan"]["stages"])}
             for row in rows]  # fmt: skip
    print_table(shown, {"name": "PLAN", "automatic": "AUTOMATIC", "stages": "STAGES"})


@plans.command("put")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--automatic", is_flag=True, help="New levels are rolled out by it as they are published.")
@json_option
@click.pass_context
def put_plan(context: click.Context, name: str, file: Path, automatic: bool, as_json: bool) -> None:
    """Keep a plan under a name. FILE is TOML ([[stages]]) or JSON; docs/operators.md shows one."""
    text = durable.read_bounded(file, max_bytes=_MAX_PLAN)
    try:
        tree = json.loads(text) if file.suffix == ".json" else tomllib.loads(text.decode())
    except ValueError as problem:
        raise click.UsageError(f"{file} cannot be read: {problem}") from None
    row = connect(context).put("plans", name, body={"plan": tree, "automatic": automatic})
    if as_json:
        print_json(row)
    else:
        rings = " -> ".join(f"{stage['ring']} {stage['share']:.0%}" for stage in row["plan"]["stages"])
        click.echo(f"plan {name}: {rings}" + ("; new levels are rolled out by it at once" if automatic else ""))


@plans.command("remove")
@click.argument("name")
@click.pass_context
def remove_plan(context: click.Context, name: str) -> None:
    """Forget a plan; rollouts that were made by it keep their own copy."""
    connect(context).delete("plans", name)


def _targets(
    client: Client, targets: Sequence[str], kernels: Sequence[str], level: int | None, newest: bool
) -> dict[str, int]:
    found: dict[str, int] = {}
    for item in targets:
        build_id, sign, number = item.partition("=")
        if not sign or not number.isdigit():
            raise click.UsageError(f"{item!r} is not BUILD_ID=LEVEL")
        found[build_id] = int(number)
    rows = [row for kernel in kernels for row in client.every("levels", release=kernel)]
    if newest:
        rows += client.every("levels")
    for row in rows:
        wanted = row["level"] == level if level is not None else not row["channel"]
        if wanted:
            found[row["build_id"]] = max(row["level"], found.get(row["build_id"], 0))
    if not found:
        raise click.UsageError("there is nothing to roll out; give --target, --kernel or --newest")
    return found


def _where(row: Mapping[str, Any]) -> str:
    stage = row["stages"][row["stage"]]
    return f"{row['stage'] + 1}/{len(row['stages'])} {stage['ring']}"


def _tally(row: Mapping[str, Any]) -> str:
    stage = row["stages"][row["stage"]]
    told = [f"{stage[name]} {word}" for name, word in (("succeeded", "good"), ("in_flight", "on their way"),
            ("failed", "failed"), ("inconclusive", "inconclusive")) if stage[name]]  # fmt: skip
    left = f"{stage['remaining']} to go" if stage["remaining"] else ""
    return ", ".join([*told, *([left] if left else [])]) or "nobody yet"


def _told(row: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(row)
    else:
        reason = f": {row['reason']}" if row["reason"] else ""
        click.echo(f"{row['id']} {row['name']}: {row['status']}, stage {_where(row)}{reason}")


def _show(row: Mapping[str, Any]) -> None:
    click.echo(f"{row['name']} ({row['id']}): {row['status']}" + (f": {row['reason']}" if row["reason"] else ""))
    levels = [f"level {level} for {build_id[:12]}" for build_id, level in list(row["targets"].items())[:5]]
    more = len(row["targets"]) - len(levels)
    click.echo(", ".join(levels) + (f" and {more} more kernel builds" if more else "") + "\n")
    print_table(
        [{**stage, "stage": stage["number"] + 1, "part": f"{stage['share']:.0%}",
          "outcome": stage["outcome"] or ("open" if stage["number"] == row["stage"] else "")} for stage in row["stages"]],
        {"stage": "STAGE", "ring": "RING", "part": "SHARE", "granted": "GRANTED", "in_flight": "ON THEIR WAY",
         "succeeded": "GOOD", "failed": "FAILED", "inconclusive": "INCONCLUSIVE", "remaining": "TO GO",
         "outcome": "OUTCOME"},
    )  # fmt: skip
    if row["failures"]:
        click.echo("\nfailed:")
        for failure in row["failures"]:
            stage = f"stage {failure['stage'] + 1}"
            click.echo(
                f"  {failure['name']} ({stage}, {moment(failure['at'])}): {failure['cause']}: {failure['message']}"
            )
