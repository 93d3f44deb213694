"""`make bench-loading`: what a livepatch costs the kernel that takes it: a curve of times, stalls, and the price of a call.

    python -m bench.loading [curve] [stalls] [hot]

All of it in a guest with two processors; where there is no KVM they are emulated, which makes everything some ten times slower.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tests.conftest import KERNELS
from tests.fixmaker import Edit, FixMaker
from tests.vm.livepatched import compiled, unpacked

from bench.many import livepatch, marked
from kmend import lab
from kmend.core import interruption
from kmend.core.cache import cache_root
from kmend.core.errors import KmendError
from kmend.core.process import run
from kmend.core.scratch import scratch_folder
from kmend.factory.build import Built, build
from kmend.factory.kernels.packages import choose_kernel
from kmend.factory.kernels.prepared import Kernel, prepare

COUNTS = (1, 10, 100, 300)
THREADS = (100, 2000)
_SOURCE = Path(__file__).with_name("guest.c")
_SEED = 20261124
_ORDINARY = (
    "fuse",
    "overlay",
    "btrfs",
    "xfs",
    "nfsd",
    "cifs",
    "ceph",
    "nf_tables",
    "dm_mod",
    "bonding",
    "openvswitch",
    "isofs",
    "udf",
    "squashfs",
    "f2fs",
    "zram",
)
"""Modules that load without hardware."""
_PERMUTATIONS = 20_000
_WATCH = 24
"""Seconds for which the guest is watched in each run of `stalls`; on emulated processors 300 functions take about 20 to load."""
_WATCHED = ("longest stall", "stalled in all", "longest fork", "99 % of forks", "median fork")


@dataclass(frozen=True, slots=True)
class Module:
    """A module that the guest has as a file.

    Attributes:
        functions: that it replaces; 0 for one that is no livepatch.
        relocations: references that the kernel resolves by name when it is loaded.
    """

    name: str
    content: bytes
    functions: int
    relocations: int

    @property
    def file(self) -> str:
        """Where the guest has it."""
        return f"/{self.name}.ko"


class Guest:
    """A guest with the program that measures, and the modules."""

    def __init__(self, vm: lab.Vm, program: Path, modules: Sequence[Module]) -> None:
        self.vm = vm
        vm.put(program, "/guest")
        for module in modules:
            vm.put_bytes(module.content, module.file)

    def take(self, *words: str) -> list[float]:
        """What the program prints."""
        return [float(word) for word in self.vm.run(["/guest", *words], timeout=300).text.split()]

    def sane(self) -> None:
        """The kernel has not complained.

        Raises:
            KmendError: it has.
        """
        bad = re.findall(r".*(?:WARNING|BUG|Oops|Call Trace|stall|lockup).*", self.vm.kernel_log())
        if bad:
            raise KmendError(f"the guest's kernel complains: {bad[0]}")


def _module(built: Built) -> Module:
    functions = sum(len(target.functions) for target in built.manifest.objects)
    return Module(built.manifest.module.name, built.module, functions, _klp_relocations(built.module))


def _klp_relocations(content: bytes) -> int:
    with scratch_folder("bench-elf", cache_root()) as folder:
        (folder / "module.ko").write_bytes(content)
        text = run(["readelf", "-SW", folder / "module.ko"]).stdout.decode()
    sizes = re.findall(r"\.klp\.rela\.\S+\s+RELA\s+\S+\s+\S+\s+([0-9a-f]+)", text)
    return sum(int(size, 16) for size in sizes) // 24


@contextmanager
def _guest(kernel: Kernel, program: Path, modules: Sequence[Module]) -> Iterator[Guest]:
    with lab.boot(unpacked(kernel), cpus=2, memory_mib=2048) as vm:
        yield Guest(vm, program, modules)


# The curve


def curve(kernel: Kernel, program: Path, pairs: Sequence[tuple[Module, Module]], runs: int) -> None:
    """Load, transition, replacement and unloading by functions and threads."""
    _say(f"median of {runs} runs, in milliseconds; {kernel.identity.ref}")
    _say(
        f"{'functions':>9} {'by name':>8} {'kB':>6} {'threads':>8} {'load':>9} {'transition':>11} {'replace':>9} "
        f"{'transition':>11} {'off':>9} {'delete':>8}"
    )
    every = [module for pair in pairs for module in pair]
    for threads in THREADS:
        with _guest(kernel, program, every) as guest:
            command = guest.vm.start_command(["/guest", "crowd", str(threads)])
            _say(f"{threads} threads, {_how(kernel, guest.vm)}")
            _wait_for_threads(guest.vm, threads)
            for one, other in pairs:
                took = [_round(guest, one, other) for _ in range(runs)]
                middle = [statistics.median(column) * 1000 for column in zip(*took, strict=True)]
                _say(
                    f"{one.functions:9} {one.relocations:8} {len(one.content) // 1024:6} {threads:8} {middle[0]:9.1f} "
                    f"{middle[1]:11.1f} {middle[2]:9.1f} {middle[3]:11.1f} {middle[4]:9.1f} {middle[5]:8.1f}"
                )
            guest.sane()
            command.kill()


def _round(guest: Guest, one: Module, other: Module) -> list[float]:
    """Load one, replace it by the other, take that off."""
    loaded = guest.take("load", one.file, one.name)
    replaced = guest.take("load", other.file, other.name)
    guest.take("delete", one.name)
    return [*loaded, *replaced, *guest.take("unload", other.name)]


def _threads(vm: lab.Vm) -> int:
    return int(vm.read("/proc/loadavg").decode().split()[3].partition("/")[2])


# Stalls


def stalls(kernel: Kernel, program: Path, pair: tuple[Module, Module], runs: int) -> None:
    """A busy task, and forks, while a livepatch goes in; against rest, and against an ordinary module of that size.

    The livepatch replaces one that is the same but for its name, so that the state of the guest is the same before every run.
    """
    patch = pair[0]
    plain = _ordinary(kernel, len(patch.content))
    _say(
        f"{runs} runs of {_WATCH} s of each, in random order (seed {_SEED}); "
        f"a livepatch of {patch.functions} functions, {len(patch.content) // 1024} kB; "
        f"an ordinary module, {plain.name}, {len(plain.content) // 1024} kB"
    )
    found: dict[str, list[list[float]]] = {"rest": [], "livepatch": [], "module": []}
    order = [what for what in found for _ in range(runs)]
    random.Random(_SEED).shuffle(order)  # noqa: S311 - an order that can be had again
    with _guest(kernel, program, [*pair, plain]) as guest:
        _say(_how(kernel, guest.vm))
        old, new = pair
        guest.take("load", old.file, old.name)
        for number, what in enumerate(order, 1):
            act, undo = "true", "true"
            if what == "livepatch":
                act, undo = f"/guest load {new.file} {new.name}", f"/guest delete {old.name}"
                old, new = new, old
            elif what == "module":
                act, undo = f"/guest insert {plain.file}", f"/guest delete {plain.name}"
            watching = f"/guest watch 1 {_WATCH} > /seen & sleep 1; taskset 1 {act} > /acted; wait"
            seen = guest.vm.sh(f"{watching}; {undo} > /undone; cat /seen", timeout=600).text.split()
            found[what].append([float(word) * 1000 for word in seen])
            sys.stderr.write(
                f"  {number}/{len(order)} {what}: {' '.join(f'{value:.2f}' for value in found[what][-1])}\n"
            )
        guest.sane()
    for column, name in enumerate(_WATCHED):
        taken = {what: [row[column] for row in rows] for what, rows in found.items()}
        for what, values in taken.items():
            low, middle, high = np.percentile(values, [10, 50, 90])
            _say(
                f"{name:16} {what:10} ms: 10 % {low:8.3f}  median {middle:8.3f}  90 % {high:8.3f}  most {max(values):8.3f}"
            )
        _say(
            f"{name:16} livepatch against rest: p = {permuted(taken['livepatch'], taken['rest']):.4f}, "
            f"against the module: p = {permuted(taken['livepatch'], taken['module']):.4f}"
        )


def permuted(one: Sequence[float], other: Sequence[float]) -> float:
    """The p-value, two-sided, of the difference of mean ranks under random permutations: are the two samples of one kind?"""
    values = np.asarray([*one, *other])
    ranks = np.argsort(np.argsort(values)).astype(float)
    for value in np.unique(values):  # ties share their rank
        ranks[values == value] = ranks[values == value].mean()
    split = len(one)

    def distance(order: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        return abs(float(order[:split].mean() - order[split:].mean()))

    seen = distance(ranks)
    generator = np.random.default_rng(_SEED)
    beyond = sum(distance(generator.permutation(ranks)) >= seen - 1e-12 for _ in range(_PERMUTATIONS))
    return (beyond + 1) / (_PERMUTATIONS + 1)


def _ordinary(kernel: Kernel, size: int) -> Module:
    """The kernel's own module without dependencies whose file is nearest in size, and that loads without hardware."""
    folder = unpacked(kernel).modules
    alone = [files[0] for name in _ORDINARY if len(files := _files(folder, name)) == 1]
    if not alone:
        raise KmendError("this kernel has none of the modules that are compared with")
    path = min((folder / name for name in alone), key=lambda item: abs(item.stat().st_size - size))
    return Module(path.stem.replace("-", "_"), path.read_bytes(), 0, 0)


