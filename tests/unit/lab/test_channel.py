"""The host's end of the channel against the guest's real runner, which here runs as a process of this machine."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmend.core.errors import MalformedError
from kmend.lab import protocol
from kmend.lab.channel import Channel, Command
from kmend.lab.errors import CommandFailedError, GuestLostError, TimeLimitError
from kmend.lab.protocol import Frame, Kind
from kmend.lab.runner import runner_program

ENVIRONMENT = {"PATH": os.environ["PATH"]}


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runner")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KMEND_CACHE", str(folder / "cache"))
        program = folder / "runner"
        program.write_bytes(runner_program())
    program.chmod(0o755)
    return program


@pytest.fixture
def process(runner: Path) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    ours, theirs = socket.socketpair()
    with theirs:
        child = subprocess.Popen([runner, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    yield child, ours
    child.kill()
    child.wait(10)


@pytest.fixture
def channel(process: tuple[subprocess.Popen[bytes], socket.socket]) -> Iterator[Channel]:
    channel = Channel(process[1], GuestLostError)
    yield channel
    channel.close()


def start(channel: Channel, *words: str, max_output: int = 1 << 20) -> Command:
    return channel.start(words, ENVIRONMENT, "/", max_output)


def test_greeting_says_which_kernel_runs(channel: Channel) -> None:
    ready = channel.wait_ready(10)
    assert ready is not None
    assert ready.release == os.uname().release
    assert ready.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_status_and_both_streams(channel: Channel) -> None:
    result = start(channel, "sh", "-c", "printf out; printf err >&2; exit 7").wait(10, check=False)
    assert (result.status, result.stdout, result.stderr) == (7, b"out", b"err")


def test_a_status_other_than_0_is_an_error_when_checked(channel: Channel) -> None:
    with pytest.raises(CommandFailedError, match="exit status 3") as caught:
        start(channel, "sh", "-c", "echo the reason >&2; exit 3").wait(10)
    assert caught.value.status == 3
    assert "the reason" in caught.value.message


def test_death_by_signal(channel: Channel) -> None:
    assert start(channel, "sh", "-c", "kill -TERM $$").wait(10, check=False).status == 143


@pytest.mark.parametrize(
    ("word", "reason"), [("/nonexistent/program", "No such file"), ("/etc/passwd", "Permission denied")]
)
def test_a_program_that_cannot_be_started(channel: Channel, word: str, reason: str) -> None:
    with pytest.raises(CommandFailedError, match=reason) as caught:
        start(channel, word).wait(10)
    assert caught.value.status == 127


def test_environment_and_folder(channel: Channel, tmp_path: Path) -> None:
    command = channel.start(["sh", "-c", 'pwd; echo "$A"'], {**ENVIRONMENT, "A": "x y"}, str(tmp_path), 1000)
    assert command.wait(10).text == f"{tmp_path}\nx y\n"


def test_binary_data_both_ways(channel: Channel) -> None:
    data = os.urandom(3_000_000)
    command = start(channel, "cat", max_output=len(data))
    command.send(data)
    command.end_input()
    assert hashlib.sha256(command.wait(30).stdout).digest() == hashlib.sha256(data).digest()


def test_output_written_just_before_the_end_is_not_lost(channel: Channel) -> None:
    for size in (0, 1, 4096, 65536, 300_000):
        result = start(channel, "head", "-c", str(size), "/dev/zero").wait(10)
        assert len(result.stdout) == size


def test_a_child_left_behind_does_not_hold_the_end_up(channel: Channel) -> None:
    command = start(channel, "sh", "-c", "setsid sleep 30 & echo $!")
    result = command.wait(5)
    assert result.seconds < 5
    start(channel, "kill", result.text.strip()).wait(10)


def test_time_limit_kills_the_whole_session(channel: Channel) -> None:
    command = start(channel, "sh", "-c", "echo begun; sleep 1000 & echo $!; wait")
    command.wait_for(b"begun\n", 10)
    with pytest.raises(TimeLimitError, match=r"not finished after 0\.3 s") as caught:
        command.wait(0.3)
    child = int(caught.value.stdout.split()[1])
    gone = f"! kill -0 {child} 2>/dev/null || grep -q ') Z ' /proc/{child}/stat"
    start(channel, "sh", "-c", gone).wait(5)


def test_several_at_once(channel: Channel) -> None:
    background = start(channel, "sh", "-c", "while read -r line; do echo got $line; done; echo end")
    background.send(b"one\n")
    background.wait_for(b"got one\n", 10)
    assert start(channel, "echo", "meanwhile").wait(10).text == "meanwhile\n"
    assert background.running
    background.send(b"two\n")
    background.end_input()
    assert background.wait(10).text == "got one\ngot two\nend\n"
    assert not background.running


def test_many_at_once_and_one_too_many(channel: Channel) -> None:
    commands = [start(channel, "cat") for _ in range(64)]
    with pytest.raises(CommandFailedError, match="cannot be started"):
        start(channel, "true").wait(10)
    for command in commands:
        command.end_input()
        command.wait(10)
    assert start(channel, "true").wait(10).status == 0


def test_a_command_that_does_not_read_blocks_only_itself(channel: Channel) -> None:
    deaf = start(channel, "sleep", "100")
    with pytest.raises(TimeLimitError, match="did not read"):
        deaf.send(bytes(2_000_000), 0.3)
    assert start(channel, "echo", "still here").wait(10).text == "still here\n"
    assert deaf.kill().status == 137


def test_input_that_is_not_wanted_is_dropped(channel: Channel) -> None:
    command = start(channel, "sh", "-c", "exec <&-; sleep 0.2; echo done")
    command.send(bytes(1_000_000), 10)
    assert command.wait(10).text == "done\n"


def test_too_much_output(channel: Channel) -> None:
    command = start(channel, "yes", max_output=10_000)
    with pytest.raises(CommandFailedError, match="wrote more than the 10000 bytes") as caught:
        command.wait(10)
    assert len(caught.value.stdout) == 10_000


def test_follow_gives_pieces_as_they_come(channel: Channel) -> None:
    command = start(channel, "sh", "-c", "echo a; sleep 0.2; echo b >&2; sleep 0.2; echo c")
    pieces = list(command.follow(10))
    assert b"".join(out for out, _ in pieces) == b"a\nc\n"
    assert b"".join(err for _, err in pieces) == b"b\n"
    assert len(pieces) >= 2


def test_follow_has_a_time_limit(channel: Channel) -> None:
    with pytest.raises(TimeLimitError, match=r"after 0\.2 s"):
        list(start(channel, "sleep", "100").follow(0.2))


def test_wait_for_what_never_comes(channel: Channel) -> None:
    with pytest.raises(CommandFailedError, match="without writing b'ready'"):
        start(channel, "echo", "no").wait_for(b"ready", 10)
    with pytest.raises(TimeLimitError, match="did not write b'ready'"):
        start(channel, "sleep", "5").wait_for(b"ready", 0.2)


def test_a_guest_that_is_gone(process: tuple[subprocess.Popen[bytes], socket.socket], channel: Channel) -> None:
    command = start(channel, "sleep", "3")
    time.sleep(0.1)
    process[0].kill()
    with pytest.raises(GuestLostError, match="sleep 3"):
        command.wait(10)
    assert channel.closed
    with pytest.raises(GuestLostError):
        start(channel, "true")


def test_closing_ends_who_waits(channel: Channel) -> None:
    command = start(channel, "sleep", "1")
    channel.close()
    with pytest.raises(GuestLostError):
        command.wait(10)


@pytest.mark.parametrize(
    "stream",
    [
        b"\xff" * 64,
        Frame(Kind.READY, 0, b"9\0a\0b").encode(),
        Frame(Kind.READY, 0, b"1\0a\0b").encode() * 2,
        Frame(Kind.EXIT, 1, b"").encode(),
    ],
)
def test_a_guest_that_talks_nonsense_is_lost(stream: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        channel = Channel(ours, GuestLostError)
        command = start(channel, "true")
        theirs.sendall(stream)
        with pytest.raises(GuestLostError, match=r"\("):
            command.wait(10)
        channel.close()


def test_frames_for_nobody_are_ignored(process: tuple[subprocess.Popen[bytes], socket.socket]) -> None:
    _, connection = process
    connection.sendall(Frame(Kind.STDIN, 99, b"x").encode() + protocol.number_frame(Kind.SIGNAL, 99, 9).encode())
    channel = Channel(connection, GuestLostError)
    assert start(channel, "true").wait(10).status == 0
    channel.close()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0" * 7,
        struct.pack("<II", 0, 0) + b"/\0true\0",
        struct.pack("<II", 1, 0) + b"/\0true",
        struct.pack("<II", 5, 5) + b"/\0true\0",
        struct.pack("<II", 2**32 - 1, 2) + b"/\0true\0",
    ],
)
def test_the_runner_refuses_broken_requests(
    process: tuple[subprocess.Popen[bytes], socket.socket], payload: bytes
) -> None:
    _, connection = process
    connection.sendall(Frame(Kind.EXEC, 5, payload).encode())
    connection.settimeout(10)
    decoder = protocol.Decoder()
    received: list[Frame] = []
    while len(received) < 2:
        received += decoder.feed(connection.recv(4096))
    assert [frame.kind for frame in received] == [Kind.READY, Kind.FAILED]
    assert received[1].channel == 5
    connection.close()


def test_words_that_cannot_be_sent_leave_the_channel_usable(channel: Channel) -> None:
    with pytest.raises(MalformedError):
        start(channel, "a\0b")
    assert start(channel, "true").wait(10).status == 0
