"""`make soak-levels`: many levels after one another on one boot, and what grows by it: memory, modules, files.

One livepatch is built; the levels are the same code under other names. The agent stays in one process, as a service does, and
updates over HTTP from a repository that is signed anew every now and then. Printed is the slope per level with its standard
error, by least squares, over all levels after the first ones, in which caches fill up.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from demo.scenario import choose
from demo.serving import served
from tests.vm.published import FACTORY, Published, publish
from tests.vm.relevelled import key_folder, relevelled

from kmend import lab
from kmend.core import interruption
from kmend.core.cache import cache_root
from kmend.core.errors import KmendError
from kmend.core.process import run
from kmend.core.scratch import scratch_folder
from kmend.trust.signing.publishing import Publisher, read_build

FIRST = 100_000
"""All levels have six digits, so that their modules' names are of one length."""
WARM_UP = 20
STRETCH = 25
REPORT = "/root/levels.jsonl"
DRIVER = Path(__file__).with_name("levels_driver.py")
SECONDS = 600.0
CONFIG = '[repository]\nurl = "http://{address}:{port}"\n[timing]\nremove_after = 0\nsoak = 0\n'


@dataclass(frozen=True, slots=True)
class Growth:
    """What one figure does.

    Attributes:
        first, last: at the end of the warm-up, and at the end.
        most: in between.
        slope: per level, by least squares; `error` is its standard error.
    """

    what: str
    first: float
    last: float
    most: float
    slope: float
    error: float


def growth(what: str, points: Sequence[tuple[float, float]]) -> Growth:
    """The slope of a figure over levels.

    Args:
        points: level and value, three at least.
    """
    levels, values = [point[0] for point in points], [point[1] for point in points]
    slope, intercept = statistics.linear_regression(levels, values)
    rest = sum((value - slope * level - intercept) ** 2 for level, value in points)
    middle = statistics.fmean(levels)
    spread = sum((level - middle) ** 2 for level in levels)
    error = math.sqrt(rest / (len(points) - 2) / spread)
    return Growth(what, values[0], values[-1], max(values), slope, error)


def levels_of(published: Published, count: int, folder: Path) -> Path:
    """A repository with levels FIRST + 1 to FIRST + `count`; they are all the livepatch of the newest level."""
    target = folder / "base"
    patches = sorted(published.folder.glob("[0-9].patch"))
    run(
        [FACTORY, "build", "--kernel", str(choose().kernel), "--level", str(FIRST), "-o", target, *patches], timeout=900
    )
    base = read_build(target)
    builds = [
        relevelled(base, FIRST + number, base=FIRST + number - 1 if number > 1 else None)
        for number in range(1, count + 1)
    ]
    publisher(published, folder / "repository").publish(builds)
    return folder / "repository"


def publisher(published: Published, repository: Path) -> Publisher:
    """Signs now."""
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    return Publisher(repository, key_folder(published.folder / "keys"), now=now)


def soak(
    published: Published,
    count: int,
    folder: Path,
    say: Callable[[str], None],
    turn: Callable[[], AbstractContextManager[object]] = nullcontext,
    keep: Path | None = None,
) -> tuple[Growth, ...]:
    """Run `count` levels on one boot.

    Args:
        say: told of the progress.
        turn: held during each stretch of levels, for who shares a machine.
        keep: file for the figures themselves, a line of JSON each.

    Raises:
        KmendError: a level did not go in.
    """
    repository = levels_of(published, count, folder)
    say(f"{count} levels are published")
    with served(repository) as port:
        network = lab.Network(to_host=(port,))
        with lab.boot(published.kernel, lab.Shape.FULL, network=network) as vm:
            vm.put(published.folder / "agent", "/opt/kmend")
            vm.put(published.folder / "keys/root.json", "/etc/kmend/root.json")
            vm.put_bytes(CONFIG.format(address=lab.HOST_ADDRESS, port=port).encode(), "/etc/kmend/agent.toml")
            vm.put(DRIVER, "/root/levels_driver.py")
            vm.sh(f"python3 -m compileall -q /opt/kmend; : > {REPORT}", timeout=240)
            command = vm.start_command(["python3", "-I", "/root/levels_driver.py", REPORT])
            for first in range(1, count + 1, STRETCH):
                last = min(first + STRETCH - 1, count)
                with turn():
                    if first > 1:
                        publisher(published, repository).refresh()
                    command.send(f"{FIRST + first} {FIRST + last}\n".encode(), SECONDS)
                    rows = wait_for(vm, FIRST + last)
                say(f"level {last} of {count}: {rows[-1]['seconds']:.1f} s, {rows[-1]['modules of kmend']:.0f} modules")
            command.end_input()
            command.wait(60)
    if keep is not None:
        keep.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return judged(rows)


def wait_for(vm: lab.Vm, last: int) -> list[dict[str, float]]:
    """The figures so far, once `last` is through."""
    deadline = time.monotonic() + SECONDS
    while True:
        rows = [json.loads(line) for line in vm.read(REPORT).decode().splitlines()]
        bad = [row for row in rows if row.get("status")]
        if bad:
            raise KmendError(f"level {bad[0]['level']} did not go in: exit status {bad[0]['status']}")
        if rows and rows[-1].get("done") == last:
            return [row for row in rows if "level" in row]
        if time.monotonic() > deadline:
            raise KmendError(f"the guest does not come to level {last}", hint=vm.kernel_log()[-2000:])
        threading.Event().wait(2)


def judged(rows: Sequence[dict[str, float]]) -> tuple[Growth, ...]:
    """Each figure's growth after the warm-up."""
    counted = [row for row in rows if row["level"] > FIRST + min(WARM_UP, len(rows))]
    names = [name for name in counted[0] if name not in ("level", "status")]
    return tuple(growth(name, [(row["level"], row[name]) for row in counted]) for name in names)


def table(found: Sequence[Growth]) -> str:
    """For people."""
    lines = [f"{'figure':40} {'first':>12} {'last':>12} {'most':>12} {'slope per level':>18} {'std. error':>12}"]
    lines += [
        f"{item.what:40} {item.first:12.1f} {item.last:12.1f} {item.most:12.1f} {item.slope:18.4f} {item.error:12.4f}"
        for item in found
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--levels", type=int, default=1000, help="how many, 40 at least (default 1000)")
    parser.add_argument("--keep", type=Path, help="write the figures of every fifth level to this file")
    options = parser.parse_args()
    if not 40 <= options.levels <= 800_000:
        parser.error("--levels must be 40 to 800000")
    interruption.watch()
    try:
        with scratch_folder("levels", cache_root()) as folder:
            found = soak(publish(folder), options.levels, folder / "levels", _say, keep=options.keep)
    except interruption.Interrupted as problem:
        sys.exit(f"soak-levels: {problem}")
    except KmendError as problem:
        sys.exit(f"soak-levels: {problem.diagnosis()}")
    sys.stdout.write(f"{options.levels} levels on one boot; slopes from level {WARM_UP} on\n{table(found)}\n")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    main()
