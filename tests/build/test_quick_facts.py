"""Kernel facts by kbuild, held against those of the debug information of the same kernel: file by file."""

from __future__ import annotations

import re

import pytest

from kmend.core.facts import KernelFacts, MadeFrom
from kmend.core.kernel import KernelRef
from kmend.factory.kernels.prepared import Kernel
from kmend.factory.kernels.quickfacts import facts_by_kbuild, quick_facts

GENERATED = re.compile(
    r".*\.mod\.c|\.vmlinux\.export\.c"  # by modpost, for each module and for vmlinux
    r"|.*\.asn1\.c"
    r"|lib/raid6/(int\d+|tables)\.c"
    r"|arch/x86/entry/vdso/vdso-image-(32|64|x32)\.c"
    r"|arch/x86/kernel/cpu/capflags\.c"
    r"|arch/x86/crypto/poly1305-x86_64-cryptogams\.S"
    r"|drivers/tty/vt/(consolemap_deftbl|defkeymap)\.c"
    r"|drivers/scsi/aic7xxx/aic7\w+_(seq|reg_print)\.c"
    r"|drivers/gpu/drm/radeon/\w+_reg_safe\.c"
    r"|fs/unicode/utf8data\.c"
)
"""Compiled, and not of the source package."""
BY_OTHER_RULES = {
    "init/version-timestamp.c",  # by scripts/link-vmlinux.sh
    "tools/lib/bpf/relo_core.c",  # as kernel/bpf/relo_core.o
    "arch/x86/include/asm/GEN-for-each-reg.h",  # as which arch/x86/lib/retpoline.S stands in the line tables
}
"""Compiled, and left open."""
NOT_PUBLISHED = {"CONFIG_BUILD_SALT", "CONFIG_MODULE_SIG_ALL", "CONFIG_MODULE_SIG_KEY", "CONFIG_SYSTEM_TRUSTED_KEYS"}
"""Options that only the headers package's configuration has; that of the image package goes without."""
WITHOUT_LINES = ("arch/x86/lib/retpoline.S", "usr/initramfs_data.S", "certs/system_certificates.S")
"""Assembly of which the line tables do not speak."""


@pytest.fixture(scope="module")
def quick(prepared: Kernel) -> KernelFacts:
    return facts_by_kbuild(KernelRef.parse(prepared.identity.ref))


def test_the_same_kernel(prepared: Kernel, quick: KernelFacts) -> None:
    assert quick.kernel == prepared.identity
    options = quick.config.keys() | prepared.config.keys()
    assert {name for name in options if quick.config.get(name) != prepared.config.get(name)} <= NOT_PUBLISHED
    assert sorted(quick.modules, key=lambda module: module.path) == sorted(
        prepared.modules, key=lambda module: module.path
    )
    assert quick.made_from is MadeFrom.KBUILD


def test_every_file_that_was_compiled_is_said_to_be(prepared: Kernel, quick: KernelFacts) -> None:
    missing = prepared.facts().sources.keys() - quick.sources.keys()
    assert {file for file in missing if not GENERATED.fullmatch(file)} <= BY_OTHER_RULES


def test_no_other_file_is_said_to_be(prepared: Kernel, quick: KernelFacts) -> None:
    assert not quick.sources.keys() - prepared.facts().sources.keys()


@pytest.mark.parametrize("file", WITHOUT_LINES)
def test_assembly_without_lines_is_known_all_the_same(prepared: Kernel, quick: KernelFacts, file: str) -> None:
    assert file not in prepared.units
    assert prepared.facts().sources[file] == quick.sources[file] == ("vmlinux",)


def test_linker_scripts_are_not_left_out(prepared: Kernel, quick: KernelFacts) -> None:
    for facts in (prepared.facts(), quick):
        assert not [file for file in facts.left_out if file == "arch/x86/kernel/vmlinux.lds.S"]


def test_they_are_in_the_same_objects(prepared: Kernel, quick: KernelFacts) -> None:
    exact = prepared.facts().sources
    assert {
        file: (objects, exact[file]) for file, objects in quick.sources.items() if exact.get(file, objects) != objects
    } == {}


def test_nothing_that_was_compiled_is_said_to_be_left_out(prepared: Kernel, quick: KernelFacts) -> None:
    assert not prepared.facts().sources.keys() & set(quick.left_out)
    known = len(quick.sources) + len(quick.left_out)
    assert known > 0.9 * (len(prepared.facts().sources) + len(prepared.facts().left_out))


def test_a_prepared_kernel_is_asked_itself(prepared: Kernel) -> None:
    assert quick_facts(KernelRef.parse(prepared.identity.ref)).made_from is MadeFrom.DEBUG_INFORMATION
