"""`kmend-server documents`: what scanners and auditors read, of a host or of a level."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from kmend.core import durable
from kmend.core.errors import KmendError
from kmend.server.commands.client import MAX_ANSWER, Client, ServerAnswerError, connect
from kmend.server.commands.hosts import id_of
from kmend.server.commands.output import say


@click.group()
def command() -> None:
    """Documents for scanners and auditors.

    BUILD is a kernel build: its build ID, or its release where only one build has it.
    """


def _output(function: Any) -> Any:
    option = click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file.")
    return option(function)


def _of_level(kind: str, told: str) -> click.Command:
    @click.argument("build")
    @click.argument("level", type=click.IntRange(1, 999_999))
    @_output
    @click.pass_context
    def show(context: click.Context, build: str, level: int, output: Path | None) -> None:
        client = connect(context)
        _hand_out(client, output, "levels", _build_id(client, build), str(level), kind)

    return click.command(kind, help=told)(show)


@command.command("openvex")
@click.argument("host")
@_output
@click.pass_context
def openvex(context: click.Context, host: str, output: Path | None) -> None:
    """OpenVEX of a host, for Trivy and Grype; true until it restarts, or its livepatch is taken off."""
    client = connect(context)
    _hand_out(client, output, "hosts", id_of(client, host), "openvex")


command.add_command(_of_level("csaf", "CSAF 2.0 advisory of a level."))
command.add_command(_of_level("osv", "OSV of a level, in the manner of a distribution's livepatch notices."))
command.add_command(_of_level("oval", "OVAL of a level, for `oscap oval eval` on a host."))


def _hand_out(client: Client, output: Path | None, *parts: str) -> None:
    content = bytearray()
    for piece in client.lines(*parts):
        content += piece
        if len(content) > MAX_ANSWER:
            raise ServerAnswerError(f"the document is larger than {MAX_ANSWER >> 20} MiB")
    if output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    durable.write_durably(output, bytes(content))
    say(f"{output}: {len(content):,} bytes")


def _build_id(client: Client, text: str) -> str:
    """The build ID of a kernel build that has a level, of which `text` is the build ID or the release."""
    if len(text) in (40, 64) and not set(text) - set("0123456789abcdef"):
        return text
    found = {str(row["build_id"]) for row in client.every("levels", release=text)}
    if len(found) != 1:
        raise BuildError(
            f"{'no build' if not found else 'more than one build'} of {text[:100]} has a level",
            hint="kmend-server levels --json shows build IDs",
        )
    return found.pop()


class BuildError(KmendError):
    """A name that means no kernel build, or several."""

    kind = "build"
    exit_status = 2
