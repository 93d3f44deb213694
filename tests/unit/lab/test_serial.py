"""The serial log: kept, bounded, and watched for a panic however its bytes arrive."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.lab import serial
from kmend.lab.serial import SerialLog, panic_reason

PANIC = b"[    1.6] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009\r\n[    1.6] CPU: 0\r\n"


def logged(path: Path, pieces: list[bytes]) -> SerialLog:
    ours, theirs = socket.socketpair()
    log = SerialLog(ours, path)
    with theirs:
        for piece in pieces:
            theirs.sendall(piece)
    log.finish(10)
    return log


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_panic_is_seen_whole(tmp_path: Path, size: int) -> None:
    text = b"booting\r\n" + PANIC
    log = logged(tmp_path / "log", [text[start : start + size] for start in range(0, len(text), size)])
    assert log.panic == "Attempted to kill init! exitcode=0x00000009"
    assert (tmp_path / "log").read_bytes() == text
    assert log.tail().splitlines()[0] == "booting"


def test_no_panic(tmp_path: Path) -> None:
    log = logged(tmp_path / "log", [b"all is well\n"])
    assert log.panic is None


def test_boots_are_appended(tmp_path: Path) -> None:
    logged(tmp_path / "log", [b"first\n"])
    assert logged(tmp_path / "log", [b"second\n"]).tail() == "second"
    assert (tmp_path / "log").read_bytes() == b"first\nsecond\n"


def test_the_file_is_bounded_and_the_end_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serial, "MAX_LOG_BYTES", 1000)
    log = logged(tmp_path / "log", [b"x" * 99 + b"\n"] * 50 + [PANIC])
    assert (tmp_path / "log").stat().st_size == 1000
    assert log.panic is not None
    assert "CPU: 0" in log.tail()


@given(st.binary(max_size=200))
def test_any_bytes_are_looked_at(data: bytes) -> None:
    assert panic_reason(data) is None or b"Kernel panic" in data
