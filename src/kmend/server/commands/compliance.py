"""`kmend-server policy`, `exception`, `forecast` and `cves`: deadlines, what is accepted, overdue, and comes first."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import tomllib

from kmend.core import durable
from kmend.core.errors import UsageError
from kmend.intel.deadlines import Row, rows_of_directive
from kmend.intel.feeds import read_bod, read_fedramp
from kmend.intel.frameworks import rows_of_fedramp
from kmend.intel.rows import read_rows, rows_to
from kmend.server.commands.client import connect
from kmend.server.commands.hosts import id_of
from kmend.server.commands.output import json_option, print_json, print_table, say
from kmend.server.commands.parameters import DURATION
from kmend.server.commands.times import moment

MAX_BYTES = 64 * 1024 * 1024
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_ALWAYS = ("0001-01-01", "9999-12-31")


@click.group()
def policy() -> None:
    """Deadlines that rings stand under; several at once."""


@policy.command("set")
@click.argument("ring")
@click.argument("framework")
@click.option("--name", default="", help="In the ring; the framework's if none is given. Another of that name ends.")
@click.option(
    "--rows",
    "file",
    type=click.Path(path_type=Path),
    help="Own deadlines, TOML or JSON; with `fedramp` FedRAMP's rules, with `cisa-bod-26-04` CERT/CC's table.",
)
@click.option("--class", "certification", default="", help="FedRAMP's certification class, A to D.")
@click.option("--impact", type=click.IntRange(1, 5), help="FedRAMP's potential agency impact.")
@click.option("--from", "begin", default="", help="Day from which it holds, YYYY-MM-DD.")
@click.option("--to", "end", default="", help="Day from which it holds no more.")
@click.option("--approved-by", required=True, help="Who has approved it, and when.")
@click.option("--assume-automatable", is_flag=True, help="Where SSVC does not say, attacks can be automated.")
@click.option("--assume-partial-impact", is_flag=True, help="Where SSVC does not say, impact is partial; else total.")
@click.option(
    "--likely-by-signals", is_flag=True, help="Likely exploitable is only what is known to be; else every CVE."
)
@click.option(
    "--earlier", is_flag=True, help="A listing's clock begins with the listing, also before the CVE was here."
)
@json_option
@click.pass_context
def set_policy(
    context: click.Context,
    ring: str,
    framework: str,
    name: str,
    file: Path | None,
    certification: str,
    impact: int | None,
    begin: str,
    end: str,
    approved_by: str,
    assume_automatable: bool,
    assume_partial_impact: bool,
    likely_by_signals: bool,
    earlier: bool,
    as_json: bool,
) -> None:
    """Have RING stand under FRAMEWORK; `policy frameworks` names them, `own` stands for rows of your own."""
    if framework == "own" and file is None:
        raise UsageError("own deadlines are in a file", hint="--rows FILE; docs/compliance.md shows one")
    for day in (begin, end):
        if day and not _DAY.fullmatch(day):
            raise UsageError(f"{day[:20]!r} is not a day", hint="YYYY-MM-DD")
    rows = _rows(framework, file, certification, impact or 0) if file is not None else ()
    body: dict[str, Any] = {
        "framework": framework, "approved_by": approved_by, "valid_from": begin, "valid_to": end, "rows": rows_to(rows),
        "assumed": {"automatable": assume_automatable, "total": not assume_partial_impact,
                    "likely": not likely_by_signals, "earlier": earlier},
    }  # fmt: skip
    if not rows:
        body |= {"certification": certification.lower(), "impact": impact or 0}
    found = connect(context).put("policies", ring, name or framework, body=body)
    if as_json:
        print_json(found)
        return
    click.echo(f"ring {ring} stands under {found['title']}:")
    _print_rows(found["rows"])
    if found["note"]:
        say(found["note"])


@policy.command("list")
@click.option("--ring", default="")
@click.option("--past", is_flag=True, help="Also those that count no more.")
@json_option
@click.pass_context
def list_policies(context: click.Context, ring: str, past: bool, as_json: bool) -> None:
    """What rings stand under."""
    found = connect(context).get("policies", ring=ring, past="true" if past else "false")
    if as_json:
        print_json(found)
        return
    shown = [{
        **row,
        "count": len(row["rows"]),
        "held": f"{_day(row['valid_from'])} - {_day(row['valid_to'])}",
        "set": moment(row["created_at"]),
        "gone": moment(row["removed_at"]),
    } for row in found]  # fmt: skip
    print_table(
        shown,
        {"ring": "RING", "name": "NAME", "title": "FRAMEWORK", "count": "ROWS", "held": "HOLDS", "approved_by": "APPROVED BY",
         "set": "SET", "gone": "REMOVED"},
    )  # fmt: skip


@policy.command("frameworks")
@json_option
@click.pass_context
def list_frameworks(context: click.Context, as_json: bool) -> None:
    """Frameworks that a policy can be made of, with their deadlines."""
    found = connect(context).get("frameworks")
    if as_json:
        print_json(found)
        return
    for item in found:
        click.echo(f"{item['name']}: {item['title']}" + (f". {item['note']}" if item["note"] else ""))
        _print_rows(item["rows"])


@policy.command("remove")
@click.argument("ring")
@click.argument("name")
@click.pass_context
def remove_policy(context: click.Context, ring: str, name: str) -> None:
    """Have a ring no more stand under a policy; it stays in the record."""
    connect(context).delete("policies", ring, name)


@click.group()
def exception() -> None:
    """CVEs that are accepted on some hosts for a time."""


@exception.command("add")
@click.argument("cve", metavar="CVE")
@click.option("--host", default="", help="ID or name.")
@click.option("--ring", default="")
@click.option("--tag", default="", help="NAME=VALUE, or NAME alone.")
@click.option("--everything", is_flag=True)
@click.option("--reason", required=True)
@click.option("--control", required=True, help="What is done instead.")
@click.option("--expires", type=DURATION, required=True, help="36h, 30d; at most 400d.")
@json_option
@click.pass_context
def add_exception(
    context: click.Context,
    cve: str,
    host: str,
    ring: str,
    tag: str,
    everything: bool,
    reason: str,
    control: str,
    expires: int,
    as_json: bool,
) -> None:
    """Ask for an exception; it counts when somebody with the role approver has approved it."""
    given = [(extent, subject) for extent, subject in (("host", host), ("ring", ring), ("tag", tag)) if subject]
    given += [("everything", "")] if everything else []
    if len(given) != 1:
        raise UsageError("for which hosts?", hint="one of --host, --ring, --tag, --everything")
    ((extent, subject),) = given
    client = connect(context)
    body = {"cve": cve, "extent": extent, "subject": id_of(client, subject) if extent == "host" else subject,
            "reason": reason, "control": control, "expires_in": expires}  # fmt: skip
    made = client.post("exceptions", body=body)
    if as_json:
        print_json(made)
        return
    click.echo(f"exception {made['id']} is asked for, until {moment(made['expires_at'])} UTC")
    say(f"somebody else approves it: kmend-server exception approve {made['id']}")


@exception.command("approve")
@click.argument("wanted", metavar="ID")
@json_option
@click.pass_context
def approve_exception(context: click.Context, wanted: str, as_json: bool) -> None:
    """Put an exception in force; whoever asked for it cannot, where somebody else can."""
    found = connect(context).post("exceptions", wanted, "approve")
    if as_json:
        print_json(found)
        return
    click.echo(f"exception {found['id']}: {found['cve']} is accepted until {moment(found['expires_at'])} UTC")


@exception.command("list")
@click.option("--cve", default="")
@click.option("--state", type=click.Choice(["requested", "in force", "expired", "withdrawn"]))
@json_option
@click.pass_context
def list_exceptions(context: click.Context, cve: str, state: str | None, as_json: bool) -> None:
    """Exceptions, the newest first."""
    rows = list(connect(context).every("exceptions", cve=cve, state=state))
    if as_json:
        print_json(rows)
        return
    shown = [
        {**row, "hosts": f"{row['extent']} {row['subject']}".strip(), "until": moment(row["expires_at"])}
        for row in rows
    ]
    print_table(
        shown,
        {"id": "ID", "cve": "CVE", "hosts": "FOR", "state": "STATE", "until": "UNTIL", "created_by": "ASKED BY",
         "approved_by": "APPROVED BY", "reason": "REASON", "control": "INSTEAD"},
    )  # fmt: skip


@exception.command("withdraw")
@click.argument("wanted", metavar="ID")
@click.pass_context
def withdraw_exception(context: click.Context, wanted: str) -> None:
    """Let an exception count no more."""
    connect(context).delete("exceptions", wanted)


@click.command()
@click.option("--within", default=14, show_default=True, type=click.IntRange(0, 366), help="Due within so many days.")
@click.option("--ring", default="")
@click.option("--limit", default=40, show_default=True, type=click.IntRange(1, 10_000), help="Lines of each list.")
@json_option
@click.pass_context
def forecast(context: click.Context, within: int, ring: str, limit: int, as_json: bool) -> None:
    """Deadlines that are missed, and that will be unless something is done."""
    found = connect(context).get("forecast", days=within, ring=ring, limit=limit)
    if as_json:
        print_json(found)
        return
    columns = {
        "row": "DEADLINE",
        "cve": "CVE",
        "ring": "RING",
        "hosts": "HOSTS",
        "first": "DUE",
        "first_last": "LAST DUE",
    }
    for title, count, hosts, rows in (
        ("overdue", found["overdue_count"], found["overdue_hosts"], found["overdue"]),
        (f"due within {within} days", found["due_count"], found["due_hosts"], found["due"]),
    ):
        click.echo(f"{title}: {count:,} of CVE, ring and deadline; {hosts:,} of host and CVE")
        if rows:
            print_table(
                [{**row, "first": moment(row["due"]), "first_last": moment(row["latest"])} for row in rows], columns
            )
        if count > len(rows):
            say(f"{count - len(rows):,} more; --limit shows them")
    for row, ages in sorted(found["buckets"].items()):
        click.echo(f"{row}, by days overdue: " + ", ".join(f"{name}: {number:,}" for name, number in ages.items()))
    click.echo(
        f"later {found['later']:,}; with the next upgrade {found['upgrade']:,}; accepted {found['accepted']:,}; "
        f"under no deadline {found['unbound']:,}"
    )
    if found["rings_without"]:
        say(f"under no policy: {', '.join(found['rings_without'])}")
    if found["unknown"]:
        say(
            f"of {found['unknown']:,} of {found['hosts']:,} hosts nobody has looked into the kernel: nothing is said of them"
        )


@click.command()
@click.option("--ring", default="")
@click.option("--limit", default=40, show_default=True, type=click.IntRange(1, 500))
@click.option("--why", is_flag=True, help="Why each stands where it stands.")
@json_option
@click.pass_context
def cves(context: click.Context, ring: str, limit: int, why: bool, as_json: bool) -> None:
    """CVEs that stand open on the fleet, the most pressing first."""
    rows = connect(context).get("cves", sort="rank", ring=ring, limit=limit)["items"]
    if as_json:
        print_json(rows)
        return
    if why:
        for row in rows:
            click.echo(f"{row['place']}. {row['cve']}")
            for line in row["reasons"]:
                click.echo(f"   - {line}")
        return
    shown = [{**row, "until": moment(row["due"]), "kev": moment(row["kev_added"])[:10]} for row in rows]
    print_table(
        shown,
        {"place": "PLACE", "cve": "CVE", "kev": "LISTED", "until": "DUE", "overdue": "OVERDUE", "reach": "CODE",
         "easiest": "TO CLOSE IT", "percentile": "EPSS", "severity": "CVSS", "hosts": "HOSTS"},
    )  # fmt: skip


def _rows(framework: str, file: Path, certification: str, impact: int) -> Sequence[Row]:
    content = durable.read_bounded(file, max_bytes=MAX_BYTES)
    if framework == "fedramp":
        rules = read_fedramp(content)
        for item in rules.aside:
            say(f"set aside: {item.name}: {item.why}")
        return rows_of_fedramp(rules, certification.lower(), impact)
    text = content.decode("utf-8", errors="replace")
    if framework == "cisa-bod-26-04":
        return rows_of_directive(read_bod(text))
    return read_rows(text, json.loads if file.suffix == ".json" else tomllib.loads)


def _within(hours: int | None) -> str:
    if hours is None:
        return "next upgrade"
    return f"{hours / 24:g} d" if hours % 24 == 0 else f"{hours} h"


def _print_rows(rows: Sequence[dict[str, Any]]) -> None:
    shown = [{
        **row,
        "within": _within(row["hours"]) + (", traces secured first" if row["forensic"] else ""),
        "held": f"{_day(row['valid_from'])} - {_day(row['valid_to'])}",
        "read": "second-hand" if row["second_hand"] else "",
    } for row in rows]  # fmt: skip
    if shown:
        print_table(
            shown,
            {"name": "DEADLINE", "condition": "FOR", "within": "WITHIN", "clock": "OF", "held": "HOLDS", "source": "SOURCE",
             "read": ""},
        )  # fmt: skip


def _day(text: str) -> str:
    return "" if text in _ALWAYS else text
