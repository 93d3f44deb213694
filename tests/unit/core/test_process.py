"""Programs are run bounded, and fail with what they printed and a line that can be pasted."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmend.core.errors import SystemProblemError
from kmend.core.process import ProgramFailedError, run


def test_output_and_input() -> None:
    assert run(["cat"], stdin=b"hello").stdout == b"hello"
    assert run(["cat"]).stdout == b""
    assert run(["sh", "-c", "exit 3"], check=False).status == 3


def test_a_failure_shows_the_line_and_the_output(tmp_path: Path) -> None:
    with pytest.raises(ProgramFailedError, match="exit status 7") as caught:
        run(["sh", "-c", "echo why >&2; exit 7"], cwd=tmp_path)
    assert "why" in caught.value.message
    assert f"cd {tmp_path} && sh -c " in caught.value.message
    assert caught.value.status == 7


def test_a_program_that_hangs_is_killed() -> None:
    with pytest.raises(ProgramFailedError, match=r"not finished after 0\.2 s"):
        run(["sleep", "60"], timeout=0.2)


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(SystemProblemError, match="is not installed"):
        run(["no-such-program-anywhere"])
