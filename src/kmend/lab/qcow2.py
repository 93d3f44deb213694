"""An empty copy-on-write disk over a read-only image: 256 KiB to make, whatever the image's size.

Source: `docs/interop/qcow2.txt` in QEMU, version 3 of the format, clusters of 64 KiB, 16-bit reference counts.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from kmend.lab.errors import UserlandError

_CLUSTER_BITS = 16
_CLUSTER = 1 << _CLUSTER_BITS
_L2_REACH = _CLUSTER * (_CLUSTER // 8)
_BACKING_FORMAT = 0xE2792ACA


def overlay(backing: Path, size: int) -> bytes:
    """The content of a fresh overlay.

    Args:
        backing: absolute path of the raw image below it.
        size: of the disk, in bytes; up to 4 TiB.
    """
    name = os.fsencode(backing)
    extension = struct.pack(">II8s", _BACKING_FORMAT, 3, b"raw") + struct.pack(">II", 0, 0)
    l1_entries = -(-size // _L2_REACH)
    if len(name) > 1023 or l1_entries > _CLUSTER // 8:
        raise UserlandError(f"cannot make a copy-on-write disk over {backing}: its path or its size is too large")
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb",
        3,
        104 + len(extension),  # where the backing file's name is
        len(name),
        _CLUSTER_BITS,
        size,
        0,  # no encryption
        l1_entries,
        3 * _CLUSTER,  # L1 table
        1 * _CLUSTER,  # reference count table
        1,
        0,  # snapshots
        0,
        0,  # incompatible, compatible, autoclear features
        0,
        0,
        4,  # reference counts of 1 << 4 bits
        104,
    )
    clusters = [
        header + extension + name,
        struct.pack(">Q", 2 * _CLUSTER),  # reference count table: one block
        struct.pack(">4H", 1, 1, 1, 1),  # the block: these four clusters are in use
        b"",  # L1 table: everything comes from the backing file
    ]
    return b"".join(cluster.ljust(_CLUSTER, b"\0") for cluster in clusters)


def create_overlay(path: Path, backing: Path) -> None:
    """Write a fresh overlay over `backing` to the file `path`.

    Raises:
        UserlandError: it cannot be written.
    """
    try:
        path.write_bytes(overlay(backing.resolve(), backing.stat().st_size))
    except OSError as problem:
        raise UserlandError(f"cannot make the guest's disk {path}: {problem.strerror}") from problem
