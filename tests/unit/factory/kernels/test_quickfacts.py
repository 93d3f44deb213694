"""Kernel facts by kbuild: from packages to the document, and what is left open in it."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.unit.factory.kernels import images
from tests.unit.factory.kernels.debs import Archive, tar_xz
from tests.unit.factory.kernels.test_makefiles import TREE

from kmend.core import document
from kmend.core.facts import KernelFacts, KernelModule, MadeFrom
from kmend.core.kernel import KernelIdentity, KernelRef
from kmend.factory.kernels.indexing import KernelError
from kmend.factory.kernels.makefiles import Told
from kmend.factory.kernels.outline import Outline
from kmend.factory.kernels.quickfacts import assemble, quick_facts
from kmend.factory.kernels.tree import EnvironmentDiffersError

REF = KernelRef.parse("debian:6.1.0-9-amd64@6.1.8-1")
VERSION = "#1 SMP Debian 6.1.8-1 (2026-07-02)"
SOURCES = {
    "net/Makefile": "obj-$(CONFIG_UNIX) += unix.o\nunix-y := af_unix.o asm.o\nobj-$(CONFIG_UNIX) += generated.o\n"
    "obj-$(CONFIG_DIAG) += unix-diag.o\nunix-diag-y := diag.o\nobj-$(CONFIG_OFF) += off.o\nextra-y := extra.o\n",
    **{f"net/{name}": "int x;\n" for name in ("asm.S", "diag.c", "off.c", "extra.c", "inner.c", "af_unix.h")},
    "net/af_unix.c": '#include "inner.c"\n',
    "elsewhere/generated.c": "int x;\n",
    "arch/x86/mm/fault.c": "int x;\n",
    "arch/arm/mm/fault.c": "int x;\n",
    "arch/x86/boot/main.c": "int x;\n",
    "Documentation/x.c": "int x;\n",
}


def offer(archive: Archive, *, told: str = f"6.1.0-9-amd64 (x) {VERSION}", package: str = "6.1.8-1") -> None:
    kernel = images.vmlinux(images.notes())
    image = images.boot_image(gzip.compress(kernel) + struct.pack("<I", len(kernel)), told)
    modules = {
        "./lib/modules/6.1.0-9-amd64/kernel/net/unix-diag.ko": images.module(
            {"alias": "net-pf-16-4-1", "depends": "a-b"}
        ),
    }
    config = b'# CONFIG_OFF is not set\nCONFIG_NET=y\nCONFIG_UNIX=y\nCONFIG_DIAG=m\nCONFIG_NAME="x"\n'
    files = {"./boot/config-6.1.0-9-amd64": config, "./boot/vmlinuz-6.1.0-9-amd64": image, **modules}
    archive.offer("linux-image-6.1.0-9-amd64-unsigned", "6.1.8-1", files, "amd64")
    offer_source(archive, {**TREE, **SOURCES}, package)


def offer_source(archive: Archive, files: Mapping[str, str], package: str) -> None:
    tree = tar_xz({f"linux-source-6.1/{path}": text.encode() for path, text in files.items()})
    archive.offer("linux-source-6.1", package, {"./usr/src/linux-source-6.1.tar.xz": tree})


def test_from_packages_to_facts(archive: Archive) -> None:
    offer(archive)
    found = quick_facts(KernelRef.parse("debian:6.1.0-9-amd64"))
    assert found == KernelFacts(
        KernelIdentity(images.BUILD_ID, "6.1.0-9-amd64", VERSION, str(REF)),
        {
            "arch/x86/mm/fault.c": ("vmlinux",),
            "net/af_unix.c": ("vmlinux",),
            "net/asm.S": ("vmlinux",),
            "net/diag.c": ("unix_diag",),
            "net/inner.c": ("vmlinux",),
        },
        (
            KernelModule(
                "unix_diag",
                "lib/modules/6.1.0-9-amd64/kernel/net/unix-diag.ko",
                images.BUILD_ID,
                ("net-pf-16-4-1",),
                ("a_b",),
            ),
        ),
        {"CONFIG_OFF": "n", "CONFIG_NET": "y", "CONFIG_UNIX": "y", "CONFIG_DIAG": "m", "CONFIG_NAME": '"x"'},
        ("net/off.c",),
        made_from=MadeFrom.KBUILD,
    )
    assert document.decode(KernelFacts, document.encode(found)) == found


def test_they_are_kept(archive: Archive) -> None:
    offer(archive)
    found = quick_facts(REF)
    for path in Path(os.environ["KMEND_CACHE"]).glob("packages/*"):
        path.unlink()
    archive.offers.clear()
    archive.publish()
    assert quick_facts(REF) == found
    (kept,) = Path(os.environ["KMEND_CACHE"]).glob("facts/*.json")
    kept.write_bytes(b"{}")
    with pytest.raises(EnvironmentDiffersError):
        quick_facts(REF)


def test_a_source_that_is_gone(archive: Archive) -> None:
    offer(archive, package="6.1.9-1")
    with pytest.raises(EnvironmentDiffersError, match=r"offers no linux-source-6\.1 in version 6\.1\.8-1") as caught:
        quick_facts(REF)
    assert "it offers linux-source-6.1 in version 6.1.9-1" in caught.value.hint
    assert not [call for call in archive.calls() if "download" in call]


@pytest.mark.parametrize(
    "told", ["6.1.0-8-amd64 (x) #1 SMP Debian 6.1.8-1 (x)", "6.1.0-9-amd64 (x) #1 SMP Debian 6.1.8-12 (x)"]
)
def test_an_image_of_another_kernel(archive: Archive, told: str) -> None:
    offer(archive, told=told)
    with pytest.raises(KernelError, match=r"the boot image of .* is that of"):
        quick_facts(REF)


def test_what_is_left_open(caplog: pytest.LogCaptureFixture) -> None:
    files = {
        "net/a.c", "net/a.S", "net/b.c", "net/own.c", "net/x.lds.S", "tools/relo.c", "bad/x.c", "bad/deep/y.c", "badly.c",
        "mod/m.c", "fs/z.c", "arch/x86/purgatory/p.c",
    }  # fmt: skip
    told = Told(
        {"net/a": ("vmlinux",), "kernel/relo": ("vmlinux",)},
        frozenset({"net/own", "net/b.dtb", "net/x.lds"}),
        frozenset({"net/known.ko"}),
        frozenset({"bad"}),
    )
    shipped = ["lib/modules/1/kernel/net/known.ko", "lib/modules/1/kernel/mod/unasked.ko"]
    found = assemble(told, Outline(frozenset(files), {}), shipped)
    assert found.sources == {"net/a.c": ("vmlinux",)}
    assert found.left_out == ("badly.c", "fs/z.c", "net/b.c")
    assert "do not ask for the module mod/unasked.ko" in caplog.text
