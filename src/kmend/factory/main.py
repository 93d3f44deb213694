"""`kmend-factory`: the program of those who make livepatches. The command line's rim; each command lives in `commands/`."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import NoReturn

import click

from kmend import __version__
from kmend.core import interruption
from kmend.core.errors import KmendError
from kmend.core.interruption import Interrupted
from kmend.factory.commands.output import print_error_json, report_error, wants_json

_COMMANDS = {
    "build": "kmend.factory.commands.build",
    "cache": "kmend.factory.commands.cache",
    "decode": "kmend.factory.commands.decode",
    "derive": "kmend.factory.commands.derive",
    "kernel": "kmend.factory.commands.kernel",
    "keys": "kmend.factory.commands.keys",
    "lab": "kmend.factory.commands.lab",
    "publish": "kmend.factory.commands.publish",
    "recall": "kmend.factory.commands.recall",
    "reproduce": "kmend.factory.commands.reproduce",
    "selfcheck": "kmend.factory.commands.selfcheck",
    "survey": "kmend.factory.commands.survey",
    "try": "kmend.factory.commands.trial",
}


class _Lazy(click.Group):
    """Imports a command's module only when that command is used, so that `--help` and small commands start at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(_COMMANDS[cmd_name]).command
        return command if isinstance(command, click.Command) else None


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kmend-factory")
@click.option("--debug", is_flag=True, help="Show every program that is run, and tracebacks.")
def cli(debug: bool) -> None:
    """Make livepatches: prepare kernels, derive and build fixes, try them in virtual machines, publish them."""
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, stream=sys.stderr, format="%(message)s")


def main() -> NoReturn:
    """Run the command line; exit 0 done, 1 failed, 2 refused or wrong usage, others as docs/factory.md says."""
    interruption.watch()
    try:
        status = cli.main(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.Exit as problem:
        sys.exit(problem.exit_code)
    except click.ClickException as problem:
        if wants_json():
            print_error_json("usage", problem.format_message(), _advice(problem))
        problem.show()
        sys.exit(2)
    except Interrupted as stop:
        if wants_json():
            print_error_json("interrupted", str(stop), "")
        sys.stderr.write("interrupted\n")
        sys.exit(stop.exit_status)
    except click.Abort:  # a prompt was left by Ctrl-D
        sys.stderr.write("aborted\n")
        sys.exit(1)
    except KmendError as problem:
        sys.exit(report_error(problem))
    except BrokenPipeError:
        sys.exit(141)


def _advice(problem: click.ClickException) -> str:
    context = problem.ctx if isinstance(problem, click.UsageError) else None
    return f"see '{context.command_path} --help'" if context is not None else ""
