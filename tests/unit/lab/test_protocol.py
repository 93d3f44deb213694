"""The frames between host and guest: whatever is packed comes out again, whatever is not a frame is refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.core.errors import MalformedError
from kmend.lab import protocol
from kmend.lab.protocol import Decoder, Frame, Kind, Ready

frames = st.builds(Frame, st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.binary(max_size=2000))


@given(st.lists(frames, max_size=8), st.integers(1, 4000))
def test_frames_survive_any_split(sent: list[Frame], piece: int) -> None:
    stream = b"".join(frame.encode() for frame in sent)
    decoder = Decoder()
    received = [
        frame for start in range(0, len(stream), piece) for frame in decoder.feed(stream[start : start + piece])
    ]
    assert received == sent


@given(st.binary(max_size=400))
def test_garbage_never_surfaces_as_another_error(data: bytes) -> None:
    try:
        list(Decoder().feed(data))
    except MalformedError:
        return


@pytest.mark.parametrize(("kind", "length"), [(99, 0), (17, protocol.MAX_PAYLOAD + 1), (0, 4)])
def test_impossible_headers_are_refused(kind: int, length: int) -> None:
    with pytest.raises(MalformedError, match=f"kind {kind} with {length} bytes"):
        list(Decoder().feed(struct.pack("<III", kind, 1, length)))


@given(st.integers(0, 2**32 - 1))
def test_numbers(number: int) -> None:
    assert protocol.number_frame(Kind.EXIT, 3, number).number == number


def test_a_number_of_another_size_is_refused() -> None:
    with pytest.raises(MalformedError, match="EXIT frame with 3 bytes"):
        _ = Frame(Kind.EXIT, 1, b"abc").number


def test_exec_frame_has_folder_arguments_environment_in_that_order() -> None:
    frame = protocol.exec_frame(7, ["ls", "-l"], {"A": "1"}, "/tmp")
    assert frame.channel == 7
    assert frame.payload == struct.pack("<II", 2, 1) + b"/tmp\0ls\0-l\0A=1\0"


@pytest.mark.parametrize(
    ("command", "message"),
    [([], "no command"), ([""], "no command"), (["a\0b"], "NUL"), (["x" * protocol.MAX_PAYLOAD], "too long")],
)
def test_commands_that_cannot_be_sent(command: list[str], message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        protocol.exec_frame(1, command, {}, "/")


def test_greeting() -> None:
    assert Ready.read(Frame(Kind.READY, 0, b"1\0boot\0" + b"6.1.0")) == Ready("boot", "6.1.0")


@pytest.mark.parametrize("payload", [b"", b"2\0boot\0release", b"1\0boot", b"1\0a\0b\0c", b"\xff\xfe"])
def test_a_greeting_of_another_form_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedError, match="greets with"):
        Ready.read(Frame(Kind.READY, 0, payload))


@pytest.mark.parametrize(("wait", "status"), [(0, 0), (7 << 8, 7), (9, 137), (0x80 | 11, 139), (255 << 8, 255)])
def test_exit_status(wait: int, status: int) -> None:
    assert protocol.exit_status(wait) == status
