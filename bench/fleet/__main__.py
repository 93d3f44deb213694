"""`python -m bench.fleet`: simulated hosts in a process of their own; prints what they have done as lines of JSON."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from bench.fleet.behaviour import Behaviour, Script, Timing
from bench.fleet.fleet import Fleet, Group
from bench.fleet.library import Library, RepositoryLibrary
from kmend.core.document import decode, encode
from kmend.core.kernel import KernelIdentity
from kmend.trust.network import Network

EVERY_SECONDS = 2.0


def command_line() -> argparse.ArgumentParser:
    """What can be asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--url", required=True, help="the server's URL")
    parser.add_argument("--ca", default="", metavar="FILE", help="its authority, in PEM")
    parser.add_argument(
        "--group", action="append", default=[], metavar="PREFIX=COUNT=KEYFILE",
        help="so many hosts, by the enrolment key in that file; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--count", type=int, default=100, help="hosts, by the key in KMEND_ENROLMENT_KEY, without --group"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long; 0: until SIGTERM or SIGINT")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repository", metavar="URL", help="of the levels; else levels are made up")
    parser.add_argument("--root", type=Path, metavar="FILE", help="its trust root")
    parser.add_argument("--state", type=Path, metavar="FOLDER", help="for what is verified of it")
    parser.add_argument("--kernel", type=Path, metavar="FILE", help="kernel identity as JSON; else a made-up one")
    parser.add_argument("--levels", type=int, default=3, help="how many levels are made up without --repository")
    parser.add_argument(
        "--fare", action="append", default=[], metavar="LEVEL=BEHAVIOUR=SHARE",
        help=f"this share of the hosts does not do well with that level: {', '.join(Behaviour)}",
    )  # fmt: skip
    parser.add_argument("--refuse-return", type=float, default=0.0, metavar="SHARE")
    parser.add_argument("--transition", type=float, default=Timing().transition, metavar="SECONDS")
    parser.add_argument("--soak", type=float, default=Timing().soak, metavar="SECONDS")
    parser.add_argument("--trouble", type=float, default=Timing().trouble, metavar="SECONDS")
    parser.add_argument("--restart", type=float, default=Timing().restart, metavar="SECONDS")
    parser.add_argument("--no-news", action="store_true", help="hold no requests; check in at their times only")
    parser.add_argument("--kept", action="store_true", help="keep connections; else a new one for each check-in")
    parser.add_argument("--at-once", type=int, default=64, help="requests under way, held ones aside")
    return parser


def fleet_of(options: argparse.Namespace, environment: Mapping[str, str]) -> Fleet:
    """The fleet that was asked for."""
    kernel = decode(KernelIdentity, options.kernel.read_bytes()) if options.kernel else None
    if options.repository:
        if kernel is None or options.root is None or options.state is None:
            raise SystemExit("--repository takes --root, --state and --kernel besides")
        network = Network(ca_file=options.ca, system_ca=not options.ca)
        library: Library = RepositoryLibrary(kernel, options.repository, options.root, options.state, network)
    else:
        levels = range(1, options.levels + 1)
        library = Library.made_up(levels, kernel) if kernel is not None else Library.made_up(levels)
    groups = [_group(text) for text in options.group]
    if not groups:
        groups = [Group(environment.get("KMEND_ENROLMENT_KEY", ""), options.count)]
    return Fleet(
        options.url,
        ca=options.ca,
        groups=groups,
        library=library,
        script=Script(_fares(options.fare), options.refuse_return, options.seed),
        timing=Timing(options.transition, options.soak, options.trouble, options.restart),
        news=not options.no_news,
        kept=options.kept,
        at_once=options.at_once,
    )


def _group(text: str) -> Group:
    prefix, count, file = text.split("=", 2)
    return Group(Path(file).read_text(encoding="ascii").strip(), int(count), prefix)


def _fares(texts: list[str]) -> dict[int, dict[Behaviour, float]]:
    found: dict[int, dict[Behaviour, float]] = {}
    for text in texts:
        level, behaviour, share = text.split("=")
        found.setdefault(int(level), {})[Behaviour(behaviour)] = float(share)
    return found


async def _work(fleet: Fleet, seconds: float) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def speak() -> None:
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            _print(encode(fleet.snapshot()))

    speaking = asyncio.create_task(speak())
    try:
        last = await fleet.run(seconds or float("inf"), stop)
    finally:
        speaking.cancel()
    _print(encode(last))


def _print(line: bytes) -> None:
    sys.stdout.write(line.decode() + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run the fleet."""
    options = command_line().parse_args()
    asyncio.run(_work(fleet_of(options, os.environ), options.seconds))


if __name__ == "__main__":
    main()
