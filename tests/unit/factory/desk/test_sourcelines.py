"""addr2line's answers, and the paths of the distro's debug information."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.factory.compiling import compile_c

from kmend.core.process import ProgramFailedError
from kmend.factory.desk.sourcelines import SourceLine, _parse, plain_path, source_lines

TEXT = """\
extern void g(int);
static inline __attribute__((always_inline)) void inner(int a) {
	g(a);
}
#line 7 "fixed/fs/a.c"
void f(int a) {
	inner(a);
#line 3 "fs/a.c"
}
"""


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    path = tmp_path / "unit.o"
    path.write_bytes(compile_c(TEXT, "-O2", "-g", "-ffunction-sections"))
    return path


def test_functions_put_into_others_and_added_lines(compiled: Path) -> None:
    found = source_lines(compiled, ".text.f", [0, 1000])
    assert set(found) == {0}
    inner, outer = found[0]
    assert (inner.function, inner.line, inner.added) == ("inner", 3, False)
    assert (outer.function, outer.line) == ("f", 8)
    assert outer.file.endswith("/fixed/fs/a.c"), "the compiler's folder is left out of it by the factory's own command"


def test_added_lines_are_told() -> None:
    answer = "0x0000000000000010\nf\n./fixed/fs/a.c:8 (discriminator 2)\n0x0000000000000020\n??\n??:0\n"
    assert _parse(answer) == {16: (SourceLine("f", "fs/a.c", 8, added=True),)}


def test_nothing_asked_and_no_such_file(compiled: Path, tmp_path: Path) -> None:
    assert source_lines(compiled, ".text.f", []) == {}
    with pytest.raises(ProgramFailedError):
        source_lines(tmp_path / "absent", None, [1])


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("./fs/a.c", "fs/a.c"),
        ("././include/linux/b.h", "include/linux/b.h"),
        ("debian/build/build_amd64_none_cloud-amd64/fs/seq_file.c", "fs/seq_file.c"),
        ("/build/reproducible-path/linux-6.1.176/arch/x86/entry/entry_64.S", "arch/x86/entry/entry_64.S"),
        ("./arch/x86/kvm/../../../virt/kvm/kvm_main.c", "virt/kvm/kvm_main.c"),
        ("/usr/include/stdio.h", "/usr/include/stdio.h"),
    ],
)
def test_paths_are_the_trees_own(path: str, plain: str) -> None:
    assert plain_path(path) == plain
