"""The page of the builder's cases names tests that exist, and every case that there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.vm.cases import builtin, tables

TOP = Path(__file__).parents[2]
PAGE = TOP / "docs/builder-cases.md"
ROW = re.compile(r"^\| (?!case \||-)(?P<case>[^|]+) \| (?P<what>[^|]+) \| (?P<expected>[^|]+) \| (?P<tests>[^|]+) \|$")
OWN = [*sorted(TOP.glob("tests/vm/cases/test_*.py")), TOP / "tests/build/test_builder_cases.py"]
CASES = {case.name for case in (*builtin.CASES, *tables.CASES)}


def rows() -> list[re.Match[str]]:
    """The rows of the page's tables."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    found = [row for line in lines if (row := ROW.match(line))]
    assert len(found) == len(lines) - 4, "two tables, each with a head and a rule"
    return found


def named() -> set[str]:
    """Every test that the page names."""
    return {test for row in rows() for test in re.findall(r"`([^`]+)`", row["tests"])}


def listed_in(path: Path) -> set[str]:
    """The tests of a file, as the page names them."""
    tree = ast.parse(path.read_text())
    functions = (node.name for node in tree.body if isinstance(node, ast.FunctionDef))
    return {f"{path.relative_to(TOP)}::{name}" for name in functions if name.startswith("test_")}


def test_each_case_is_named_once() -> None:
    names = [row["case"] for row in rows()]
    assert len(names) == len(set(names))
    assert all(re.search("`[^`]+`", row["tests"]) for row in rows())


def test_every_test_that_is_named_exists() -> None:
    for test in named():
        short = re.fullmatch(r"builtin\[(.+)\]", test)
        if short:
            assert short[1] in CASES
        else:
            path, _, _ = test.partition("::")
            assert test in listed_in(TOP / path), test


def test_every_case_is_named() -> None:
    assert {f"builtin[{name}]" for name in CASES} <= named()
    there = set().union(*(listed_in(path) for path in OWN)) - {"tests/vm/cases/test_builtin.py::test_case"}
    assert there <= named(), sorted(there - named())
