"""`kmend`: the command line on a host. Parses, takes the lock, recovers, runs the command, prints, ends with its status."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from kmend import __version__
from kmend.agent import aliases, checking, configcommand, loading, looking, render, service, status, stopping
from kmend.agent.applying import Update
from kmend.agent.booting import boot
from kmend.agent.config import Config
from kmend.agent.configfiles import load_config, read_config
from kmend.agent.errors import (
    AgentError,
    BusyError,
    ConfigError,
    NotPossibleError,
    PreflightError,
    StoppedError,
    TerminatedError,
)
from kmend.agent.examination import examine
from kmend.agent.lock import held
from kmend.agent.output import say, show, wants_colour
from kmend.agent.recalling import update_obeying
from kmend.agent.removal import before_removal
from kmend.agent.returning import rollback, unload
from kmend.agent.session import Host, Session, prepare_folders
from kmend.agent.settling import settle
from kmend.agent.states import UNDER_WAY, State
from kmend.core.errors import KmendError, SystemProblemError, UsageError

EXIT_CODES = """exit codes of status --exit-code and check --exit-code, the worst first: 60 error, or no recent good check;
40 kernel not supported; 50 reboot needed; 20 transition pending; 30 a newer level is held back; 10 update available; 0 current.
other commands: 0 done; 1 failed; 2 a mistake of the caller's; 3 refused, nothing changed; 20, 30, 40 as above; 75 another
kmend is at work; 78 configuration."""


def main(arguments: Sequence[str] | None = None, *, host: Host | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command line without the program's name; None takes the process's own.
        host: the world to work in; None is this machine.

    Returns:
        The exit status.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        words, remark = aliases.translated(words)
    except UsageError as problem:
        return _report(problem, as_json="--json" in words)
    if remark:
        say(remark)
    try:
        options = command_line().parse_args(words)
    except SystemExit as stop:
        if stop.code == 2 and words[:1] == ["nagios"]:  # 2 would be CRITICAL, and what is wrong is the call
            from kmend.agent import nagios

            severity, line = nagios.broken("the check is called in a way that kmend does not know")
            sys.stdout.write(line + "\n")
            return int(severity)
        raise
    logging.basicConfig(
        level=logging.DEBUG if options.debug else logging.WARNING, stream=sys.stderr, format="kmend: %(message)s"
    )
    host = host or Host()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return int(_run(options, host))
    except KmendError as problem:
        return _report(problem, as_json=getattr(options, "json", False))
    except KeyboardInterrupt:
        sys.stderr.write("kmend: interrupted\n")
        return 130
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - the interpreter flushes it at exit
        return 141


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise TerminatedError("stopped by a signal; what was begun is recorded", hint="kmend status tells how things stand")


def command_line() -> argparse.ArgumentParser:
    """Every command and option; the manual page and the shells' completion are made of it too."""
    parser = argparse.ArgumentParser(
        prog="kmend",
        description="Keep the running kernel patched, without a reboot.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kmend {__version__}")
    parser.add_argument("--debug", action="store_true", help="say more on standard error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help_text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help_text, description=help_text.capitalize() + ".")
        command.add_argument("--json", action="store_true", help="print one JSON document")
        return command

    add("status", "show what is patched, what is pending, what happened").add_argument(
        "--exit-code", action="store_true", help="end with the code that stands for the state"
    )
    add("check", "ask the repository what is new, and change nothing").add_argument(
        "--exit-code", action="store_true", help="end with the code that stands for the state"
    )
    command = add("update", "load the newest level that this host may load")
    command.add_argument("--level", type=int, help="load this level, even if it is in quarantine")
    command = add("preflight", "say everything that speaks against loading a level on this host now; changes nothing")
    command.add_argument("--level", type=int, help="this level, instead of the one that update would load")
    add(
        "boot",
        "load again a level that ran well on this host; for the start of the machine, needs no network and no clock",
    )
    command = add("rollback", "go back to the level before")
    command.add_argument("--to", type=int, metavar="LEVEL", help="go back to this level")
    command.add_argument(
        "--unload-first",
        action="store_true",
        help="take the loaded level off first, where the kernel refuses to replace it; some seconds are unprotected",
    )
    command = add("unload", "take the livepatch off; its CVEs are open again")
    command.add_argument("--no-wait", action="store_true", help="do not wait for the module's removal")
    command = add("history", "list what happened to this host's kernel")
    command.add_argument("--limit", type=int, default=50, help="how many events (default 50)")
    looking.declare(add)
    command = add("quarantine", "list or clear what this host does not load by itself")
    command.add_argument("act", choices=("list", "clear"), nargs="?", default="list")
    command.add_argument("--level", type=int, help="clear this level only")
    command = add("config", "show the configuration and where it comes from, or check it")
    command.add_argument("act", choices=("show", "check"))
    command = add(
        "enrol", "be taken into a server's fleet, as root; without --server it shows where this host is enrolled"
    )
    command.add_argument("--server", metavar="URL", help="the server's URL")
    command.add_argument(
        "--key", metavar="KEY", help="the enrolment key; others on this host can see it while kmend runs"
    )
    command.add_argument("--key-file", metavar="FILE", help="read the key from there (else from KMEND_ENROLMENT_KEY)")
    command.add_argument(
        "--pin", metavar="DIGEST", default="", help="of the server's authority, as the server printed it"
    )
    command.add_argument("--ca", metavar="FILE", default="", help="the server's authority, in PEM")
    command.add_argument("--again", action="store_true", help="as another host, although this one is enrolled")
    command = add("agent", "look at the repository at this host's times, and have livepatches loaded: for the service")
    command.add_argument("act", choices=("run", "once"), help="stay resident, or look once")
    # For the packaging and for kmend itself; without a help text it is not offered to people.
    internal = commands.add_parser("internal")
    internal.add_argument("act", choices=("settle", "load", "note-shutdown", "before-removal"))
    internal.set_defaults(json=False)
    return parser


def _run(options: argparse.Namespace, host: Host) -> int:
    if options.command == "agent":
        return service.run(host, options.act)
    if options.command == "internal":
        return _internal(options.act, host)
    if options.command == "config":
        return _config(options, host)
    if options.command == "enrol":
        return _enrol(options, host)
    if options.command == "status":
        return _status(options, host)
    if options.command in looking.COMMANDS:
        return looking.run(options, host)
    prepare_folders(host.paths)
    config = read_config(host.paths.config)
    with held(host.paths.run / "lock", options.command, host.clock):
        session = Session(host, config, say)
        session.announce = lambda: status.announce(session)
        session.recover()
        try:
            return _COMMANDS[options.command](options, session)
        finally:
            if session.journal.state in UNDER_WAY:
                session.journal.come_to_rest(State.IDLE)
            _leave(session)


def _leave(session: Session) -> None:
    """Publish what is true now, and leave a child behind if something is due later; a failure here hides no other."""
    status.announce(session)
    try:
        if session.next_deadline() is not None:
            session.host.spawn_settler()
    except KmendError as problem:
        say(f"cannot tell what is due later: {problem.message}")


def _status(options: argparse.Namespace, host: Host) -> int:
    """Status works without privilege and beside another command; it recovers only where it may and can."""
    problem: KmendError | None = None
    try:
        config = read_config(host.paths.config)
    except ConfigError as caught:
        config, problem = Config(), caught
    try:
        if _may_write(host):
            with held(host.paths.run / "lock", "status", host.clock, wait=0.5):
                document = _recovered_status(Session(host, config, say))
        else:
            document = status.describe(Session(host, config, say), repository=config.repository.url)
    except BusyError as caught:
        say(caught.message)
        document = status.describe(Session(host, config, say), repository=config.repository.url)
    if problem is not None:
        _report(problem, as_json=False)
    show(options, document, lambda: render.status(document, render.Painter(colour=wants_colour())))
    if not options.exit_code:
        return 0
    return 60 if problem is not None else document.exit_code


def _recovered_status(session: Session) -> status.Status:
    """Status after recovery; a disk on which nothing can be recorded hides nothing."""
    try:
        session.recover()
    except SystemProblemError as problem:
        say(f"what has happened cannot be recorded: {problem.message}")
    document = status.describe(session, repository=session.config.repository.url)
    try:
        status.publish(session, document)
    except SystemProblemError as problem:
        say(f"cannot publish the state: {problem.message}")
    return document


def _may_write(host: Host) -> bool:
    try:
        prepare_folders(host.paths)
    except SystemProblemError:
        return False
    return os.access(host.paths.state, os.W_OK) and os.access(host.paths.run, os.W_OK)


def _check(options: argparse.Namespace, session: Session) -> int:
    found = stopping.stop(session.paths)
    if found is not None and found.extent is stopping.Extent.OFF:
        raise StoppedError(f"no repository is asked: {found.source}")
    session.journal.begin_check()
    with checking.recorded(session), checking.opened(session) as repository:
        checking.find(session, repository)
    document = status.describe(session, repository=session.config.repository.url)
    show(options, document, lambda: render.status(document, render.Painter(colour=wants_colour())))
    return document.exit_code if options.exit_code else 0


def _update(options: argparse.Namespace, session: Session) -> int:
    result = update_obeying(session, options.level)
    show(options, result, lambda: _update_text(result))
    return 0


def _update_text(result: Update) -> str:
    if result.applied is None:
        return result.message
    return (
        f"{result.message} after {result.applied.seconds:.2f} s: {', '.join(result.applied.cves) or 'no CVE by name'}"
    )


def _preflight(options: argparse.Namespace, session: Session) -> int:
    view = session.kernel.view()
    last = checking.last_check(session)
    manifest = checking.outlook(session, view, last).manifest
    if options.level is not None:
        known = (*session.store.manifests(session.running.build_id), *(last.newer if last is not None else ()))
        manifest = next((item for item in known if item.level == options.level), None)
        if manifest is None:
            raise NotPossibleError(f"level {options.level} is not known on this host", hint="kmend check asks for it")
    kept = session.store.module(manifest) if manifest is not None else None
    examined = examine(session, manifest, signed=kept is None or bool(kept[1]))
    show(options, examined, lambda: render.preflight(examined))
    return 0 if examined.fit else PreflightError.exit_status


def _boot(options: argparse.Namespace, session: Session) -> int:
    result = boot(session)
    show(options, result, lambda: result.message)
    return 0


def _rollback(options: argparse.Namespace, session: Session) -> int:
    result = rollback(session, options.to, unload_first=options.unload_first)
    gap = f"; unprotected for {result.unprotected_seconds:.2f} s" if result.unprotected_seconds else ""
    show(
        options,
        result,
        lambda: (
            f"level {result.level} is in force after {result.applied.seconds:.2f} s ({result.way}){gap}\n"
            f"level {result.left} is held back until: kmend update --level {result.left}, or kmend quarantine clear"
        ),
    )
    return 0


def _unload(options: argparse.Namespace, session: Session) -> int:
    result = unload(session, wait=not options.no_wait)
    rest = "its module is still resident" if result.resident else "its module is removed"
    show(
        options,
        result,
        lambda: (
            f"level {result.level} is off after {result.seconds:.2f} s; {rest}\n"
            f"it is held back until: kmend update --level {result.level}, or kmend quarantine clear"
        ),
    )
    return 0


def _history(options: argparse.Namespace, session: Session) -> int:
    records = session.history.records()
    records = records[max(0, len(records) - max(0, options.limit)) :]
    show(options, {"format": "kmend-history/1", "records": records}, lambda: render.history(records))
    return 0


def _quarantine(options: argparse.Namespace, session: Session) -> int:
    if options.act == "list":
        entries = session.quarantine.entries()
        show(options, {"format": "kmend-quarantine/1", "entries": entries}, lambda: render.quarantine(entries))
        return 0
    chosen = [entry.module for entry in session.quarantine.entries() if options.level in (None, entry.level)]
    removed = [entry for module in dict.fromkeys(chosen) for entry in session.quarantine.clear(module)]
    text = "cleared: " + ", ".join(f"level {entry.level}" for entry in removed) if removed else "nothing to clear"
    show(options, {"format": "kmend-quarantine/1", "cleared": removed}, lambda: text)
    return 0


def _enrol(options: argparse.Namespace, host: Host) -> int:
    from kmend.agent import enrolling

    if options.server is None:
        found = enrolling.standing(Session(host, read_config(host.paths.config), say))
        document = found or {"format": "kmend-enrolment/1", "host": None}
        text = f"host {found.host} at {found.url}" if found is not None else "this host is not enrolled at any server"
        show(options, document, lambda: text)
        return 0
    prepare_folders(host.paths)
    key = enrolling.read_key(options.key, options.key_file, os.environ.get("KMEND_ENROLMENT_KEY"))
    wanted = enrolling.Wanted(options.server, key, options.pin, options.ca, options.again)
    done = enrolling.enrol(Session(host, read_config(host.paths.config), say), wanted)
    said = f"taken into the ring {done.ring}" if done.new else "enrolled there before; nothing was changed"
    show(options, done, lambda: f"host {done.host} at {done.url}: {said}")
    return 0


def _config(options: argparse.Namespace, host: Host) -> int:
    """Looked at without the lock, and whatever the state is like."""
    loaded = load_config(host.paths.config)
    if options.act == "check":
        found = configcommand.checked(loaded)
        show(options, found, lambda: configcommand.check_text(found))
    else:
        document = configcommand.configuration(loaded)
        show(options, document, lambda: configcommand.show_text(document))
        for problem in loaded.problems:
            say(f"error: {problem}")
    return ConfigError.exit_status if loaded.problems else 0


def _internal(act: str, host: Host) -> int:
    prepare_folders(host.paths)
    if act == "settle":
        settle(host)
    elif act == "load":
        loading.serve(host)
    elif act == "before-removal":
        before_removal(host, say)
    else:
        Session(host, Config(), say).note_shutdown()
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace, Session], int]] = {
    "check": _check,
    "update": _update,
    "preflight": _preflight,
    "boot": _boot,
    "rollback": _rollback,
    "unload": _unload,
    "history": _history,
    "quarantine": _quarantine,
}


def _report(problem: KmendError, *, as_json: bool) -> int:
    if as_json:
        document = {"error": {"kind": problem.kind, "message": problem.message, "hint": problem.hint}}
        sys.stdout.write(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    sys.stderr.write(f"kmend: error: {problem.message}\n")
    if problem.hint:
        sys.stderr.write(f"hint: {problem.hint}\n")
    return problem.exit_status if isinstance(problem, (AgentError, UsageError)) else 1
