"""`kmend-server feeds`: bring in what others publish of vulnerabilities, and see how old it is."""

from __future__ import annotations

import time
from pathlib import Path

import click

from kmend.core import durable
from kmend.core.errors import UsageError
from kmend.intel.feeds import read_changelog, read_epss, read_kev
from kmend.server import feeds as sources
from kmend.server import knowledge
from kmend.server.commands.client import connect
from kmend.server.commands.output import json_option, print_json, print_table
from kmend.server.commands.parameters import config_option
from kmend.server.commands.times import span
from kmend.server.config import read_config
from kmend.server.store import Store, open_store

MAX_BYTES = 256 * 1024 * 1024


@click.group()
def command() -> None:
    """What is known of vulnerabilities: feeds, and facts of kernels."""


@command.command("import")
@click.argument("feed", type=click.Choice(["cna", "debian", "kev", "epss", "facts"]))
@click.argument("place", required=False)
@config_option
@json_option
def bring_in(feed: str, place: str | None, config_path: Path, as_json: bool) -> None:
    """Import a feed, and judge anew what that changes.

    PLACE: for `cna` a checkout or an archive of vulns.git; for `kev` and `epss` the file; for `debian` the changelog's text, else
    it is fetched by the package client; for `facts` a kernel ref, or the file that kmend-factory has written.
    """
    store = open_store(read_config(config_path).database_url)
    try:
        found = _bring_in(store, feed, place, int(time.time()))
    finally:
        store.close()
    if as_json:
        print_json(found)
        return
    click.echo(", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in found.items()))


@command.command("list")
@json_option
@click.pass_context
def show(context: click.Context, as_json: bool) -> None:
    """What was imported, and how old it is."""
    rows = connect(context).get("feeds")
    if as_json:
        print_json(rows)
        return
    shown = [{**row, "old": span(row["age"])} for row in rows]
    print_table(
        shown, {"name": "FEED", "version": "VERSION", "old": "AGE", "records": "RECORDS", "aside_count": "SET ASIDE"}
    )


def _bring_in(store: Store, feed: str, place: str | None, now: int) -> dict[str, object]:
    if feed == "facts":
        if not place:
            raise UsageError("which kernel?", hint="kmend-server feeds import facts debian:6.1.0-50-amd64")
        file = Path(place) if Path(place).exists() else None
        build_id = knowledge.import_facts(store, sources.facts_of(place, file), now=now)
        return {"build_id": build_id, "judged": knowledge.judge_builds(store, builds={build_id})}
    if feed == "debian":
        text, as_of = _changelog(place, now)
        found = knowledge.import_changelog(store, read_changelog(text), as_of=as_of, now=now)
        judged = knowledge.judge_builds(store)
    else:
        found = _of_file(store, feed, _needed(feed, place), now)
        # All of them, also if nothing has changed: the import before may have been killed before it judged.
        judged = knowledge.judge_builds(store) if feed == "cna" else 0
    return {
        "feed": feed, "records": found.records, "changed": len(found.changed), "rejected": len(found.rejected),
        "set_aside": found.aside, "judged": judged,
    }  # fmt: skip


def _of_file(store: Store, feed: str, path: Path, now: int) -> knowledge.Imported:
    if feed == "cna":
        tree, as_of = sources.tree(path)
        return knowledge.import_cna(store, tree, version=path.name, as_of=as_of, now=now)
    content = durable.read_bounded(path, max_bytes=MAX_BYTES)
    if feed == "kev":
        return knowledge.import_kev(store, read_kev(content), now=now)
    return knowledge.import_epss(
        store, read_epss(content.decode("utf-8", errors="replace")), as_of=int(path.stat().st_mtime), now=now
    )


def _changelog(place: str | None, now: int) -> tuple[str, int]:
    if place is None:
        found = sources.changelog(now=now)
        return found.text, found.asked_at
    path = _needed("debian", place)
    return durable.read_bounded(path, max_bytes=MAX_BYTES).decode("utf-8", errors="replace"), int(path.stat().st_mtime)


def _needed(feed: str, place: str | None) -> Path:
    if not place:
        raise UsageError(f"where is the feed {feed}?", hint=f"kmend-server feeds import {feed} FILE")
    path = Path(place)
    if not path.exists():
        raise UsageError(f"there is no {path}")
    return path
