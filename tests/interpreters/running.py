"""One interpreter's run of the agent's tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.interpreters.finding import Interpreter

from kmend.core.errors import KmendError
from kmend.core.process import run

ROOT = Path(__file__).parents[2]
WHEELS = ROOT / ".venv/agent-wheels"
TESTS = ("tests/unit/core", "tests/unit/trust", "tests/unit/agent")
TOOLS = ("pytest", "hypothesis", "pytest-randomly", "pytest-socket", "cryptography>=44")
BACKPORTS = {(3, 10): ("exceptiongroup", "typing_extensions")}
"""What the tools need on an older interpreter; pip, which runs on ours, does not find that out by itself."""
SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it.

    Attributes:
        passed, failed: tests; `failed` counts errors too.
        problem: why there is no figure, or what failed; empty if all is well.
    """

    interpreter: Interpreter
    passed: int
    failed: int
    seconds: float
    problem: str

    @property
    def good(self) -> bool:
        """All tests that it ran passed, and it ran some."""
        return self.passed > 0 and not self.failed and not self.problem


def prepare(interpreter: Interpreter, folder: Path) -> Path:
    """A folder with the agent's dependencies, as the packages carry them, and what the tests need besides.

    Raises:
        KmendError: the tools cannot be had for this interpreter.
    """
    target = folder / f"{interpreter.implementation.lower()}-{interpreter.minor[0]}.{interpreter.minor[1]}"
    if not (target / "complete").exists():
        pip: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "--target",
            target,
            "--upgrade",
        ]
        run([*pip, "--no-deps", *sorted(WHEELS.glob("*.whl"))], timeout=300)
        version = f"{interpreter.minor[0]}.{interpreter.minor[1]}"
        run(
            [*pip, "--only-binary=:all:", "--python-version", version, *TOOLS, *BACKPORTS.get(interpreter.minor, ())],
            timeout=900,
        )
        (target / "complete").touch()
    return target


def run_tests(interpreter: Interpreter, folder: Path, tests: tuple[str, ...] = TESTS) -> Outcome:
    """Run the tests; `folder` keeps what was installed for them."""
    start = time.monotonic()
    try:
        tools = prepare(interpreter, folder)
    except KmendError as problem:
        return Outcome(interpreter, 0, 0, time.monotonic() - start, f"its test tools cannot be had: {problem.message}")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/root"),
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", tools))),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    words = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.interpreters.plugin",
        "--confcutdir=tests/unit",
        "-p",
        "no:cacheprovider",
    ]
    signing = "--ignore=tests/unit/trust/signing"  # the publisher's side, which runs on the factory's Python alone
    try:
        done = subprocess.run(
            [interpreter.path, *words, signing, *tests],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return Outcome(interpreter, 0, 0, SECONDS, f"not over after {SECONDS} s")
    return outcome_of(interpreter, done.returncode, done.stdout, time.monotonic() - start)


def outcome_of(interpreter: Interpreter, status: int, output: str, seconds: float) -> Outcome:
    """Read pytest's closing lines."""
    counts = {
        word: int(number)
        for number, word in re.findall(r"(\d+) (passed|failed|errors?)\b", output.splitlines()[-1] if output else "")
    }
    failed = counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0)
    named = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    problem = "; ".join(named[:20]) or (output[-600:].strip() if status else "")
    return Outcome(interpreter, counts.get("passed", 0), failed, seconds, problem)
