"""The guest's runner, compiled from `runner.c` into one static program and kept in the cache."""

from __future__ import annotations

import hashlib
from importlib import resources

from kmend.core.cache import cache_root
from kmend.core.process import ProgramFailedError, run
from kmend.core.scratch import scratch_folder
from kmend.lab.errors import UserlandError
from kmend.lab.programs import program

_COMPILE = ("-O2", "-Wall", "-static", "-s")


def runner_program() -> bytes:
    """The runner's executable; compiled once for each version of its source.

    Raises:
        UserlandError: it cannot be compiled (no compiler, no static libc) or stored.
    """
    source = resources.files(__package__).joinpath("runner.c").read_bytes()
    key = hashlib.sha256(repr(_COMPILE).encode() + source).hexdigest()[:24]
    kept = cache_root() / "lab" / "runners" / key
    try:
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            with scratch_folder("runner", kept.parent) as folder:
                (folder / "runner.c").write_bytes(source)
                run([program("gcc"), *_COMPILE, "-o", "runner", "runner.c"], cwd=folder, timeout=120)
                (folder / "runner").replace(kept)
        return kept.read_bytes()
    except ProgramFailedError as problem:
        raise UserlandError(
            f"cannot compile the guest's runner: {problem.message}", hint="install gcc and libc6-dev"
        ) from problem
    except OSError as problem:
        raise UserlandError(f"cannot store the guest's runner {kept}: {problem.strerror}") from problem
