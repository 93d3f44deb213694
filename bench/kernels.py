"""`make kernels-table`: one fix for every kernel that can be prepared, and what it took; the livepatches are loaded.

Each kernel is prepared from nothing in a cache of its own, which is removed afterwards. Downloading is not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.accounting import Cost, measure
from bench.build import FACTORY, say, tell
from bench.cache import cold_cache, disk_use, packages_of
from bench.fixes import ONE_FUNCTION, BenchError, patch_of
from kmend import lab
from kmend.core import interruption
from kmend.core.errors import KmendError
from kmend.core.kernel import KernelRef
from kmend.core.scratch import scratch_folder
from kmend.factory.kernels.environment import known_packages, require_packages
from kmend.factory.kernels.packages import Package, kernel_packages
from kmend.factory.kernels.tree import EnvironmentDiffersError
from kmend.factory.survey.loading import Candidate, load_all
from kmend.factory.survey.record import LoadRecord

KERNELS = tuple(
    f"debian:6.1.0-{abi}-{flavour}@{version}"
    for flavour in ("cloud-amd64", "amd64")
    for abi, version in (
        (47, "6.1.170-3"),
        (50, "6.1.176-1"),
        (53, "6.1.187-1"),
        (54, "6.1.190-1"),
        (55, "6.1.192-1"),
        (56, "6.1.192-2"),
    )
)


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one kernel; costs and sizes (in bytes) are those of the steps that were reached."""

    ref: str
    prepare: Cost | None = None
    disk: int = 0
    build: Cost | None = None
    module: int = 0
    loaded: str = ""

    def line(self) -> str:
        """The row as text."""
        prepare, build = _cost(self.prepare), _cost(self.build)
        return f"{self.ref:42} {prepare} {self.disk / 1e9:5.2f} {build} {self.module:7}  {self.loaded}"


HEADING = (
    f"{'kernel':42} {'prepare CPU s':>13} {'wall':>6} {'GB':>5} {'build CPU s':>13} {'wall':>6} {'module':>7}  loaded"
)


def _cost(cost: Cost | None) -> str:
    return f"{cost.cpu:13.1f} {cost.wall:6.1f}" if cost else f"{'':20}"


def try_kernel(ref: KernelRef, folder: Path, *, load: bool) -> Row:
    """Prepare the kernel, build the fix, load it.

    Raises:
        KmendError: a step failed.
    """
    require_packages(ref, known_packages(ref).names)
    packages = packages_of([ref])
    patch = folder / "fix.patch"
    patch.write_bytes(patch_of(ref, ONE_FUNCTION))
    with cold_cache(packages) as cache:
        environment = {**os.environ, "KMEND_CACHE": str(cache)}
        prepare = _run("prepare", [FACTORY, "kernel", "prepare", str(ref)], environment, folder)
        disk = disk_use(cache / "kernels")
        words: list[str | Path] = [FACTORY, "build", "--kernel", str(ref), "--json", "-o", folder / "built", patch]
        built = _run("build", words, environment, folder)
        module = folder / "built" / f"{json.loads(built.output)['manifest']['module']['name']}.ko"
        with _cache_is(cache):
            verdict = _load(ref, packages, module) if load else "not tried"
    return Row(str(ref), prepare, disk, built, module.stat().st_size, verdict)


def _run(step: str, words: Sequence[str | Path], environment: dict[str, str], folder: Path) -> Cost:
    cost = measure(words, environment, folder)
    if cost.status != 0:
        raise BenchError(f"{step} failed with exit status {cost.status}: {cost.errors[-1500:].strip()}")
    return cost


@contextmanager
def _cache_is(cache: Path) -> Iterator[None]:
    """Let what the lab unpacks go into that cache."""
    before = os.environ.get("KMEND_CACHE")
    os.environ["KMEND_CACHE"] = str(cache)
    try:
        yield
    finally:
        if before is None:
            del os.environ["KMEND_CACHE"]
        else:
            os.environ["KMEND_CACHE"] = before


def _load(ref: KernelRef, packages: Sequence[Package], module: Path) -> str:
    """Load, enable, disable and remove it in a virtual machine."""
    image = next(package for package in packages if package.name == kernel_packages(ref).image)
    found: list[LoadRecord] = []
    load_all(lab.unpack(image.path), [Candidate("fix", module)], lambda path, record: found.append(record))
    problems = [record.problem for record in found if not record.clean]
    return f"no: {problems[0]}" if problems or not found else "yes, log clean, removed"


def _row(text: str, *, load: bool) -> tuple[Row, bool]:
    """The row of one kernel, and whether something failed that should not."""
    with scratch_folder("bench") as folder:
        try:
            return try_kernel(KernelRef.parse(text), folder, load=load), False
        except EnvironmentDiffersError as problem:
            return Row(text, loaded=f"environment differs: {problem.message}"), False
        except KmendError as problem:
            return Row(text, loaded=f"failed: {problem.message}"), True


def main() -> int:
    """Print a row for each kernel; exit status 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__)
    parser.add_argument("--load", metavar="N", type=int, default=len(KERNELS), help="load on the first N alone")
    parser.add_argument("kernels", nargs="*", metavar="REF", help="these kernels instead of all")
    options = parser.parse_args()
    interruption.watch()
    tell(HEADING)
    failed = False
    for number, text in enumerate(options.kernels or KERNELS):
        say(f"- {text}")
        try:
            row, problem = _row(text, load=number < options.load)
        except interruption.Interrupted as stop:
            return stop.exit_status
        failed |= problem
        tell(row.line())
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
