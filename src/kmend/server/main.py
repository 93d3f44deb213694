"""`kmend-server`: the program of a fleet's operator. The command line's rim; each command lives in `commands/`."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from typing import NoReturn

import click

from kmend import __version__
from kmend.core import interruption
from kmend.core.errors import KmendError
from kmend.core.interruption import Interrupted
from kmend.server.commands.given import Given
from kmend.server.commands.output import print_error_json, report_error, wants_json

_HERE = {
    "backup": "kmend.server.commands.backup:backup",
    "check": "kmend.server.commands.local:check",
    "feeds": "kmend.server.commands.feeds:command",
    "init": "kmend.server.commands.init:command",
    "inventory": "kmend.server.commands.inventory:command",
    "migrate": "kmend.server.commands.local:migrate",
    "repository": "kmend.server.commands.repository:command",
    "rescue": "kmend.server.commands.init:rescue",
    "restore": "kmend.server.commands.backup:restore",
    "run": "kmend.server.commands.run:command",
    "whatif": "kmend.server.commands.whatif:command",
}
"""Commands that work on this machine, with the configuration and the data folder."""

_CLIENTS = {
    "audit": "kmend.server.commands.audit:command",
    "channels": "kmend.server.commands.people:channels",
    "cve": "kmend.server.commands.cves:cve",
    "cves": "kmend.server.commands.compliance:cves",
    "exception": "kmend.server.commands.compliance:exception",
    "documents": "kmend.server.commands.documents:command",
    "evidence": "kmend.server.commands.evidence:command",
    "explain": "kmend.server.commands.cves:explain",
    "forecast": "kmend.server.commands.compliance:forecast",
    "hosts": "kmend.server.commands.hosts:command",
    "keys": "kmend.server.commands.rings:keys",
    "levels": "kmend.server.commands.levels:command",
    "policy": "kmend.server.commands.compliance:policy",
    "plans": "kmend.server.commands.rollouts:plans",
    "recalls": "kmend.server.commands.levels:recalls",
    "rings": "kmend.server.commands.rings:rings",
    "rollouts": "kmend.server.commands.rollouts:command",
    "status": "kmend.server.commands.levels:status",
    "tokens": "kmend.server.commands.people:tokens",
}
"""Commands that speak to a server, wherever it is."""


class _Lazy(click.Group):
    """Imports a command's module only when that command is used, so that `--help` and small commands start at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({**_HERE, **_CLIENTS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = {**_HERE, **_CLIENTS}.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        command = getattr(importlib.import_module(module), name)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in (("On this machine", _HERE), ("With a server", _CLIENTS)):
            commands = [(name, self.get_command(ctx, name)) for name in sorted(names)]
            with formatter.section(title):
                formatter.write_dl([(name, found.get_short_help_str(80)) for name, found in commands if found])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kmend-server")
@click.option("--debug", is_flag=True, help="Show every program that is run, and tracebacks.")
@click.option("--server", envvar="KMEND_SERVER_URL", default="", help="URL of the server that a command speaks to.")
@click.option(
    "--token-file",
    envvar="KMEND_SERVER_TOKEN_FILE",
    type=click.Path(path_type=Path),
    help="File with the token; KMEND_SERVER_TOKEN may hold the token itself.",
)
@click.option("--ca", envvar="KMEND_SERVER_CA", type=click.Path(path_type=Path), help="Certificates to trust, in PEM.")
@click.option(
    "--pin", envvar="KMEND_SERVER_PIN", default="", help="SHA-256 of the server's authority, as init prints it."
)
@click.pass_context
def cli(context: click.Context, debug: bool, server: str, token_file: Path | None, ca: Path | None, pin: str) -> None:
    """Patch a fleet in stages: know every host, decide who gets a new level when, and stop before it hurts.

    Commands that speak to a server take its URL, a token, and whom to trust from these options, from the environment, or from
    ~/.config/kmend/server.toml (url, token_file, ca, pin). On the server's own machine its configuration gives URL and trust.
    """
    context.obj = Given(server, token_file, ca, pin)
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, stream=sys.stderr, format="%(message)s")


def main() -> NoReturn:
    """Run the command line; exit 0 done, 1 failed, 2 refused or wrong usage."""
    interruption.watch()
    try:
        status = cli.main(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.Exit as problem:
        sys.exit(problem.exit_code)
    except click.ClickException as problem:
        context = problem.ctx if isinstance(problem, click.UsageError) else None
        if wants_json():
            advice = f"see '{context.command_path} --help'" if context is not None else ""
            print_error_json("usage", problem.format_message(), advice)
        problem.show()
        sys.exit(2)
    except Interrupted as stop:
        sys.stderr.write("interrupted\n")
        sys.exit(stop.exit_status)
    except click.Abort:  # a prompt was left by Ctrl-D
        sys.stderr.write("aborted\n")
        sys.exit(1)
    except KmendError as problem:
        sys.exit(report_error(problem))
    except BrokenPipeError:
        sys.exit(141)
