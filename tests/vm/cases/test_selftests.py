"""The kernel's own tests of livepatch, run on the kernel and in the guest that all else here is run in: what they stand on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kmend import lab
from kmend.factory.kernels.prepared import Kernel

SCRIPTS = "tools/testing/selftests/livepatch"
WRAPPER = '#!/bin/sh\nexec /sbin/{0} {1} /klp "$@"\n'


@pytest.fixture(scope="module")
def modules(prepared: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The modules that the tests load; the distro does not ship them."""
    folder = tmp_path_factory.mktemp("klp") / "livepatch"
    shutil.copytree(prepared.tree.path / "lib/livepatch", folder, ignore=shutil.ignore_patterns(".*", "*.o", "*.cmd"))
    prepared.tree.make(f"M={folder}", "CONFIG_TEST_LIVEPATCH=m", "modules")
    return folder


@pytest.mark.slow
def test_the_kernels_own_tests(prepared: Kernel, image: lab.UnpackedKernel, modules: Path) -> None:
    scripts = prepared.tree.path / SCRIPTS
    release = prepared.identity.release
    with lab.boot(image, lab.Shape.FULL) as vm:
        for module in sorted(modules.glob("*.ko")):
            vm.put(module, f"/klp/lib/modules/{release}/{module.name}")
        for script in sorted(scripts.glob("*.sh")):
            vm.put(script, f"/klp/tests/{script.name}")
        for name, option in (("modprobe", "-d"), ("modinfo", "-b")):
            vm.put_bytes(WRAPPER.format(name, option).encode(), f"/klp/bin/{name}", mode=0o755)
        vm.sh("depmod -b /klp; mountpoint -q /sys/kernel/debug || mount -t debugfs none /sys/kernel/debug")
        for script in sorted(scripts.glob("test-*.sh")):
            done = vm.run(
                ["bash", f"./{script.name}"],
                folder="/klp/tests",
                environment={"PATH": "/klp/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
                timeout=300,
                check=False,
            )
            assert done.status == 0, done.text[-2000:] + done.stderr.decode(errors="replace")[-4000:]
            assert done.text.count("ok\n") >= 1
            assert "not ok" not in done.text
