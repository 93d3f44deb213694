"""From which folder kbuild is to begin, and what the top Makefile hands on."""

from __future__ import annotations

from pathlib import Path

from kmend.core.process import run
from kmend.factory.kernels.kbuild import by_starting_folder, exported_variables

MAKEFILES = {
    "drivers/Makefile": "obj-y += char/ipmi/\n\nobj-y\t\t\t+= char/ block/ \\\n\t\tmisc/\nobj-$(CONFIG_AOE) += block/aoe/\n",
    "drivers/char/Makefile": "obj-y += mem.o tpm/\n",
    "drivers/block/Makefile": "obj-y += loop.o\n",
    "arch/x86/Kbuild": "obj-y += kernel/ platform/\nobj-$(CONFIG_PVH) += platform/pvh/\n",
    "arch/x86/Makefile": "drivers-y += arch/x86/pci/ kernel/deep/\n",
    "net/Makefile": "obj-y += core/ ipv4/netfilter/\n",
}
EXPORTED = {"ARCH_LIB": "lib/ arch/x86/lib/", "ARCH_DRIVERS": "arch/x86/pci/ ", "ARCH_CORE": ""}


def test_the_folder_to_begin_with(tmp_path: Path) -> None:
    for path, text in MAKEFILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    targets = [
        "drivers/char/mem.o", "drivers/char/ipmi/a.o", "drivers/block/aoe/b.o", "drivers/block/aoe/deeper/c.o", "init/main.o",
        "arch/x86/lib/insn.o", "arch/x86/pci/common.o", "arch/x86/platform/pvh/e.o", "arch/x86/platform/efi/e.o",
        "arch/x86/kernel/deep/x.o", "lib/string.o", "net/ipv4/netfilter/x.o", "top.o",
    ]  # fmt: skip
    assert by_starting_folder(tmp_path, EXPORTED, targets) == {
        ".": ["drivers/char/mem.o", "init/main.o", "arch/x86/platform/efi/e.o", "arch/x86/kernel/deep/x.o", "lib/string.o",
              "net/ipv4/netfilter/x.o", "top.o"],
        "drivers/char/ipmi": ["drivers/char/ipmi/a.o"],
        "drivers/block/aoe": ["drivers/block/aoe/b.o", "drivers/block/aoe/deeper/c.o"],
        "arch/x86/lib": ["arch/x86/lib/insn.o"],
        "arch/x86/pci": ["arch/x86/pci/common.o"],
        "arch/x86/platform/pvh": ["arch/x86/platform/pvh/e.o"],
    }  # fmt: skip


def test_what_a_makefile_exports(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("export FLAGS := -a \\\n  'b=c'\nhidden := x\nall: ; false\n")

    def make(rule: str, goal: str) -> None:
        run(["make", "-s", "--eval", rule, "CC=gcc", goal], cwd=tmp_path)

    found = exported_variables(make)
    assert found["FLAGS"] == "-a 'b=c'"
    assert "hidden" not in found
    assert not {"MAKEFLAGS", "MAKELEVEL", "PWD"} & set(found)