def _files(folder: Path, name: str) -> tuple[str, ...]:
    try:
        return lab.modules_to_load(folder, [name])
    except lab.KernelPackageError:
        return ()


# A hot function


def hot(kernel: Kernel, program: Path, runs: int) -> None:
    """What a call of a replaced function costs more."""
    maker = FixMaker(kernel.tree.path)
    old = "SYSCALL_DEFINE0(getppid)\n{\n\tint pid;\n"
    fix = maker.fix(
        Edit("kernel/sys.c", old, old + '\n\tasm volatile("nop");\n'), header="Description: a hot function\n---\n"
    )
    module = _module(build(kernel, [fix]))
    _say(f"nanoseconds for getppid(2), {runs} runs of 200,000 calls each")
    taken: dict[str, list[float]] = {"plain": [], "livepatched": []}
    with _guest(kernel, program, [module]) as guest:
        _say(_how(kernel, guest.vm))
        for _ in range(runs):
            taken["plain"] += guest.take("hot", "200000")
            guest.take("load", module.file, module.name)
            taken["livepatched"] += guest.take("hot", "200000")
            guest.take("unload", module.name)
        guest.sane()
    for what, values in taken.items():
        low, middle, high = np.percentile(values, [10, 50, 90])
        _say(f"{what:12} 10 % {low:8.1f}  median {middle:8.1f}  90 % {high:8.1f}")
    more = statistics.median(taken["livepatched"]) - statistics.median(taken["plain"])
    _say(f"{more:.1f} ns more a call; p = {permuted(taken['livepatched'], taken['plain']):.4f}")


