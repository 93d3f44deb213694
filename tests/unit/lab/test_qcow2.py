"""Copy-on-write disks, as far as their bytes tell; QEMU itself reads them in tests/vm."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from kmend.lab.errors import UserlandError
from kmend.lab.qcow2 import create_overlay, overlay


def test_header() -> None:
    content = overlay(Path("/some/where/base.ext4"), 2 * 1024**3)
    magic, version, name_at, name_length, cluster_bits, size = struct.unpack_from(">4sIQIIQ", content)
    assert (magic, version, cluster_bits, size) == (b"QFI\xfb", 3, 16, 2 * 1024**3)
    assert content[name_at : name_at + name_length] == b"/some/where/base.ext4"
    l1_size, l1_at, refcounts_at = struct.unpack_from(">IQQ", content, 36)
    assert l1_size == 4  # each entry reaches 512 MiB
    (block_at,) = struct.unpack_from(">Q", content, refcounts_at)
    counts = struct.unpack_from(">5H", content, block_at)
    assert counts == (1, 1, 1, 1, 0)
    assert l1_at + 65536 == len(content) == 4 * 65536
    assert not any(content[l1_at:])


def test_a_disk_that_is_too_large() -> None:
    with pytest.raises(UserlandError, match="too large"):
        overlay(Path("/base"), 5 * 1024**4)


def test_no_base(tmp_path: Path) -> None:
    with pytest.raises(UserlandError, match="No such file"):
        create_overlay(tmp_path / "disk", tmp_path / "missing")
