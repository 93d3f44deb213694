"""The order in which livepatch counts symbols, from lists as `nm -n` and `mksysmap` leave them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmend.core.errors import MalformedError
from kmend.factory.kernels.exports import Export, Exports
from kmend.factory.kernels.kallsyms import Kallsyms


def kallsyms(folder: Path, *lines: str) -> Kallsyms:
    """The table of a System.map of these lines."""
    (folder / "System.map").write_text("".join(f"{line}\n" for line in lines))
    return Kallsyms.from_system_map(folder / "System.map")


def test_equal_names_are_counted_by_address_whatever_their_kind(tmp_path: Path) -> None:
    table = kallsyms(
        tmp_path,
        "ffffffff81000300 d user_read",
        "ffffffff81000100 T user_read",
        "ffffffff81000200 t user_read",
        "ffffffff81000000 T alone",
    )
    assert [symbol.name for symbol in table.symbols] == ["alone", "user_read", "user_read", "user_read"]
    assert [symbol.type for symbol in table.named("user_read")] == ["T", "t", "d"]
    assert [table.sympos("user_read", 0xFFFFFFFF81000000 + offset) for offset in (0x100, 0x200, 0x300)] == [1, 2, 3]
    assert table.sympos("alone", 0xFFFFFFFF81000000) == 0
    assert table.sympos("alone", 0xFFFFFFFF81000001) is None
    assert table.sympos("unheard_of", 0) is None
    assert table.named("unheard_of") == ()


def test_at_one_address_weak_and_provided_names_come_last(tmp_path: Path) -> None:
    """`compare_symbols` of scripts/kallsyms.c, Linux 6.1; what is equal keeps the order of the list."""
    table = kallsyms(
        tmp_path,
        "ffffffff81000000 T __start_of_it",
        "ffffffff81000000 W weak",
        "ffffffff81000000 T __two_underscores",
        "ffffffff81000000 T plain",
        "ffffffff81000000 T _one",
        "ffffffff81000000 t again",
    )
    assert [symbol.name for symbol in table.symbols] == [
        "plain",
        "again",
        "_one",
        "__two_underscores",
        "__start_of_it",
        "weak",
    ]


def test_what_the_kernel_leaves_out(tmp_path: Path) -> None:
    table = kallsyms(
        tmp_path,
        "ffffffff81000000 T kept",
        "ffffffff81000010 R kallsyms_names",
        "ffffffff81000020 t __efistub_entry",
        "0000000000000000 A absolute",
        "0000000000000000 U undefined",
    )
    assert [symbol.name for symbol in table.symbols] == ["kept"]


@pytest.mark.parametrize(
    "line",
    [
        "ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package",
        "",
        "ffffffff81000000 T",
        "address T name",
        "x",
    ],
)
def test_a_stub_is_told_as_such(tmp_path: Path, line: str) -> None:
    with pytest.raises(MalformedError, match=r"line 1 of System\.map is not a symbol") as caught:
        kallsyms(tmp_path, line)
    assert "-dbg" in caught.value.hint


def test_exports(tmp_path: Path) -> None:
    path = tmp_path / "Module.symvers"
    path.write_text(
        "0x01000e51\tschedule\tvmlinux\tEXPORT_SYMBOL\t\n"
        "0x9a5f54a2\tusb_reset\tdrivers/usb/core/usb-core\tEXPORT_SYMBOL_GPL\tUSB_STORAGE\n"
    )
    exports = Exports.from_symvers(path)
    assert exports.get("schedule") == Export("schedule", 0x01000E51, "vmlinux", False, "")
    assert exports.get("usb_reset") == Export("usb_reset", 0x9A5F54A2, "usb_core", True, "USB_STORAGE")
    assert exports.get("unheard_of") is None


@pytest.mark.parametrize(
    "line", ["schedule", "01000e51\tschedule\tvmlinux\tEXPORT_SYMBOL\t", "0x1\ta\tb\tc", "0xzz\ta\tb\tEXPORT\t"]
)
def test_what_is_no_export(tmp_path: Path, line: str) -> None:
    path = tmp_path / "Module.symvers"
    path.write_text(f"0x1\tgood\tvmlinux\tEXPORT_SYMBOL\t\n{line}\n")
    with pytest.raises(MalformedError, match=r"line 2 of Module\.symvers is not an export"):
        Exports.from_symvers(path)


@pytest.mark.parametrize("content", [b"\xff\xfe\n", b"ffffffff81000000 T a\x85b c\n", b""])
def test_lists_that_are_no_text(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "list"
    path.write_bytes(content)
    for reader in (Kallsyms.from_system_map, Exports.from_symvers):
        with pytest.raises(MalformedError) as caught:
            reader(path)
        assert caught.value.hint
