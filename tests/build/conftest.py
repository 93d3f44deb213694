"""Builds for tests: in this process, and by the real command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kmend.factory.kernels.prepared import Kernel

PROGRAM = Path(sys.executable).parent / "kmend-factory"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `kmend-factory build` left behind."""

    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """The JSON document on standard output."""
        return json.loads(self.stdout)

    def refusals(self, code: str) -> list[Mapping[str, Any]]:
        """The refusals of one code."""
        assert self.document["outcome"] == "refused", self.stdout
        return [refusal for refusal in self.document["refusals"] if refusal["code"] == code]


Builder = Callable[..., Outcome]


@pytest.fixture(scope="session")
def command(prepared: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Runs `kmend-factory build --json` on a patch's text or bytes."""

    def run(
        patch: str | bytes,
        *options: str,
        output: Path | None = None,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        as_json: bool = True,
    ) -> Outcome:
        folder = tmp_path_factory.mktemp("command")
        path = folder / "fix.patch"
        path.write_bytes(patch if isinstance(patch, bytes) else patch.encode())
        words: Sequence[str | Path] = [
            PROGRAM, "build", "--kernel", prepared.identity.ref, path, "-o", output or folder / "out", *options,
            *(["--json"] if as_json else []),
        ]  # fmt: skip
        done = subprocess.run(words, cwd=cwd or folder, env={**os.environ, **(environment or {})},
                              capture_output=True, text=True, timeout=300)  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run
