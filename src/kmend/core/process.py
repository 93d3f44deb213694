"""The one way to run another program: bounded, logged as a line that can be pasted, failing with what it printed."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kmend.core import interruption
from kmend.core.errors import KmendError, SystemProblemError

_logger = logging.getLogger(__name__)

OUTPUT_TAIL = 4000
"""How many characters of a failed program's output its error shows."""


class ProgramFailedError(KmendError):
    """A program ended with a status other than 0, or ran out of time."""

    kind = "program-failed"
    default_hint = "what the program printed tells why; the line can be pasted and run by hand"

    def __init__(self, message: str, *, output: str, status: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.output = output
        self.status = status


@dataclass(frozen=True, slots=True)
class Finished:
    """What a program left: its exit status and both streams, as bytes."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text; undecodable bytes are replaced."""
        return self.stdout.decode(errors="replace")


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    timeout: float = 600.0,
    check: bool = True,
    keep_open: Sequence[int] = (),
) -> Finished:
    """Run `command` to its end, in a session of its own, so that what it starts ends with it.

    Args:
        command: program and arguments; no shell is involved.
        cwd: working directory.
        environment: the whole environment; None inherits ours with LC_ALL=C.UTF-8.
        stdin: bytes for standard input; None gives it an empty one.
        timeout: seconds after which the program and what it started are ended.
        check: raise when the status is not 0.
        keep_open: descriptors that the program inherits, a lock's above all: it is held as long as any of both lives.

    Raises:
        ProgramFailedError: it failed (with `check`) or ran out of time.
        SystemProblemError: it is not installed or may not be executed.
        Interrupted: the process was asked to stop; see `kmend.core.interruption`.
    """
    words = [os.fspath(word) for word in command]
    line = shlex.join(words)
    if cwd is not None:
        line = f"cd {shlex.quote(os.fspath(cwd))} && {line}"
    _logger.debug("+ %s", line)
    env = dict(os.environ, LC_ALL="C.UTF-8") if environment is None else dict(environment)
    interruption.check()
    try:
        child = subprocess.Popen(
            words,
            cwd=cwd,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=keep_open,
        )
    except FileNotFoundError:
        if cwd is not None and not cwd.is_dir():
            raise SystemProblemError(f"{cwd}, where {words[0]} is to run, is not a folder") from None
        raise SystemProblemError(
            f"{words[0]} is not installed", hint="run 'make setup', or install it by hand"
        ) from None
    except OSError as problem:
        raise SystemProblemError(
            f"cannot run {words[0]}: {problem.strerror}", hint="see that it may be executed, and that memory is left"
        ) from problem
    with child, interruption.supervised(child):
        try:
            stdout, stderr = child.communicate(stdin if stdin is not None else b"", timeout)
        except subprocess.TimeoutExpired as problem:
            interruption.end(child)
            output = ((problem.stdout or b"") + (problem.stderr or b"")).decode(errors="replace")
            raise ProgramFailedError(
                f"not finished after {timeout:g} s: {line}",
                output=output,
                status=-1,
                hint="the machine may be busy or short of memory; try again",
            ) from None
    status = child.returncode
    if check and status != 0:
        output = (stdout + stderr).decode(errors="replace")
        died = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        raise ProgramFailedError(
            f"{died}: {line}\n{output[-OUTPUT_TAIL:].rstrip()}",
            output=output,
            status=status,
            hint="somebody ended it, or the kernel did for want of memory" if status == -signal.SIGKILL else "",
        )
    return Finished(status, stdout, stderr)
