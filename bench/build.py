"""`make bench-build`: what building a livepatch costs, from a cold start and with the kernel at hand.

Every build is the whole command in a process of its own. Nothing is downloaded while it is measured. The cache is one of the
benchmark's own; compiled originals are removed before a row that does not say that they are kept.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.accounting import Cost, measure
from bench.cache import cold_cache, disk_use, packages_of
from bench.fixes import HEADER, TEN_FILES, BenchError, including, patch_of
from kmend.core import interruption
from kmend.core.errors import KmendError
from kmend.core.kernel import KernelRef
from kmend.core.scratch import scratch_folder
from kmend.factory.kernels.packages import choose_kernel, same_flavour
from kmend.factory.kernels.prepared import Kernel

FACTORY = Path(sys.executable).parent / "kmend-factory"
KERNELS = ("debian:6.1.0-50-cloud-amd64@6.1.176-1", "debian:6.1.0-53-cloud-amd64@6.1.187-1")
NEWER = ("6.1.192-2", "6.1.192-1", "6.1.190-1")
ONE_FILE = "kernel/params.c"
GOALS = {"one file, ready": 4, "one file, cold": 45}
KPATCH = (
    ("kpatch-build: original build of vmlinux", 1452.0, None, None),
    ("kpatch-build: patched build", 177.0, 162.0, 1030.0),
)
"""CPU seconds, wall seconds, MB: what kpatch-build needs on a 2-core machine, for vmlinux alone, stated and not measured here."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    title: str
    cost: Cost
    note: str


class Bench:
    """Builds fixes for one kernel in one cache and notes what each build cost."""

    def __init__(self, ref: KernelRef, cache: Path, folder: Path) -> None:
        self._ref = ref
        self._environment = {**os.environ, "KMEND_CACHE": str(cache)}
        self._kernel_folder = cache / "kernels" / f"{ref.distro}-{ref.release}@{ref.package}"
        self._folder = folder
        self.rows: list[Row] = []

    def kernel(self) -> Kernel:
        """The kernel, after the first build prepared it."""
        return Kernel(self._kernel_folder)

    def run(self, title: str, patch: bytes, *, originals_kept: bool = False) -> None:
        """Build the patch and note what it cost.

        Raises:
            BenchError: it was not built.
        """
        if not originals_kept:
            shutil.rmtree(self._kernel_folder / "originals", ignore_errors=True)
        file, output = self._folder / "fix.patch", self._folder / "built"
        shutil.rmtree(output, ignore_errors=True)
        file.write_bytes(patch)
        say(f"- {title}")
        command: list[str | Path] = [FACTORY, "build", "--kernel", str(self._ref), "--json", "-o", output, file]
        cost = measure(command, self._environment, self._folder)
        if cost.status != 0:
            raise BenchError(f"{title} is not built (exit status {cost.status}): {cost.errors[-2000:]}")
        self.rows.append(Row(title, cost, _told(cost.output)))


def _told(output: str) -> str:
    manifest = json.loads(output)["manifest"]
    functions = [function for home in manifest["objects"] for function in home["functions"]]
    files = {function["source"] for function in functions}
    return f"{len(functions)} functions in {len(files)} files; module {manifest['module']['size'] // 1024} KiB"


def derived(ref: KernelRef, newer: Sequence[str], folder: Path) -> tuple[bytes, str]:
    """What the distro changed in `ONE_FILE` up to the first of the newer versions that is to be had."""
    for version in newer:
        try:
            same_flavour(ref, version)
        except KmendError:
            continue
        output = folder / "derived.patch"
        words: list[str | Path] = [
            FACTORY,
            "derive",
            "--from",
            ref.package or "",
            "--to",
            version,
            "--file",
            ONE_FILE,
            "-o",
            output,
        ]
        cost = measure(words, os.environ, folder)
        if cost.status != 0:
            raise BenchError(f"no fix is derived from {version}: {cost.errors[-2000:]}")
        return output.read_bytes(), version
    raise BenchError(f"none of the versions {', '.join(newer)} is to be had")


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    lines = [f"{'':40} {'CPU s':>8} {'user':>7} {'system':>7} {'wall s':>7} {'largest':>9} {'together':>9} {'goal':>5}"]
    for row in rows:
        cost = row.cost
        lines.append(
            f"{row.title:40} {cost.cpu:8.2f} {cost.user:7.2f} {cost.system:7.2f} {cost.wall:7.1f} "
            f"{cost.largest / 1e6:6.0f} MB {cost.together / 1e6:6.0f} MB {GOALS.get(row.title, ''):>5}  {row.note}"
        )
    for title, cpu, wall, memory in KPATCH:
        walls = f"{wall:7.1f}" if wall else f"{'':7}"
        memories = f"{memory:6.0f} MB" if memory else ""
        lines.append(
            f"{title:40} {cpu:8.2f} {'':7} {'':7} {walls} {memories:9} {'':9} {'':5}  stated, not measured here"
        )
    return "\n".join(line.rstrip() for line in lines)


def tell(text: str) -> None:
    """A part of the result, on standard output."""
    sys.stdout.write(f"{text}\n")


def say(text: str) -> None:
    """A line for people, on standard error."""
    sys.stderr.write(f"{text}\n")


def main() -> int:
    """Measure and print; exit status 0, or 1 if a build failed."""
    interruption.watch()
    try:
        ref = choose_kernel(KERNELS)
        with scratch_folder("bench") as folder:
            one, newer = derived(ref, NEWER, folder)
            with cold_cache(packages_of([ref])) as cache:
                bench = Bench(ref, cache, folder)
                bench.run("one file, cold", one)
                bench.run("one file, ready", one)
                bench.run("one file, original kept", one, originals_kept=True)
                bench.run("ten files, ready", patch_of(ref, TEN_FILES))
                bench.run("header, ready", patch_of(ref, HEADER))
                kernel = bench.kernel()
                tree = kernel.tree.path
                sources = [path for path in kernel.units if path.endswith(".c") and (tree / path).is_file()]
                reached = including(lambda path: _text(tree / path), sources, HEADER[0].path)
                used = disk_use(kernel.folder)
        header = f"header: {HEADER[0].path}, in {reached} of {len(sources)} files"
        tell(f"{ref}; one file: {ONE_FILE} as in {newer}; {header}")
        tell(table(bench.rows))
        tell(f"prepared kernel on disk: {used / 1e9:.2f} GB")
    except KmendError as problem:
        say(f"error: {problem.diagnosis()}")
        return 1
    except interruption.Interrupted as problem:
        return problem.exit_status
    return 0


def _text(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
