"""What is found in kernel console text, and what is told of text that is none."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.factory.desk.trace import MAX_FRAMES, MAX_TEXT, Frame, TraceError, read_trace

OOPS = b"""\
<4>[    1.918857] ------------[ cut here ]------------\r
[    1.919510] WARNING: CPU: 0 PID: 106 at fs/filesystems.c:243 is_odd.isra.0+0x1d/0x30 [kmend_1_d2a05ccd]
[    1.920419] Modules linked in: kmend_1_d2a05ccd(OEK) zram virtio_console virtio
[    1.921173] CPU: 0 PID: 106 Comm: a cat Tainted: G           OE K    6.1.0-50-cloud-amd64 #1  Debian 6.1.176-1
[    1.922465] RIP: 0010:is_odd.isra.0+0x1d/0x30 [kmend_1_d2a05ccd]
Nov 23 12:00:00 host kernel: Call Trace:
[    1.929222][  T106]  <TASK>
[    1.929331]  filesystems_proc_show+0x64/0xa0 [kmend_1_d2a05ccd 8d00d8bf34ca80a8ef3449bdb40e20e1d5e67fc2]
[    1.929827]  seq_read_iter+0x122/0x450
[    1.931309]  ? generic_file_splice_read+0x1a0/0x1a0
[    1.931400]  0xffffffffc0453041
[    1.937581] RIP: 0033:0x47cf2a
[    1.940000] pc : foo+0x0/0x10 [zram]
"""


def test_every_kind_of_line() -> None:
    trace = read_trace(OOPS)
    assert (trace.release, trace.package) == ("6.1.0-50-cloud-amd64", "6.1.176-1")
    name = "kmend_1_d2a05ccd"
    assert trace.frames == (
        Frame(2, "is_odd.isra.0", 0x1D, 0x30, name, exact=True),
        Frame(5, "is_odd.isra.0", 0x1D, 0x30, name, exact=True),
        Frame(8, "filesystems_proc_show", 0x64, 0xA0, name, "8d00d8bf34ca80a8ef3449bdb40e20e1d5e67fc2"),
        Frame(9, "seq_read_iter", 0x122, 0x450),
        Frame(10, "generic_file_splice_read", 0x1A0, 0x1A0, sure=False),
        Frame(13, "foo", 0, 0x10, "zram", exact=True),
    )
    assert [frame.looked_up for frame in trace.frames] == [0x1D, 0x1D, 0x63, 0x121, 0x19F, 0]
    assert trace.lines[1].endswith("[kmend_1_d2a05ccd]"), "no carriage return is left"


def test_other_kernels_and_no_header() -> None:
    mainline = b"CPU: 1 PID: 1 Comm: init Not tainted 6.12.3 #2 SMP\n f+0x1/0x2\n"
    assert (read_trace(mainline).release, read_trace(mainline).package) == ("6.12.3", None)
    assert read_trace(b" f+0x1/0x2").release is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no kernel trace"),
        (b"all is well\n" * 1000, "holds no kernel trace"),
        (b"\x7fELF" + bytes(100), "not text but"),
        (b"\x1f\x8b" + bytes(100), "not text but"),
        (bytes(100_000), "is binary"),
        (bytes(range(256)) * 1000, "is binary"),
        (b"x" * (MAX_TEXT + 1), "larger than 32 MiB"),
        (b" f+0x1/0x2\n" * (MAX_FRAMES + 1), "more than"),
    ],
)
def test_what_is_no_trace(content: bytes, words: str) -> None:
    with pytest.raises(TraceError, match=words) as caught:
        read_trace(content)
    assert caught.value.hint


def test_a_log_torn_by_a_crash() -> None:
    assert len(read_trace(OOPS[:300] + bytes(200) + OOPS).frames) >= 6


@given(st.binary(max_size=4000))
def test_any_bytes(content: bytes) -> None:
    for text in (content, OOPS + content, content + OOPS):
        with contextlib.suppress(TraceError):
            assert read_trace(text).frames


def test_long_lines_and_nested_brackets_end_soon() -> None:
    line = b"a" * 2_000_000 + b"+0x1/0x2 " + b"[" * 100_000 + b"\n f+0x1/0x2\n"
    assert [frame.function for frame in read_trace(line).frames] == ["f"]
