"""`kmend-factory publish`: put built livepatches into a repository, or refresh it."""

from __future__ import annotations

from pathlib import Path

import click

from kmend.core.manifest import sha256_hex
from kmend.factory.commands.keys import now, passphrase_for
from kmend.factory.commands.output import json_option, print_json, say, step
from kmend.trust.signing.keyfiles import KeyFolder
from kmend.trust.signing.publishing import Published, Publisher, read_agent_file, read_build


@click.command()
@click.argument("builds", nargs=-1, type=click.Path(path_type=Path))
@click.option("--keys", "folder", required=True, type=click.Path(path_type=Path), help="The folder of keys.")
@click.option("--repository", required=True, type=click.Path(path_type=Path), help="The repository's folder.")
@click.option("--refresh", is_flag=True, help="Only sign snapshot and timestamp again; needs the online keys alone.")
@click.option("--channel", default="", help="Only hosts that take this channel load it by themselves.")
@click.option(
    "--agent-package",
    "packages",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A package of the agent, or the script that installs it, for hosts to install from here. Several may be given.",
)
@json_option
def command(
    builds: tuple[Path, ...],
    folder: Path,
    repository: Path,
    refresh: bool,
    channel: str,
    packages: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Publish what was built in BUILDS, each a folder with manifest.json and the unsigned module; all or none.

    Exit status 2: refused, nothing was changed. Refresh at least weekly: hosts take an older repository for a frozen one.
    """
    if refresh == bool(builds or packages):
        raise click.UsageError("give folders or packages to publish, or --refresh")
    publisher = Publisher(repository, KeyFolder(folder, passphrase_for), now=now())
    agent = [read_agent_file(path) for path in packages]
    if refresh:
        result = publisher.refresh()
    else:
        outputs = [read_build(build) for build in builds]
        with step("publish"):
            result = publisher.publish(outputs, channel=channel, agent=agent)
    for warning in result.warnings:
        say(f"warning: {warning}")
    if as_json:
        print_json(result)
    else:
        _show(result)
        for file in agent:
            click.echo(f"{file.name} is published, to install the agent from: SHA-256 {sha256_hex(file.content)}")


def _show(result: Published) -> None:
    for level in result.levels:
        cves = ", ".join(level.cves) or "no CVE"
        signed = "" if level.signed else " (not signed for the kernel)"
        click.echo(f"{level.ref}: level {level.level} is published as {level.module}{signed}: {cves}")
    click.echo(f"repository version {result.timestamp_version}; refresh it within a week")
