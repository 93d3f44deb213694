"""`kmend-server feeds`: bring in what others publish of vulnerabilities, and see how old it is."""

from __future__ import annotations

import time
from pathlib import Path

import click

from kmend.core.errors import KmendError, UsageError
from kmend.server import feeds as sources
from kmend.server import knowledge
from kmend.server.commands.client import connect
from kmend.server.commands.output import json_option, print_json, print_table
from kmend.server.commands.parameters import config_option
from kmend.server.commands.times import span
from kmend.server.config import read_config
from kmend.server.operations.feeding import described, ways
from kmend.server.store import Store, open_store


@click.group()
def command() -> None:
    """What is known of vulnerabilities: feeds, and facts of kernels."""


@command.command("import")
@click.argument("feed", type=click.Choice([*sources.FEEDS, "facts"]))
@click.argument("place", required=False)
@config_option
@json_option
def bring_in(feed: str, place: str | None, config_path: Path, as_json: bool) -> None:
    """Import a feed from this machine, and judge anew what that changes: for servers that reach no network.

    PLACE: for `cna` a checkout or an archive of vulns.git; for `ssvc` one of vulnrichment; for `kev`, `epss` and `bod` the file;
    for `debian` the changelog, else it is fetched by the package client; for `facts` a kernel ref, or the file that kmend-factory
    has written.
    """
    store = open_store(read_config(config_path).database_url)
    try:
        found = _bring_in(store, feed, place, int(time.time()))
    finally:
        store.close()
    _print(found, as_json)


@command.command("fetch")
@click.argument("names", metavar="[FEED]...", nargs=-1)
@config_option
@json_option
def fetch(names: tuple[str, ...], config_path: Path, as_json: bool) -> int:
    """Fetch configured feeds now, all or some, as the server does by itself; exit status 1 if one of them cannot be had."""
    config = read_config(config_path)
    configured = config.feeds.configured
    unknown = [name for name in names if name not in configured]
    if unknown or not configured:
        raise UsageError(
            f"{unknown[0]} is not configured" if unknown else "no feed is configured, so nothing is fetched",
            hint=f"[feeds] in {config_path} says where from; kmend-server feeds import takes a file",
        )
    store = open_store(config.database_url)
    done: list[dict[str, object]] = []
    try:
        for name in names or configured:
            try:
                found = knowledge.bring(store, ways(config), name, configured[name], int(time.time()), force=True)
            except KmendError as problem:
                done.append({"feed": name, "error": problem.message, "hint": problem.hint})
            else:
                done.append(described(found) if found is not None else {"feed": name, "records": None})
            if not as_json:
                _print(done[-1], as_json)
    finally:
        store.close()
    if as_json:
        print_json(done)
    return int(any("error" in item for item in done))


@command.command("forget")
@click.argument("name", metavar="CHANGELOG")
@config_option
def forget(name: str, config_path: Path) -> None:
    """Take out the changelog of a release that no host runs any more, by its name in `feeds list`, and judge anew."""
    config = read_config(config_path)
    if name in config.feeds.configured:
        raise UsageError(f"{name} is fetched by itself", hint=f"take it out of [feeds] in {config_path} first")
    store = open_store(config.database_url)
    try:
        knowledge.forget(store, name, int(time.time()))
    finally:
        store.close()
    click.echo(f"{name} is forgotten")


@command.command("list")
@json_option
@click.pass_context
def show(context: click.Context, as_json: bool) -> None:
    """What was imported, how old it is, where it comes from by itself, and what went wrong."""
    rows = connect(context).get("feeds")
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo("nothing was imported, and nothing is fetched by itself: see [feeds] in the server's configuration")
        return
    shown = [
        {
            **row,
            "version": row["version"][:20],
            "old": (span(row["age"]) + (" STALE" if row["stale"] else "")) if row["age"] is not None else "MISSING",
            "source": row["source"] or "by hand",
            "tried": span(row["tried_age"]) if row["tried_age"] is not None else "",
        }
        for row in rows
    ]
    print_table(
        shown,
        {
            "name": "FEED", "version": "VERSION", "old": "AGE", "records": "RECORDS", "aside_count": "SET ASIDE",
            "source": "SOURCE", "tried": "TRIED", "failures": "FAILED",
        },
    )  # fmt: skip
    for row in rows:
        if row["error"]:
            click.echo(f"{row['name']}: {row['error']}" + (f"\n  hint: {row['hint']}" if row["hint"] else ""))


def _bring_in(store: Store, feed: str, place: str | None, now: int) -> dict[str, object]:
    if feed == "facts":
        if not place:
            raise UsageError("which kernel?", hint="kmend-server feeds import facts debian:6.1.0-50-amd64")
        file = Path(place) if Path(place).exists() else None
        build_id = knowledge.import_facts(store, sources.facts_of(place, file), now=now)
        return {"build_id": build_id, "judged": knowledge.judge_builds(store, builds={build_id})}
    path = None if feed == "debian" and place is None else _needed(feed, place)
    return described(knowledge.bring_file(store, feed, path, now))


def _needed(feed: str, place: str | None) -> Path:
    if not place:
        raise UsageError(f"where is the feed {feed}?", hint=f"kmend-server feeds import {feed} FILE")
    path = Path(place)
    if not path.exists():
        raise UsageError(f"there is no {path}")
    return path


def _print(found: dict[str, object], as_json: bool) -> None:
    if as_json:
        print_json(found)
    elif "error" in found:
        click.echo(f"{found['feed']}: NOT FETCHED: {found['error']}")
    elif found.get("records", 0) is None:
        click.echo(f"{found['feed']}: nothing new")
    else:
        click.echo(", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in found.items()))
