"""The frames that the host and the guest's runner exchange over the virtio port; `runner.c` is the other half.

A frame is a header of three 32-bit little-endian words (kind, channel, payload length) and the payload. A channel is one
command; the host chooses its number and never uses it again during a boot.

    EXEC       host   argument count, environment count (32 bits each); folder, arguments, environment, NUL after each
    STDIN      host   bytes for the command; at most `WINDOW` of them without credit
    STDIN_END  host   no more will come
    SIGNAL     host   a signal's number, for the command and all of its session
    READY      guest  protocol version, boot ID, kernel release, NUL between; sent once when the runner starts
    STDOUT     guest  bytes that the command wrote
    STDERR     guest  likewise
    EXIT       guest  the command's wait status; nothing follows on the channel
    FAILED     guest  an errno: the command could not be started; nothing follows on the channel
    CREDIT     guest  so many bytes of STDIN were consumed, as many more may be sent
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kmend.core.errors import MalformedError

PORT_NAME = "kmend.lab.0"
VERSION = "1"
MAX_PAYLOAD = 128 * 1024
CHUNK = 32 * 1024
WINDOW = 256 * 1024
MAX_WORDS = 8000
_HEADER = struct.Struct("<III")
_NUMBER = struct.Struct("<I")


class Kind(enum.IntEnum):
    """What a frame is."""

    EXEC = 1
    STDIN = 2
    STDIN_END = 3
    SIGNAL = 4
    READY = 16
    STDOUT = 17
    STDERR = 18
    EXIT = 19
    FAILED = 20
    CREDIT = 21


@dataclass(frozen=True, slots=True)
class Frame:
    """One message."""

    kind: Kind
    channel: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """Its bytes on the wire."""
        return _HEADER.pack(self.kind, self.channel, len(self.payload)) + self.payload

    @property
    def number(self) -> int:
        """The payload as a number (EXIT, FAILED, CREDIT, SIGNAL).

        Raises:
            MalformedError: it is none.
        """
        if len(self.payload) != _NUMBER.size:
            raise MalformedError(f"a {self.kind.name} frame with {len(self.payload)} bytes")
        return int(_NUMBER.unpack(self.payload)[0])


@dataclass(frozen=True, slots=True)
class Ready:
    """The runner's greeting.

    Attributes:
        boot_id: `/proc/sys/kernel/random/boot_id` of the guest.
        release: its `uname -r`.
    """

    boot_id: str
    release: str

    @classmethod
    def read(cls, frame: Frame) -> Ready:
        """Read the payload of a READY frame.

        Raises:
            MalformedError: it is not of that form, or of another protocol version.
        """
        words = frame.payload.decode(errors="replace").split("\0")
        if len(words) != 3 or words[0] != VERSION:
            raise MalformedError(f"the guest's runner greets with {frame.payload[:80]!r}")
        return cls(words[1], words[2])


def number_frame(kind: Kind, channel: int, number: int) -> Frame:
    """A frame whose payload is a number."""
    return Frame(kind, channel, _NUMBER.pack(number))


def exec_frame(channel: int, command: Sequence[str], environment: Mapping[str, str], folder: str) -> Frame:
    """The frame that starts a command.

    Raises:
        MalformedError: nothing to run, a NUL inside a word, or more than a frame holds.
    """
    words = [folder, *command, *(f"{name}={value}" for name, value in environment.items())]
    if not command or not command[0]:
        raise MalformedError("no command is given")
    if any("\0" in word for word in words):
        raise MalformedError("a command's words cannot hold a NUL character")
    payload = struct.pack("<II", len(command), len(environment))
    payload += b"".join(word.encode(errors="surrogateescape") + b"\0" for word in words)
    if len(words) > MAX_WORDS or len(payload) > MAX_PAYLOAD:
        raise MalformedError(
            f"a command of {len(words)} words and {len(payload)} bytes is too long for the lab",
            hint="pass long input by standard input or in a file",
        )
    return Frame(Kind.EXEC, channel, payload)


class Decoder:
    """Cuts a stream of bytes into frames, however it is split on the way."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete once `data` has arrived.

        Raises:
            MalformedError: these are not frames.
        """
        self._pending += data
        while len(self._pending) >= _HEADER.size:
            kind, channel, length = _HEADER.unpack_from(self._pending)
            if length > MAX_PAYLOAD or kind not in Kind.__members__.values():
                raise MalformedError(f"the guest sends a frame of kind {kind} with {length} bytes")
            if len(self._pending) < _HEADER.size + length:
                return
            payload = bytes(self._pending[_HEADER.size : _HEADER.size + length])
            del self._pending[: _HEADER.size + length]
            yield Frame(Kind(kind), channel, payload)


def exit_status(wait_status: int) -> int:
    """A shell's view of a wait status: the exit status, or 128 + n if signal n ended the command."""
    signal = wait_status & 0x7F
    return 128 + signal if signal else (wait_status >> 8) & 0xFF
