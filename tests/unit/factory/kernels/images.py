"""Boot images and modules for tests: the smallest files that have what is read of them."""

from __future__ import annotations

import struct
from collections.abc import Mapping

BUILD_ID = "ab" * 20


def notes(build_id: str = BUILD_ID) -> bytes:
    """ELF notes: one of another kind, then the build ID."""
    described = bytes.fromhex(build_id)
    return (
        struct.pack("<III8sI", 6, 4, 0x100, b"Linux\0\0\0", 1)
        + struct.pack("<III4s", 4, len(described), 3, b"GNU\0")
        + described
    )


def vmlinux(content: bytes, kinds: tuple[int, ...] = (1, 4)) -> bytes:
    """An ELF file without sections, each of whose segments holds `content`."""
    count = len(kinds)
    start = 64 + 56 * count
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0)
    table = b"".join(struct.pack("<II6Q", kind, 4, start, 0, 0, len(content), len(content), 4) for kind in kinds)
    return head + table + content


def boot_image(packed: bytes, told: str, protocol: int = 0x20F) -> bytes:
    """A bzImage with one sector of setup code, around a compressed kernel."""
    setup = bytearray(1024)
    setup[0x1F1] = 1
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, protocol)
    struct.pack_into("<H", setup, 0x20E, 0x300 - 0x200)
    struct.pack_into("<II", setup, 0x248, 16, len(packed))
    setup[0x300 : 0x300 + len(told)] = told.encode()
    return bytes(setup) + bytes(16) + packed


def module(info: Mapping[str, str], build_id: str = BUILD_ID) -> bytes:
    """A shipped module with its `.modinfo` and its build ID."""
    parts = {
        ".modinfo": b"".join(f"{name}={value}".encode() + b"\0" for name, value in info.items()),
        ".note.gnu.build-id": notes(build_id),
        ".gnu.linkonce.this_module": bytes(64),
    }
    names = b"\0" + b"".join(name.encode() + b"\0" for name in (*parts, ".shstrtab"))
    parts[".shstrtab"] = names
    body, headers = b"", [bytes(64)]
    for name, content in parts.items():
        kind = 3 if name == ".shstrtab" else 1
        headers.append(
            struct.pack("<IIQQQQIIQQ", names.index(name.encode()), kind, 0, 0, 64 + len(body), len(content), 0, 0, 4, 0)
        )
        body += content + bytes(-len(content) % 8)
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        1,
        62,
        1,
        0,
        0,
        64 + len(body),
        0,
        64,
        0,
        0,
        64,
        len(headers),
        len(headers) - 1,
    )
    return head + body + b"".join(headers)
