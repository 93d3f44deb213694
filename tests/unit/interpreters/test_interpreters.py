"""How interpreters are found, and what is made of a run's output."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.interpreters import finding
from tests.interpreters.__main__ import document, line
from tests.interpreters.running import outcome_of

HERE = finding.Interpreter(Path("/usr/bin/python3.11"), (3, 11, 2), "CPython", "/usr")


def test_this_interpreter_is_found_and_older_ones_are_not() -> None:
    found = finding.installed()
    assert sys.version_info[:3] in {item.version for item in found}
    assert all(item.minor >= finding.OLDEST for item in found)
    assert len({(item.origin, item.version) for item in found}) == len(found)


def test_what_does_not_start_is_left_out(tmp_path: Path) -> None:
    for name, text in (("python3.12", "#!/bin/sh\nexit 3\n"), ("python3.13", "#!/bin/sh\necho no\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "python3.14").write_text("not executable")
    before = finding.installed()
    assert finding.installed(sorted(tmp_path.iterdir())) == before


@pytest.mark.parametrize(
    ("status", "output", "passed", "failed", "good"),
    [
        (0, "....\n449 passed in 113.23s (0:01:53)\n", 449, 0, True),
        (1, "F\nFAILED tests/a.py::b - no\n1 failed, 3 passed in 1.0s\n", 3, 1, False),
        (2, "ERROR tests/a.py - no\n1 error in 0.2s", 0, 1, False),
        (2, "2 errors in 0.2s", 0, 2, False),
        (5, "no tests ran in 0.01s", 0, 0, False),
        (139, "", 0, 0, False),
    ],
)
def test_outcomes(status: int, output: str, passed: int, failed: int, good: bool) -> None:
    outcome = outcome_of(HERE, status, output, 1.0)
    assert (outcome.passed, outcome.failed, outcome.good) == (passed, failed, good)
    assert "CPython 3.11.2" in line(outcome)
    assert document(outcome)["version"] == [3, 11, 2]
