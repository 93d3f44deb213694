"""What Makefiles ask for, by make itself: small trees in which each thing is that kernels do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from kmend.core.errors import MalformedError
from kmend.factory.kernels.makefiles import Answer, Asked, Told, as_makefile, evaluate, is_makefile, read, walk

TOP = """\
obj-y += init/ arch/$(SRCARCH)/ $(ARCH_CORE) kernel/
obj-$(CONFIG_NET) += net/
obj-y += $(ARCH_LIB) drivers/ $(ARCH_DRIVERS)
"""
TREE = {
    "Kbuild": TOP,
    "scripts/Kbuild.include": "comma := ,\nempty :=\n",
    "arch/x86/Makefile": (
        "BITS := 64\nKBUILD_CFLAGS += $(call cc-option,-mx)\nlibs-y += arch/x86/lib/\n"
        "drivers-$(CONFIG_PCI) += arch/x86/pci/\ndrivers-$(CONFIG_ODD) += arch/x86/odd/\n"
        "archprepare:\n\t$(Q)$(MAKE) never\n"
    ),
    "arch/x86/Kbuild": "obj-y += mm/\n",
    "arch/x86/Kconfig": "",
    "arch/x86/Makefile_32": "",
    "arch/x86/mm/Makefile": "obj-y := fault.o\n",
    "arch/x86/lib/Makefile": "lib-y := memcpy_$(BITS).o\nlib-$(CONFIG_ODD) += odd.o\nobj-y += msr.o\n",
    "arch/x86/pci/Makefile": "obj-y := common.o\n",
    "init/Makefile": "obj-y := main.o\n",
    "kernel/Makefile": "obj-y := fork.o\n",
    "lib/Makefile": "lib-y := ctype.o\n",
    "drivers/Makefile": "",
}
CONFIG = {
    "CONFIG_NET": "y",
    "CONFIG_PCI": "y",
    "CONFIG_UNIX": "y",
    "CONFIG_DIAG": "m",
    "CONFIG_BIG": "m",
    "CONFIG_OFF": "n",
}


def told(tmp_path: Path, files: Mapping[str, str], config: Mapping[str, str] = CONFIG) -> Told:
    for path, text in {**TREE, **files}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    before = sorted(tmp_path.rglob("*"))
    found = evaluate(tmp_path, config)
    assert sorted(tmp_path.rglob("*")) == before
    return found


def test_what_the_architecture_adds(tmp_path: Path) -> None:
    found = told(tmp_path, {"net/Makefile": ""})
    assert found.objects == dict.fromkeys(
        ["arch/x86/lib/memcpy_64", "arch/x86/lib/msr", "arch/x86/mm/fault", "arch/x86/pci/common",
         "init/main", "kernel/fork", "lib/ctype"],
        ("vmlinux",),
    )  # fmt: skip
    assert (found.apart, found.modules, found.unread) == (frozenset(), frozenset(), frozenset())


def objects(found: Told, folder: str) -> dict[str, tuple[str, ...]]:
    start = f"{folder}/"
    return {path.removeprefix(start): held for path, held in found.objects.items() if path.startswith(start)}


def test_options_and_composite_objects(tmp_path: Path) -> None:
    found = told(tmp_path, {
        "net/Makefile": (
            "obj-$(CONFIG_UNIX) += unix.o plain.o\nunix-y := af_unix.o gc.o\nunix-$(CONFIG_OFF) += off.o\n"
            "unix-$(CONFIG_DIAG) += as-module.o\n"
            "obj-$(CONFIG_DIAG) += unix-diag.o\nunix-diag-objs := diag.o\nunix-diag-$(CONFIG_DIAG) += more.o\n"
            "obj-$(CONFIG_OFF) += nothing.o\nobj-$(CONFIG_UNSET) += never.o\n"
            "obj-m += gc.o\nobj-y += both.o\nobj-m += both.o\n"
        ),
    })  # fmt: skip
    assert objects(found, "net") == {
        "af_unix": ("vmlinux",), "plain": ("vmlinux",), "both": ("vmlinux",),
        "gc": ("gc", "vmlinux"), "diag": ("unix_diag",), "more": ("unix_diag",),
    }  # fmt: skip
    assert found.modules == {"net/unix-diag.ko", "net/gc.ko"}


def test_a_composite_of_nothing_that_is_on_is_no_source(tmp_path: Path) -> None:
    found = told(tmp_path, {"net/Makefile": "obj-y += shell.o\nshell-$(CONFIG_OFF) += part.o\n"})
    assert objects(found, "net") == {}


def test_conditions_functions_and_noise(tmp_path: Path) -> None:
    found = told(tmp_path, {
        "net/Makefile": (
            "ccflags-y += -I$(src)/x $(call cc-option,-fx,-fy) -DSTEM=\\\"$(subst $(comma),_,a,b)\\\"\n"
            "CFLAGS_af.o := $(shell echo > $(obj)/touched)\n"
            "obj-$(subst m,y,$(CONFIG_BIG)) += af.o\n"
            "ifeq ($(CONFIG_UNIX)$(CONFIG_DIAG),ym)\nobj-y += cond.o\nelse\nobj-y += wrong.o\nendif\n"
            "ifdef CONFIG_OFF\nobj-y += off.o\nendif\n"
            "ifneq ($(CONFIG_NAME),it's \"x\" $$y)\nobj-y += name.o\nendif\n"
            "big-objs := $(addprefix parts/,a.o b.o) $(patsubst %,c%.o,1 2)\nobj-$(CONFIG_BIG) += big.o\n"
            "include $(srctree)/net/more.mk\n-include $(src)/none.mk\n"
            "$(obj)/gen.c: $(src)/gen.pl FORCE\n\t$(call if_changed,perl)\n"
            "quiet_cmd_perl = PERL $@\n"
            "targets += gen.c\nextra-y += vmlinux.lds apart.o\nhostprogs := tool\n"
        ),
        "net/more.mk": "obj-y += included.o ../kernel/odd.o\n",
    }, {**CONFIG, "CONFIG_NAME": '"it\'s \\"x\\" $y"'})  # fmt: skip
    assert objects(found, "net") == {
        "af": ("vmlinux",), "cond": ("vmlinux",), "included": ("vmlinux",), "parts/a": ("big",), "parts/b": ("big",),
        "c1": ("big",), "c2": ("big",),
    }  # fmt: skip
    assert found.objects["kernel/odd"] == ("vmlinux",)
    assert found.apart == {"net/gen", "net/vmlinux.lds", "net/apart"}


def test_folders_and_the_way_to_them(tmp_path: Path) -> None:
    found = told(tmp_path, {
        "net/Makefile": "obj-y += core/ both/\nobj-$(CONFIG_DIAG) += mod/\nobj-m += both/\n"
                            "subdir-y += prog\nobj-$(CONFIG_OFF) += off/\n",
        "net/core/Makefile": "obj-y += dev.o deep/er/\n",
        "net/core/deep/er/Makefile": "obj-m += leaf.o\nobj-y += stem.o\n",
        "net/mod/Makefile": "obj-m += x.o\nobj-y += lost.o below/\n",
        "net/mod/below/Makefile": "obj-m := y-z.o\n",
        "net/both/Makefile": "obj-y := b.o\n",
        "net/both/Kbuild": "obj-y := kbuild.o\n",
        "net/prog/Makefile": "obj-y := p.o\nobj-m := q.o\nlib-y := r.o\n",
        "net/off/Makefile": "$(error it must not be read)\n",
    })  # fmt: skip
    assert objects(found, "net") == {
        "core/dev": ("vmlinux",), "core/deep/er/leaf": ("leaf",), "core/deep/er/stem": ("vmlinux",),
        "mod/x": ("x",), "mod/below/y-z": ("y_z",), "both/kbuild": ("vmlinux",),
    }  # fmt: skip
    assert found.modules == {"net/core/deep/er/leaf.ko", "net/mod/x.ko", "net/mod/below/y-z.ko"}
    assert found.apart == {"net/mod/lost", "net/prog/p", "net/prog/q", "net/prog/r"}


def test_a_folder_sees_nothing_of_another(tmp_path: Path) -> None:
    found = told(tmp_path, {
        "net/Makefile": "obj-y += a/ b/\n",
        "net/a/Makefile": "obj-y += kvm.o\nkvm-y := x.o\nmine := y.o\nODD_D := z.o\n",
        "net/b/Makefile": "obj-y += kvm.o $(mine) $(ODD_D)\n",
    })  # fmt: skip
    assert objects(found, "net") == {"a/x": ("vmlinux",), "b/kvm": ("vmlinux",)}


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    found = told(tmp_path, {
        "net/Makefile": "obj-y += a/ bad/ c/ none/ deeper/\n",
        "net/a/Makefile": "obj-y += x.o\n",
        "net/bad/Makefile": "obj-y += before.o\nendif\n",
        "net/c/Makefile": "obj-y += z.o\n",
        "net/deeper/Makefile": "obj-y += sub/\n$(obj)/x: ; true\n%.o x: y ; true\n",
        "net/deeper/sub/Makefile": "obj-y += w.o\n",
    })  # fmt: skip
    assert objects(found, "net") == {"a/x": ("vmlinux",), "c/z": ("vmlinux",)}
    assert found.unread == {"net/bad", "net/none", "net/deeper"}


def test_an_include_that_is_not_there(tmp_path: Path) -> None:
    found = told(tmp_path, {
        "net/Makefile": "obj-y += a/ b/ c/ bad/\n",
        "net/a/Makefile": "obj-y += x.o\ninclude $(src)/none.mk\n",
        "net/b/Makefile": "obj-y += y.o\ninclude $(srctree)/net/apart/part.mk\n-include none.mk\n",
        "net/apart/part.mk": "include net/apart/none.mk\n",
        "net/c/Makefile": "obj-y += z.o\n",
        "net/bad/Makefile": "endif\n",
    })  # fmt: skip
    assert objects(found, "net") == {"b/y": ("vmlinux",), "c/z": ("vmlinux",)}
    assert found.unread == {"net/a", "net/apart", "net/bad"}


def test_the_linking_script_compiles_too(tmp_path: Path) -> None:
    script = 'objs="${objs} init/version-timestamp.o"\nnm .tmp_vmlinux.o /x/y.o ${kallsymso}.o\n'
    assert told(tmp_path, {"net/Makefile": "", "scripts/link-vmlinux.sh": script}).apart == {"init/version-timestamp"}


def test_nothing_of_the_tree_is_run(tmp_path: Path) -> None:
    told(tmp_path, {
        "net/Makefile": "x := $(shell touch $(CURDIR)/ran)\ninclude made.mk\nmade.mk:\n\ttouch $(CURDIR)/ran\n",
    })  # fmt: skip
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("top", [None, "obj-y += init/\n"])
def test_a_tree_of_another_kind(tmp_path: Path, top: str | None) -> None:
    if top is not None:
        (tmp_path / "Kbuild").write_text(top)
    with pytest.raises(MalformedError, match="no Kbuild that names all others") as caught:
        evaluate(tmp_path, {})
    assert "--quick" in caught.value.hint


def test_top_makefiles_that_make_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(MalformedError, match="top Makefiles cannot be evaluated"):
        told(tmp_path, {"arch/x86/Makefile": "endif\n"})


def test_folders_without_end() -> None:
    def ask(folders: Sequence[str]) -> Answer:
        return Answer({folder: Asked({}, {}, below_built_in=("deeper/",)) for folder in folders}, (), whole=True)

    with pytest.raises(MalformedError, match="lead into more than"):
        walk(ask)


def test_names_that_are_no_folders() -> None:
    lines = ["folder .", "below-built-in a/ ../up/ $(x)/ b;c/ /etc/ -f/ d/./e/ f/../g/", "apart"]
    answer = read("".join(f"kmend-told {line}\n" for line in ["libraries lib/ |x/", *lines, "end"]))
    assert answer.found["."].below_built_in == ("a", "../up", "d/e", "g")
    assert (answer.libraries, answer.whole) == (("lib",), True)


def test_what_was_not_told_to_its_end_does_not_count() -> None:
    answer = read("kmend-told folder net\nkmend-told built-in a.o a.o\nkmend-told library\nnoise\n")
    assert answer == Answer({}, (), whole=False)


def test_a_configuration() -> None:
    config = {
        "CONFIG_A": "y",
        "CONFIG_B": "m",
        "CONFIG_C": "n",
        "CONFIG_D": '"a\\"b#$c"',
        "CONFIG_E": "0x10",
        "X Y": "y",
    }
    assert as_makefile(config) == 'CONFIG_A=y\nCONFIG_B=m\nCONFIG_D=a"b\\#$$c\nCONFIG_E=0x10\n'


def test_files_that_may_be_read() -> None:
    names = [
        "Makefile",
        "net/Kbuild",
        "virt/kvm/Makefile.kvm",
        "x/y.mk",
        "scripts/Kbuild.include",
        "scripts/link-vmlinux.sh",
    ]
    assert [name for name in [*names, "net/x.c", "net/NotMakefile", "scripts/other.sh"] if is_makefile(name)] == names