def _how(kernel: Kernel, vm: lab.Vm) -> str:
    return f"{kernel.identity.ref}, two {'emulated' if vm.accelerator == 'tcg' else 'virtual'} processors"


def _wait_for_threads(vm: lab.Vm, least: int) -> None:
    deadline = time.monotonic() + 120
    while _threads(vm) < least:
        if time.monotonic() > deadline:
            raise KmendError("the guest does not come to the state that is to be measured")
        time.sleep(0.2)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.loading", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=("curve", "stalls", "hot", []), help="default: all")
    parser.add_argument("--runs", type=int, default=30, help="of stalls and hot (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of the curve (default %(default)s)")
    options = parser.parse_args()
    parts = options.parts or ["curve", "stalls", "hot"]
    interruption.watch()
    try:
        kernel = prepare(choose_kernel(KERNELS))
        with scratch_folder("bench-loading", cache_root()) as folder:
            program = compiled(_SOURCE, folder / "guest")
            if "hot" in parts:
                hot(kernel, program, options.runs)
            if "curve" in parts or "stalls" in parts:
                chosen = marked(kernel, max(COUNTS))
                pairs = []
                for count in COUNTS if "curve" in parts else (max(COUNTS),):
                    one = _module(livepatch(kernel, chosen, count, 1))
                    pairs.append((one, _module(livepatch(kernel, chosen, count, 2))))
                if "curve" in parts:
                    curve(kernel, program, pairs, options.rounds)
                if "stalls" in parts:
                    stalls(kernel, program, pairs[-1], options.runs)
    except interruption.Interrupted as problem:
        sys.exit(f"bench-loading: {problem}")
    except KmendError as problem:
        sys.exit(f"bench-loading: {problem.diagnosis()}")


if __name__ == "__main__":
    main()
