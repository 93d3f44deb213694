"""Which modules of a build are not there, by the lists beside them."""

from __future__ import annotations

import pytest

from kmend.agent.moduletree import files, missing, name_of, on_disk

ORDER = "kernel/fs/exfat/exfat.ko\nkernel/drivers/usb/storage/usb-storage.ko\nkernel/net/dccp/dccp.ko\n"
DEP = "kernel/fs/exfat/exfat.ko.xz:\nkernel/drivers/usb/storage/usb-storage.ko.xz: kernel/drivers/scsi/scsi_mod.ko.xz\n"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("kernel/fs/exfat/exfat.ko", "exfat"),
        ("kernel/fs/exfat/exfat.ko.xz", "exfat"),
        ("kernel/fs/exfat/exfat.ko.zst", "exfat"),
        ("kernel/fs/exfat/exfat.ko.gz", "exfat"),
        ("fs/exfat/exfat.o", "exfat"),
        ("usb-storage.ko", "usb_storage"),
        ("kernel/fs/exfat", ""),
        ("kernel/fs/exfat.ko/", ""),
        ("", ""),
    ],
)
def test_names(path: str, name: str) -> None:
    assert name_of(path) == name


def test_what_depmod_has_found_is_there_however_it_is_packed() -> None:
    assert on_disk(DEP) == {"exfat", "usb_storage"}
    assert missing(ORDER, "", DEP) == {"dccp": "kernel/net/dccp/dccp.ko"}


def test_a_module_of_another_place_counts_by_its_name() -> None:
    assert missing(ORDER, "", DEP + "updates/dkms/dccp.ko:\n") == {}


def test_what_is_in_the_kernel_itself_is_not_missing() -> None:
    assert missing(ORDER, "kernel/net/dccp/dccp.ko\n", DEP) == {}


@pytest.mark.parametrize(("order", "dep"), [("", DEP), (ORDER, ""), ("\n", DEP), (ORDER, "nonsense\n:\n"), ("", "")])
def test_without_a_list_nothing_is_known(order: str, dep: str) -> None:
    assert missing(order, "", dep) == {}


def test_the_files_in_which_a_module_may_be() -> None:
    expected = ("a-b/x-y.ko", "a-b/x-y.ko.xz", "a-b/x-y.ko.gz", "a-b/x-y.ko.zst")
    assert files("a-b/x-y.ko") == files("a-b/x-y.o") == files("a-b/x-y.ko.zst") == expected
    assert files("x.ko")[0] == "x.ko"
