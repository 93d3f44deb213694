"""`make lint` finds what is compiled, what needs a newer Python, and code that does."""

from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

import agent_tree
import check_dependencies

ROOT = Path(__file__).parents[3]
OLDEST = Version("3.10")


def wheel(
    folder: Path, *, pure: str = "true", tag: str = "py3-none-any", requires: str = ">=3.8", content: str = "a.py"
) -> Path:
    """A wheel that says this of itself."""
    path = folder / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(content, "")
        archive.writestr("a-1.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: {pure}\nTag: {tag}\n")
        archive.writestr("a-1.dist-info/METADATA", f"Name: a\nRequires-Python: {requires}\n")
    return path


def check(path: Path) -> None:
    check_dependencies.check(path, hashlib.sha256(path.read_bytes()).hexdigest(), OLDEST)


def test_what_the_agent_carries_is_pure() -> None:
    check_dependencies.main()
    assert check_dependencies.oldest_of(">=3.10") == OLDEST


def test_a_pure_wheel_passes(tmp_path: Path) -> None:
    check(wheel(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pure": "false"}, "is not pure Python"),
        ({"tag": "cp311-cp311-manylinux_2_17_x86_64"}, "is not pure Python"),
        ({"requires": ">=3.11"}, "needs Python >=3.11"),
        ({"content": "a/_speedups.abi3.so"}, "which is compiled"),
    ],
)
def test_others_do_not(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(agent_tree.TreeError, match=message):
        check(wheel(tmp_path, **changes))


@pytest.mark.parametrize(
    "code",
    [
        "try:\n    pass\nexcept* ValueError:\n    pass\n",  # grammar of 3.11
        "import tomllib\n",  # standard library of 3.11
        "import datetime\nnow = datetime.UTC\n",  # an attribute of 3.11
        "type Alias = int\n",  # grammar of 3.12
    ],
)
def test_code_for_a_newer_python_is_found(tmp_path: Path, code: str) -> None:
    (tmp_path / "newer.py").write_text(code)
    command = [
        str(Path(sys.executable).parent / "vermin"),
        "-t=3.10-",
        "--violations",
        "--no-tips",
        "-q",
        str(tmp_path),
    ]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode != 0


@pytest.mark.parametrize("room", ["core", "trust", "agent"])
def test_the_agent_is_of_the_oldest_grammar(room: str) -> None:
    for path in sorted((ROOT / "src/kmend" / room).rglob("*.py")):
        ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 10))
