"""Attach an empty BPF program to the entry of a kernel function (bpf(2), BPF_TRACE_FENTRY), and stay. Runs in guests."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
from pathlib import Path

SYS_BPF = 321
PROG_LOAD, RAW_TRACEPOINT_OPEN = 5, 17
TRACING, FENTRY = 26, 24
FUNCTION = 12
# Bytes after a type's header by its kind (include/uapi/linux/btf.h): fixed, or for each of its members.
FIXED = {1: 4, 3: 12, 14: 4, 17: 4}
EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}


def bpf(command: int, attributes: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes, 128)
    result: int = libc.syscall(SYS_BPF, command, buffer, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def number_of(function: str) -> int:
    """The function's number among the kernel's own types."""
    content = Path("/sys/kernel/btf/vmlinux").read_bytes()
    header, offset, length, strings, _ = struct.unpack_from("<IIIII", content, 4)
    start = header + strings
    wanted = content.index(b"\0" + function.encode() + b"\0", start) + 1 - start
    place, number = header + offset, 0
    while place < header + offset + length:
        name, info, _ = struct.unpack_from("<III", content, place)
        kind, members = info >> 24 & 31, info & 0xFFFF
        number += 1
        if kind == FUNCTION and name == wanted:
            return number
        place += 12 + FIXED.get(kind, 0) + EACH.get(kind, 0) * members
    raise LookupError(function)


def main() -> None:
    code = ctypes.create_string_buffer(struct.pack("<BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0))
    license_text = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "<IIQQIIQII16sIIIIQIIQIII",
        *(TRACING, 2, ctypes.addressof(code), ctypes.addressof(license_text), 0, 0, 0, 0, 0, b"kmend_test"),
        *(0, FENTRY, 0, 0, 0, 0, 0, 0, 0, number_of(sys.argv[1]), 0),
    )
    program = bpf(PROG_LOAD, attributes)
    bpf(RAW_TRACEPOINT_OPEN, struct.pack("<QII", 0, program, 0))
    Path("/run/fentry").write_text("attached")
    signal.pause()


if __name__ == "__main__":
    main()
