"""`kmend-server cve` and `explain`: who is exposed, and why that is said of a host."""

from __future__ import annotations

from typing import Any

import click

from kmend.server.commands.client import connect
from kmend.server.commands.hosts import id_of
from kmend.server.commands.output import json_option, print_json, print_table
from kmend.server.commands.times import moment, span
from kmend.server.feeds import kind_of


@click.command()
@click.argument("name", metavar="CVE")
@json_option
@click.pass_context
def cve(context: click.Context, name: str, as_json: bool) -> None:
    """Who is exposed to a CVE, and what closes it."""
    found = connect(context).get("cves", name)
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['cve']}: {found['title'] or 'no feed describes it'}")
    if found["rejected"]:
        click.echo("the CNA has rejected it")
    if found["kev_added"] is not None:
        due = f", due {moment(found['kev_due'])}" if found["kev_due"] is not None else ""
        click.echo(f"known to be exploited: listed {moment(found['kev_added'])}{due}")
    _print_assessment(found["ssvc"])
    click.echo(f"{found['exposed']} hosts exposed")
    print_table(
        found["groups"],
        {"verdict": "VERDICT", "detail": "BY", "hosts": "HOSTS", "release": "KERNEL", "ring": "RING", "level": "LEVEL"},
    )
    _print_stale(found["stale"])


@click.command()
@click.argument("host")
@click.argument("name", metavar="CVE", required=False)
@json_option
@click.pass_context
def explain(context: click.Context, host: str, name: str | None, as_json: bool) -> None:
    """What is true of a CVE on a host, and what that rests on; without CVE, how many there are of each verdict."""
    client = connect(context)
    if name is None:
        path = ("hosts", id_of(client, host), "cves")
        found = client.get(*path, limit=1)
        if as_json:
            print_json({**found, "items": list(client.every(*path)), "next": ""})
            return
        click.echo(f"effective version: {found['effective'] or 'not known'}")
        for word, count in found["counts"].items():
            click.echo(f"{count:8,} {word}")
        _print_stale(found["stale"])
        return
    found = client.get("hosts", id_of(client, host), "cves", name)
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['cve']}: {found['verdict']}" + (f" ({found['detail']})" if found["detail"] else ""))
    if found["title"]:
        click.echo(f"  {found['title']}")
    _print_assessment(found["ssvc"], "  ")
    for line in found["evidence"]:
        click.echo(f"  - {line}")
    _print_clocks(found)
    for feed, (version, age) in sorted(found["feeds"].items()):
        click.echo(f"  {feed}: {version}, {age // 3600} h old")
    for item in found["deadlines"]:
        due = f"due {moment(item['due'])} UTC" if item["due"] is not None else "due with the next upgrade of the system"
        late = ", missed" if item["overdue"] else ""
        click.echo(f"  {item['name']}: {due}{late}" + (", secure traces first" if item["forensic"] else ""))
    if found["accepted_until"] is not None:
        click.echo(f"  accepted until {moment(found['accepted_until'])} UTC, by an exception")
    _print_stale(found["stale"])


def _print_clocks(found: dict[str, Any]) -> None:
    if found["published"]:
        click.echo(f"  published, or first read of: {moment(found['published'])}")
    for name, what in (
        ("open_since", "first open here"),
        ("fix_since", "something that closes it since"),
        ("closed_since", "closed since"),
    ):
        if found[name] is not None:
            click.echo(f"  {what}: {moment(found[name])}")
    if found["open_since"] is not None:
        again = f", open again {found['reopened']} times" if found["reopened"] else ""
        click.echo(f"  open for {span(found['exposed'])} in all{again}")
    for change in found["changes"]:
        click.echo(
            f"  {moment(change['at'])}  {change['verdict']}" + (f" ({change['detail']})" if change["detail"] else "")
        )
    click.echo(f"  rules: {found['rules']}, {found['applicability_rules']}")


def _print_assessment(found: dict[str, str] | None, margin: str = "") -> None:
    if found:
        click.echo(f"{margin}CISA's assessment: " + ", ".join(f"{name} {word}" for name, word in found.items()))


def _print_stale(names: list[str]) -> None:
    for what, feeds in (
        ("what is not affected may be affected by now", ("cna", "debian")),
        ("listings, scores and assessments may be others by now", ("kev", "epss", "ssvc", "bod")),
    ):
        found = [name for name in names if kind_of(name) in feeds]
        if found:
            click.echo(f"stale: {', '.join(found)} {'is' if len(found) == 1 else 'are'} missing or too old; {what}")
