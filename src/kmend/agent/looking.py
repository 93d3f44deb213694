"""The commands that only look: no lock, no privilege, nothing changed; each is declared, run and printed here."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Protocol

from kmend.agent import effective, inventory, verification
from kmend.agent.config import Config
from kmend.agent.configfiles import read_config
from kmend.agent.errors import ConfigError
from kmend.agent.output import say, show
from kmend.agent.session import Host, Session
from kmend.core.errors import UsageError


class Adder(Protocol):
    """Declares one command; see `kmend.agent.main.command_line`."""

    def __call__(self, name: str, help_text: str) -> argparse.ArgumentParser:
        """The new command's own parser."""


def declare(add: Adder) -> None:
    """Declare the commands and their options."""
    add("patches", "list the levels that this host knows, and the functions of the loaded one").add_argument(
        "--level", type=int, help="this one only, with its functions"
    )
    command = add("cves", "say of every CVE that known levels name what it is on this host")
    command.add_argument("cve", nargs="*", help="of these only; ends with 1 if one of them is not live-patched")
    command = add("uname", "print the running kernel's release with the level in force, as in 6.1.0-50-amd64+kmend3")
    command.add_argument(
        "-v", "--package", action="store_true", help="its package version instead, as in 6.1.176-1+kmend3"
    )
    add("verify", "hold what is loaded against what was signed; ends with 1 if something differs")


def run(options: argparse.Namespace, host: Host) -> int:
    """Run one of `COMMANDS`; a configuration that cannot be used is said, and the defaults are taken."""
    try:
        config = read_config(host.paths.config)
    except ConfigError as problem:
        say(f"error: {problem.message}")
        config = Config()
    return COMMANDS[options.command](options, Session(host, config, say))


def _patches(options: argparse.Namespace, session: Session) -> int:
    document = inventory.patches(session)
    if options.level is not None:
        chosen = tuple(item for item in document.levels if item.level == options.level)
        if not chosen:
            raise UsageError(f"level {options.level} is not known on this host", hint="kmend check asks for it")
        document = inventory.Patches(document.build_id, document.release, document.loaded, chosen, (), ())
    show(options, document, lambda: inventory.patches_text(document, options.level))
    return 0


def _cves(options: argparse.Namespace, session: Session) -> int:
    asked = [name.upper() for name in options.cve]
    if len(asked) > inventory.MAX_ASKED:
        raise UsageError(f"{len(asked)} CVEs are asked for; {inventory.MAX_ASKED} are answered at once")
    document = inventory.cves(session, asked)
    show(options, document, lambda: inventory.cves_text(document))
    return int(bool(asked) and any(item.verdict != "live-patched" for item in document.cves))


def _uname(options: argparse.Namespace, session: Session) -> int:
    document = effective.effective(session)
    name = document.effective_package or document.package if options.package else document.effective_release
    if not name:
        raise UsageError("the version of the kernel's package is not known", hint="kmend uname prints its release")
    show(options, document, lambda: name)
    return 0


def _verify(options: argparse.Namespace, session: Session) -> int:
    document = verification.verify(session)
    show(options, document, lambda: verification.text(document))
    return int(not document.intact)


COMMANDS: dict[str, Callable[[argparse.Namespace, Session], int]] = {
    "patches": _patches,
    "cves": _cves,
    "uname": _uname,
    "verify": _verify,
}
