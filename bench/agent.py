"""`make bench-agent`: what the agent costs a host: processor time, memory, bytes, and how long an update takes.

The agent is the tree that the packages carry, on Debian's own interpreter. What is not about the kernel is measured on this
machine's own processor with a simulated kernel; what is, in a virtual machine (whose processor is emulated where there is no
KVM, and then ten times slower). Everything is printed with its number of runs and its spread.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import shutil
import ssl
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.unit.sample_livepatch import livepatch, write_build

from bench.accounting import measure
from bench.traffic import Relay, counted
from kmend.core import interruption
from kmend.core.cache import cache_root
from kmend.core.errors import KmendError
from kmend.core.process import run
from kmend.core.scratch import scratch_folder
from kmend.trust.signing import keyfiles
from kmend.trust.signing.keyfiles import KeyFolder, KeyPlan
from kmend.trust.signing.publishing import Publisher, read_build

ROOT = Path(__file__).parents[1]
PYTHON = "/usr/bin/python3"
CHECKS_PER_DAY = 24 * 4
CVES = ("CVE-2026-1001", "CVE-2026-1002")
DRIVER = Path(__file__).with_name("agent_driver.py")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        goal: empty if there is none.
        runs: how many values `middle` (their median), `least` and `most` were taken from.
    """

    what: str
    middle: float
    least: float
    most: float
    unit: str
    runs: int
    goal: str = ""


class Stage:
    """A repository with two levels, the agent's tree, and hosts to run it on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = folder / "repository"
        now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
        keyfiles.create(folder / "keys", KeyPlan(), now=now)
        publisher = Publisher(self.repository, KeyFolder(folder / "keys", lambda path: b""), now=now)
        builds = [
            read_build(write_build(folder / f"level-{level}", *livepatch(level, CVES[:level], base=level - 1 or None)))
            for level in (1, 2)
        ]
        publisher.publish(builds)
        run([sys.executable, ROOT / "packaging/agent_tree.py", folder / "agent"], timeout=300)
        subprocess.run([PYTHON, "-m", "compileall", "-q", folder / "agent"], check=True, timeout=300)

    def command(self, host: Path, mode: str, count: int = 1) -> list[str]:
        """The driver's command line: `count` checks in one process, on the simulated host in `host`."""
        return [PYTHON, "-I", "-S", str(DRIVER), str(self.folder / "agent/lib"), str(ROOT), str(host), mode, str(count)]

    def new_host(self, name: str, url: str) -> Path:
        """A host that is configured for a repository and has checked it once."""
        host = self.folder / name
        (host / "etc/kmend").mkdir(parents=True)
        (host / "etc/kmend/agent.toml").write_text(f'[repository]\nurl = "{url}"\n')
        shutil.copy(self.folder / "keys/root.json", host / "etc/kmend/root.json")
        subprocess.run(self.command(host, "prepare"), check=True, timeout=120, capture_output=True)
        return host


