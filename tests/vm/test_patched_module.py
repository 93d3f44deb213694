"""A livepatch of code in a module: loaded before the module, after it, and while the module goes and comes back."""

from __future__ import annotations

import pytest
from tests.fixmaker import Edit, FixMaker

from kmend import lab
from kmend.core.kernel import KernelRef
from kmend.factory.build import Built, build
from kmend.factory.kernels.packages import fetch_package, kernel_packages
from kmend.factory.kernels.prepared import Kernel

SOURCE = "drivers/block/zram/zram_drv.c"
STATE = Edit(SOURCE, "\tval = init_done(zram);\n", "\tval = init_done(zram) + 40;\n")
SHOW = "\tsz = zcomp_available_show(zram->compressor, buf);\n"
OWN_SYMBOLS = Edit(SOURCE, SHOW, f"{SHOW}\tif (zram_major > 0)\n\t\tbuf[0] = 'L';\n")
"""Refers to a variable of the module and to a function of another of its files: klp relocations against the module."""


@pytest.fixture(scope="module")
def built(prepared: Kernel, maker: FixMaker) -> Built:
    """Two functions of zram."""
    return build(prepared, [maker.fix(STATE, OWN_SYMBOLS)])


def test_the_manifest_pins_the_module(prepared: Kernel, built: Built) -> None:
    (patched,) = built.manifest.objects
    shipped = next(module for module in prepared.modules if module.name == "zram")
    assert (patched.name, patched.build_id) == ("zram", shipped.build_id)
    assert {function.name for function in patched.functions} == {"initstate_show", "comp_algorithm_show"}
    ways = {decision.target: decision.way for decision in built.extraction.decisions}
    assert ways["zram_major"] == ways["zcomp_available_show"] == "klp relocation, sympos 0 in zram"


def test_the_module_goes_and_comes_back(prepared: Kernel, built: Built) -> None:
    name = built.manifest.module.name
    ref = KernelRef.parse(prepared.identity.ref)
    package = fetch_package(kernel_packages(ref).image, prepared.record.package)
    with lab.boot(lab.unpack(package.path), modules=["zram"]) as vm:
        vm.put_bytes(built.module, f"/{name}.ko")
        zram = vm.sh("find /lib/modules -name zram.ko").text.strip()
        read = "cat /sys/block/zram0/initstate; head -c 1 /sys/block/zram0/comp_algorithm"
        settled = f"while [ $(cat /sys/kernel/livepatch/{name}/transition) = 1 ]; do usleep 100000; done"
        assert vm.sh(read).text == "0\nl"
        vm.sh(f"insmod /{name}.ko && {settled}")
        assert vm.sh(read).text == "40\nL"
        for _ in range(3):
            vm.sh(f"rmmod zram && insmod {zram}")
            assert vm.sh(read).text == "40\nL"
        # Off and on again with the module there, then with the module absent.
        off = f"echo 0 > /sys/kernel/livepatch/{name}/enabled; while [ -d /sys/kernel/livepatch/{name} ]; do usleep 100000; done"
        vm.sh(f"{off}; rmmod {name}")
        assert vm.sh(read).text == "0\nl"
        vm.sh(f"rmmod zram && insmod /{name}.ko && {settled} && insmod {zram}")
        assert vm.sh(read).text == "40\nL"
        vm.sh(f"rmmod zram && {off}; rmmod {name} && insmod {zram}")
        assert vm.sh(read).text == "0\nl"
        log = vm.kernel_log()
        assert not [
            line
            for line in log.splitlines()
            if any(word in line for word in ("WARNING", "BUG", "Call Trace", "invalid relocation"))
        ]
        assert log.count(f"applying patch '{name}' to loading module 'zram'") == 4
