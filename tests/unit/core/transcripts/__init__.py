"""What hosts and servers of each protocol version have said to each other, byte for byte; both sides must go on understanding it.

A file never changes once a release speaks that version. To record a new one: `python -m tests.unit.core.transcripts.recording`.
What a version has gained later is in files beside the first one: `protocol-1-modules.json`; `protocol-1-chain.json` and
`protocol-1-chain-modules.json` are the same lives with reports that name what they follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kmend.core.document import decode

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its answer.

    Attributes:
        body, answer: as they went over the wire; both are text.
    """

    name: str
    path: str
    headers: dict[str, str]
    body: str
    status: int
    answer: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """One host's life, in order."""

    protocol: int
    exchanges: tuple[Exchange, ...]
    format: str = "kmend-transcript/1"


def path(protocol: int, gained: str = "") -> Path:
    """The file of a protocol version, or of what it has gained."""
    return FOLDER / (f"protocol-{protocol}-{gained}.json" if gained else f"protocol-{protocol}.json")


def read(protocol: int, gained: str = "") -> Transcript:
    """The transcript of a protocol version, or of what it has gained."""
    return decode(Transcript, path(protocol, gained).read_bytes(), max_bytes=1 << 20)