class _Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing."""


@contextmanager
def serving(folder: Path, certificate: Path | None = None) -> Iterator[int]:
    """Serve a folder on the loopback, with TLS if there is a certificate (and its key, in one file); gives the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    """Measure, print a table, and write the figures as JSON if asked to."""
    parser = argparse.ArgumentParser(prog="bench.agent", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="of each command (default %(default)s)")
    parser.add_argument("--checks", type=int, default=500, help="in one process, for memory (default %(default)s)")
    parser.add_argument("--no-vm", action="store_true", help="leave out what needs a virtual machine")
    parser.add_argument("--minutes", type=int, default=20, help="watch the service for so long (default %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    interruption.watch()
    try:
        with scratch_folder("bench-agent", cache_root()) as folder:
            rows = figures(Stage(folder), options.runs, options.checks)
        if not options.no_vm:
            from bench.agent_vm import service_memory, update_times

            rows += update_times(max(3, options.runs // 4))
            rows += service_memory(max(3, options.minutes))
    except interruption.Interrupted as problem:
        sys.exit(f"bench-agent: {problem}")
    except KmendError as problem:
        sys.exit(f"bench-agent: {problem.diagnosis()}")
    for row in rows:
        sys.stdout.write(text_of(row) + "\n")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


def figures(stage: Stage, runs: int, checks: int) -> list[Row]:
    """Everything that needs no kernel."""
    rows = []
    with serving(stage.repository) as port, counted(port) as relay:
        host = stage.new_host("plain", f"http://127.0.0.1:{relay.port}")
        costs = [measure(stage.command(host, "check"), {}, stage.folder) for _ in range(runs)]
        _must(costs[-1].status, costs[-1].errors)
        cpu = row("CPU of a check, a process each", [cost.cpu for cost in costs], "s")
        rows += [cpu, per_day(cpu, "a process each")]
        rows.append(row("memory of a check, a process of its own", [cost.largest / 1e6 for cost in costs], "MB"))
        rows.append(
            _bytes("HTTP bytes of a check with nothing new, headers included", stage, host, relay, runs, "1 kB")
        )
        many = json.loads(_output(stage.command(host, "check", checks)))
        cpu = row(f"CPU of a check, {checks} in one process", many["cpu"][1:], "s")
        rows += [cpu, per_day(cpu, "one process")]
        resident = [value / 1e6 for value in many["resident"]]
        rows.append(row(f"resident memory over {checks} checks in one process", resident[1:], "MB", "25 MB"))
        growth = resident[-1] - resident[min(10, len(resident) - 1)]
        rows.append(Row("its growth from the tenth check to the last", growth, growth, growth, "MB", 1))
    certificate = stage.folder / "server.pem"
    _certificate(certificate)
    with serving(stage.repository, certificate) as port, counted(port) as relay:
        host = stage.new_host("tls", f"https://localhost:{relay.port}")
        rows.append(_bytes("bytes on the wire of the same with TLS, a connection each", stage, host, relay, runs, ""))
    return rows


def _bytes(what: str, stage: Stage, host: Path, relay: Relay, runs: int, goal: str) -> Row:
    values = []
    for _ in range(runs):
        relay.reset()
        _output(stage.command(host, "check"))
        values.append(float(relay.sent + relay.received))
    return row(what, values, "bytes", goal)


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
    _must(done.returncode, done.stderr)
    return done.stdout


def _must(status: int, errors: str) -> None:
    if status != 0:
        raise KmendError(f"the agent ended with {status}: {errors[-500:]}")


def _certificate(path: Path) -> None:
    """A key and a certificate for this machine's loopback, in one file."""
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    key = path.with_suffix(".key")
    run(["openssl", *words, *names, "-keyout", key, "-out", path], timeout=60)
    path.write_bytes(key.read_bytes() + path.read_bytes())


def row(what: str, values: Sequence[float], unit: str, goal: str = "") -> Row:
    """The median and the extremes of some values."""
    return Row(what, statistics.median(values), min(values), max(values), unit, len(values), goal)


def per_day(check: Row, how: str) -> Row:
    """What a day of checks every quarter of an hour takes."""
    day = [value * CHECKS_PER_DAY for value in (check.middle, check.least, check.most)]
    return Row(f"CPU a day with a check every 15 minutes, {how}", day[0], day[1], day[2], "s", check.runs)


def text_of(item: Row) -> str:
    """A line of the table."""
    digits = 0 if item.unit == "bytes" else 3 if item.middle < 1 else 1
    spread = f"{item.least:.{digits}f} to {item.most:.{digits}f}, {item.runs} runs" if item.runs > 1 else ""
    goal = f"   goal {item.goal}" if item.goal else ""
    return f"{item.what:62} {item.middle:10.{digits}f} {item.unit:5} {spread}{goal}"


if __name__ == "__main__":
    main()
