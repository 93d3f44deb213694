"""The commands that only look: no lock, no privilege, nothing changed; each is declared, run and printed here.

What only one of them needs is imported when it runs: the service, which lives on, has no use for it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kmend.agent import effective, metrics, rebooting, status
from kmend.agent.config import Config
from kmend.agent.configfiles import read_config
from kmend.agent.errors import ConfigError
from kmend.agent.output import say, show
from kmend.agent.session import Host, Session
from kmend.core.errors import KmendError, UsageError

if TYPE_CHECKING:
    from kmend.agent.nagios import Severity


SEVERITIES = ("ok", "warning", "critical", "unknown")
"""The options of `kmend nagios`; the names of `kmend.agent.nagios.Severity`."""


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
    command = add("uname", "print the running kernel's release with the level in force, as in 6.1.0-50-amd64+0kmend3")
    command.add_argument(
        "-v", "--package", action="store_true", help="its package version instead, as in 6.1.176-1+0kmend3"
    )
    command = add("nagios", "one line and an exit code (0 to 3) for Nagios, Icinga and their kind")
    for severity in SEVERITIES:
        told = f"conditions that are {severity.upper()} (comma-separated), as in --{severity} stale"
        command.add_argument(f"--{severity}", metavar="CONDITIONS", help=told)
    add("metrics", "print the status as Prometheus metrics, for node_exporter's textfile collector")
    command = add(
        "reboot-needed", "say whether a restart is still needed: ends with 0 if it is, 1 if not, 2 if not known"
    )
    command.add_argument(
        "--ignore-livepatch", action="store_true", help="a new kernel needs one, whatever is live-patched"
    )
    command.add_argument(
        "--new-kernel",
        action="store_true",
        help="a new kernel is installed, whether or not /run/reboot-required says so",
    )
    command = add(
        "doctor", "show what a helper needs to see of this host, secrets taken out; writes nothing without -o"
    )
    command.add_argument("-o", "--output", metavar="FILE", help="write it, as a .tar.gz; nothing is sent anywhere")
    command.add_argument("--show", metavar="PART", help="print one part as it would be written")
    command.add_argument("--keep-host-name", action="store_true", help="leave this host's names in")
    add("verify", "hold what is loaded against what was signed; ends with 1 if something differs")


def run(options: argparse.Namespace, host: Host) -> int:
    """Run one of `COMMANDS`; a configuration that cannot be used is said, and the defaults are taken."""
    try:
        config = read_config(host.paths.config)
    except ConfigError as problem:
        say(f"error: {problem.message}")
        config = Config()
    try:
        return COMMANDS[options.command](options, Session(host, config, say))
    except KmendError as problem:
        if options.command == "nagios":
            from kmend.agent import nagios

            return _nagios_line(options, *nagios.broken(problem.message))
        if options.command == "reboot-needed":
            say(f"error: {problem.message}")
            return 2
        raise


def _patches(options: argparse.Namespace, session: Session) -> int:
    from kmend.agent import inventory

    document = inventory.patches(session)
    if options.level is not None:
        chosen = tuple(item for item in document.levels if item.level == options.level)
        if not chosen:
            raise UsageError(f"level {options.level} is not known on this host", hint="kmend check asks for it")
        document = inventory.Patches(document.build_id, document.release, document.loaded, chosen, (), ())
    show(options, document, lambda: inventory.patches_text(document, options.level))
    return 0


def _cves(options: argparse.Namespace, session: Session) -> int:
    from kmend.agent import inventory

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
    from kmend.agent import verification

    document = verification.verify(session)
    show(options, document, lambda: verification.text(document))
    return int(not document.intact)


def _nagios(options: argparse.Namespace, session: Session) -> int:
    from kmend.agent import nagios

    given = {nagios.Severity[severity.upper()]: getattr(options, severity) for severity in SEVERITIES}
    wanted = nagios.severities({severity: text for severity, text in given.items() if text is not None})
    stale = session.config.timing.stale_after_hours * 3600
    return _nagios_line(options, *nagios.check(_status(session), wanted, stale_seconds=stale))


def _nagios_line(options: argparse.Namespace, severity: Severity, line: str) -> int:
    show(options, {"format": "kmend-nagios/1", "severity": severity.name, "line": line}, lambda: line)
    return int(severity)


def _metrics(options: argparse.Namespace, session: Session) -> int:
    document = _status(session)
    show(options, document, lambda: metrics.text(document).rstrip("\n"))
    return 0


def _reboot_needed(options: argparse.Namespace, session: Session) -> int:
    document = _status(session)
    answer = document.reboot or rebooting.Reboot("no", "")
    if options.new_kernel and answer.verdict == "no":
        level = document.livepatch.level if document.livepatch is not None else 0
        in_force = document.livepatch is not None and document.livepatch.state == "in-force"
        current = document.summary == "current"
        answer = rebooting.judge(("linux-image",), oopsed=False, current=current, level=level if in_force else 0)
    needed = answer.verdict == "yes" or (options.ignore_livepatch and answer.verdict == "live-patched")
    show(options, answer, lambda: f"{'restart needed' if needed else 'no restart needed'}: {answer.reason}")
    return int(not needed)


def _doctor(options: argparse.Namespace, session: Session) -> int:
    from kmend.agent import doctor  # with what packs it, which nobody else needs

    parts = doctor.collect(session, os.environ, keep_host=options.keep_host_name)
    if options.show is not None:
        chosen = doctor.show_part(parts, options.show)
        show(options, {"format": "kmend-doctor-part/1", "name": options.show, "text": chosen}, lambda: chosen)
        return 0
    if options.output is not None:
        doctor.write(parts, Path(options.output), session.clock.now())
    document = doctor.bundle(parts, options.output or "")
    show(options, document, lambda: doctor.text(document))
    return 0


def _status(session: Session) -> status.Status:
    return status.describe(session, repository=session.config.repository.url)


COMMANDS: dict[str, Callable[[argparse.Namespace, Session], int]] = {
    "patches": _patches,
    "cves": _cves,
    "uname": _uname,
    "verify": _verify,
    "nagios": _nagios,
    "metrics": _metrics,
    "reboot-needed": _reboot_needed,
    "doctor": _doctor,
}
