"""What became of hunks, and of functions without any, in small files that are compiled before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.fixmaker import Edit, FixMaker
from tests.unit.factory.compiling import KERNEL_FLAGS, compile_c

from kmend.core.manifest import Notice
from kmend.factory.build.compare import compare
from kmend.factory.build.safety.changes import FileChanges
from kmend.factory.build.safety.hunks import UnitView, hunk_notices
from kmend.factory.build.safety.reach import WIDE, reach_notices, reached
from kmend.factory.build.special import INIT_CODE
from kmend.factory.build.unit import Unit
from kmend.factory.elf import read_object
from kmend.factory.elf.inlining import read_inlining
from kmend.factory.fixes import Fix, apply_series

FILE = """
extern int outside(int);
#define LIMIT 10
#define OTHER(n) ((n) < LIMIT)
static inline int helper(int n)
{
	return outside(n) + 1;
}

int one(int n)
{
	return helper(n);
}

int two(int n)
{
	return OTHER(n) ? outside(n) : 0;
}

#ifdef CONFIG_OFF
int three(int n)
{
	return outside(3);
}
#endif

static inline int unused(int n)
{
	return outside(4);
}

__attribute__((section(".init.text"))) int start(int n)
{
	return outside(5);
}
"""
CONFIG = {"CONFIG_OFF": "n"}


class Changed:
    """The file, changed by edits of a fix each, and compiled."""

    def __init__(self, tree: Path, *fixes: Sequence[Edit], text: str = FILE) -> None:
        (tree / "unit.c").write_text(text)
        maker = FixMaker(tree)
        series: list[Fix] = []
        for edits in fixes:
            series.append(maker.fix(*edits))
            for edit in edits:
                now = (tree / "unit.c").read_text()
                (tree / "unit.c").write_text(now.replace(edit.old, edit.new))
        file = apply_series({"unit.c": text.encode()}.get, series)["unit.c"]
        old, new = (compile_c(side.decode(), *KERNEL_FLAGS, "-g") for side in (file.original, file.patched))
        comparison = compare(Unit("unit.c", read_object(old)), Unit("unit.c", read_object(new)))
        # What the policy takes out once it has been vouched for.
        comparison.changed[:] = [pair for pair in comparison.changed if not INIT_CODE.match(pair[0].section.name)]
        self.unit = UnitView(comparison, False, read_inlining(new))
        self.file = FileChanges(file)

    @property
    def notices(self) -> list[Notice]:
        """What is said of its hunks."""
        return list(hunk_notices([self.file], [self.unit], CONFIG))


REAL = Edit("unit.c", "return helper(n);", "return helper(n) * 2;")


@pytest.mark.parametrize(
    ("old", "new", "code", "said"),
    [
        ("outside(3)", "outside(33)", "hunk-left-out", "leaves it out, by #ifdef CONFIG_OFF"),
        ("outside(4)", "outside(44)", "hunk-unused", "no code of this kernel uses unused"),
        ("outside(5)", "outside(55)", "hunk-in-init-code", "does not run again: start"),
        ("return OTHER(n) ?", "return OTHER((n)) ?", "hunk-without-effect", "the code stays the same of two"),
        ("#define LIMIT 10", "#define LIMIT (5 + 5)", "hunk-without-effect", "the code stays the same of LIMIT"),
        ("outside(n) + 1", "outside(n) + 2", "", ""),
        ("#define LIMIT 10", "#define LIMIT 11", "", ""),
        ("OTHER(n) ?", "OTHER(n) /* so */ ?", "", ""),
        ("\nint two", "\n\n\nint two", "", ""),
        ("int two(int n)\n{", "int two(int n) {", "", ""),
        ("outside(3)", "outside( 3 )", "", ""),
    ],
)
def test_hunks(tmp_path: Path, old: str, new: str, code: str, said: str) -> None:
    found = Changed(tmp_path, [REAL, Edit("unit.c", old, new, first=True)]).notices
    assert [notice.code for notice in found] == ([code] if code else [])
    assert not code or found[0].message.endswith(said)


def test_hunks_are_counted_where_that_means_something(tmp_path: Path) -> None:
    one = Edit("unit.c", "outside(4)", "outside(44)")
    (alone,) = Changed(tmp_path, [REAL, one]).notices
    assert alone.message.startswith("hunk 2 of unit.c: ")
    (both,) = Changed(tmp_path, [REAL], [one]).notices
    assert both.message.startswith("unit.c: "), "each fix counts its own"


def test_a_file_without_any_effect_is_told_of_elsewhere(tmp_path: Path) -> None:
    assert Changed(tmp_path, [Edit("unit.c", "return OTHER(n) ?", "return OTHER((n)) ?")]).notices == []


def test_functions_without_a_changed_line(tmp_path: Path) -> None:
    changed = Changed(tmp_path, [Edit("unit.c", "outside(n) + 1", "outside(n) + 2")])
    told = list(reached(changed.unit, changed.file.functions))
    assert told == ["one has no changed line of its own: helper is inlined into it"]
    changed = Changed(tmp_path, [Edit("unit.c", "#define LIMIT 10", "#define LIMIT 11")])
    (why,) = reached(changed.unit, changed.file.functions)
    assert why.startswith("two has no changed line of its own: a macro, a type")
    changed = Changed(tmp_path, [REAL])
    assert list(reached(changed.unit, changed.file.functions)) == []


def test_many_functions(tmp_path: Path) -> None:
    text = FILE + "".join(f"int user{n}(int n)\n{{\n\treturn helper({n}) + {n};\n}}\n\n" for n in range(WIDE))
    changed = Changed(tmp_path, [Edit("unit.c", "outside(n) + 1", "outside(n) + 2")], text=text)
    told = [("unit.c", sentence) for sentence in reached(changed.unit, changed.file.functions)]
    assert len(told) == WIDE + 1
    (notice,) = reach_notices(told)
    assert notice.code == "many-functions"
    assert f"{WIDE + 1} functions" in notice.message
    assert list(reach_notices(told[:-1])) == []
