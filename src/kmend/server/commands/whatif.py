"""`kmend-server whatif`: what stands open on a kernel of a distro, without a host, a server, or anything set up before."""

from __future__ import annotations

import time
from pathlib import Path

import click

from kmend.core.errors import UsageError
from kmend.core.kernel import KernelRef
from kmend.intel import Outlook, outlook
from kmend.intel.applicability import RULES
from kmend.intel.feeds import read_changelog
from kmend.server.commands.output import json_option, print_json, say
from kmend.server.feeds import changelog, facts_of, tree

_DAY = 86_400
_SHOWN = 10


@click.command("whatif")
@click.option(
    "--kernel", required=True, help="A release, as `uname -r` prints it, or a kernel ref: debian:6.1.0-50-amd64."
)
@click.option("--cna", type=click.Path(path_type=Path, exists=True), envvar="KMEND_CNA",
              help="The kernel CNA's tree: a checkout of vulns.git, or an archive of it.")  # fmt: skip
@click.option("--facts", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Kernel facts that kmend-factory has written, instead of asking it.")  # fmt: skip
@click.option(
    "--list", "listed", type=click.Choice(["named", "compiled", "open", "closable", "unknown"]), help="List these CVEs."
)
@json_option
def command(kernel: str, cna: Path | None, facts: Path | None, listed: str | None, as_json: bool) -> None:
    """What stands open on a kernel of Debian's: CVEs that later uploads close, and whose code it has."""
    now = int(time.time())
    known = facts_of(_ref(kernel), facts, quick=True)
    package = KernelRef.parse(known.kernel.ref).package
    if package is None:
        raise UsageError(f"the facts of {known.kernel.ref} do not name a package version")
    written = changelog(now=now)
    records, age = tree(cna) if cna is not None else (None, 0)
    found = outlook(
        known, package, read_changelog(written.text),
        records.records if records is not None else {}, records.rejected if records is not None else frozenset(),
    )  # fmt: skip
    feeds: dict[str, object] = {
        "debian-changelog": {"version": written.version, "age_seconds": max(0, now - written.asked_at)},
        "kernel-facts": {"build_id": known.kernel.build_id, "made_from": known.made_from.value},
        "cna": None
        if records is None
        else {"records": len(records.records), "set_aside": len(records.aside), "age_seconds": max(0, now - age)},
    }
    if as_json:
        print_json({
            "kernel": known.kernel.ref, "build_id": known.kernel.build_id, "newest": found.newest, "rules": RULES,
            "named": len(found.named), "compiled": len(found.compiled), "open": len(found.open),
            "closable": len(found.closable), "not_built": len(found.not_built), "unknown": len(found.unknown),
            "feeds": feeds, **({"cves": _list(found, listed)} if listed else {}),
        })  # fmt: skip
        return
    _print(found, known.kernel.ref, listed)
    say(f"changelog of {written.version}, asked for {_ago(now - written.asked_at)}")
    if records is None:
        say("without the CNA's tree nobody knows which files a CVE is in: give --cna")
    else:
        say(f"the CNA's tree: {len(records.records)} CVEs, {_ago(now - age)}, {len(records.aside)} set aside")


def _ref(kernel: str) -> str:
    return kernel if ":" in kernel else f"debian:{kernel}"


def _list(found: Outlook, which: str) -> list[str]:
    chosen: tuple[str, ...] = getattr(found, which)
    return list(chosen)


def _print(found: Outlook, ref: str, listed: str | None) -> None:
    click.echo(f"{ref}, held against {found.newest}")
    rows = (
        (len(found.named), "CVEs are named as closed in later uploads"),
        (len(found.not_built), "of them are in code that this kernel was built without"),
        (len(found.compiled), "are in code that it was built with"),
        (len(found.open), "stand open: built with the code, or nobody knows"),
        (len(found.unknown), "of these nobody knows: no record, or files that the facts do not know"),
        (len(found.closable), "of these a livepatch may close: open, and in C code that was compiled"),
    )
    for number, text in rows:
        click.echo(f"{number:8,} {text}")
    if listed:
        for cve in _list(found, listed):
            click.echo(cve)


def _ago(seconds: int) -> str:
    if seconds < 2 * 3600:
        return f"{max(0, seconds) // 60} min ago"
    return f"{seconds // 3600} h ago" if seconds < 2 * _DAY else f"{seconds // _DAY} days ago"
