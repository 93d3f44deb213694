"""One fuzzing session, in a process of its own: libFuzzer, by way of Atheris, drives one target.

`python -m tests.fuzz.session TARGET FINDINGS [libFuzzer's arguments]`; see `tests.fuzz.__main__`.
"""

from __future__ import annotations

import hashlib
import random
import resource
import sys
import time
import traceback
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["kmend.core", "kmend.factory"]):
    from tests.fuzz.targets import TARGETS, Target

    from kmend.core.errors import KmendError

MAX_SECONDS = 5.0
"""CPU time of one execution; more is a hang."""
MAX_MEMORY = 1 << 30
"""Resident memory of the whole process, in bytes."""
_STRUCTURED = 0.7
"""Share of mutations that know the form of the input."""


class Session:
    """Runs a target again and again, keeps one input of each kind of failure, and goes on."""

    def __init__(self, target: Target, findings: Path) -> None:
        self._target = target
        self._findings = findings
        self._seen: set[str] = set()
        self._over = False

    def execute(self, data: bytes) -> None:
        """One execution."""
        start = time.process_time()
        try:
            self._target.run(data)
        except KmendError:
            pass
        except Exception as problem:  # noqa: BLE001 - that none gets out is what is being tested
            frames = traceback.extract_tb(problem.__traceback__)
            where = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if "kmend" in frame.filename]
            self._keep(f"{type(problem).__name__} {where[-1:]}", data, traceback.format_exc())
        used = time.process_time() - start
        if used > MAX_SECONDS:
            self._keep("hang", data, f"{used:.1f} CPU seconds")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if peak > MAX_MEMORY and not self._over:
            self._over = True
            self._keep("memory", data, f"{peak / 2**20:.0f} MiB")

    def mutate(self, data: bytes, max_size: int, seed: int) -> bytes:
        """libFuzzer asks for a changed input."""
        rng = random.Random(seed)
        if data and rng.random() < _STRUCTURED:
            return self._target.mutate(data, rng)[:max_size]
        mutated: bytes = atheris.Mutate(data, max_size)
        return mutated

    def _keep(self, kind: str, data: bytes, story: str) -> None:
        if kind in self._seen:
            return
        self._seen.add(kind)
        name = hashlib.sha256(kind.encode()).hexdigest()[:12]
        (self._findings / name).write_bytes(data)
        (self._findings / f"{name}.txt").write_text(f"{kind}\n{story}\n")


def main() -> None:
    """Begin; libFuzzer ends the process."""
    target = TARGETS[sys.argv[1]]
    session = Session(target, Path(sys.argv[2]))
    arguments = [sys.argv[0], *sys.argv[3:], f"-max_len={target.max_bytes}"]
    atheris.Setup(arguments, session.execute, custom_mutator=session.mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
