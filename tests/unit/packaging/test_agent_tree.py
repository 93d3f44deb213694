"""What may get into the agent's tree: the pinned wheels, and nothing compiled."""

from __future__ import annotations

import hashlib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import tomllib

import agent_tree

ROOT = Path(__file__).parents[3]


def wheel(path: Path, *names: str) -> str:
    """A wheel with files of these names; its digest."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "pass")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_list_is_what_the_base_install_needs() -> None:
    """Every dependency without an extra, at the version of constraints.txt, and what those need in turn."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting, needed = list(project["dependencies"]), set()
    while waiting:
        requirement, _, marker = waiting.pop().partition(";")
        name = requirement.strip().split("<")[0].split(">")[0].split("~")[0].split("=")[0].strip()
        if "extra" in marker or name in needed:
            continue
        needed.add(name)
        waiting += [] if "python_version" in marker else metadata.requires(name) or []
    locked = agent_tree.dependencies()
    assert {item.name for item in locked} == needed
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    assert {item.name: item.version for item in locked} == {name: pinned[name] for name in needed}


@pytest.mark.parametrize("name", ["fast.so", "fast.cpython-311-x86_64-linux-gnu.so", "fast.pyd", "libfast.so.1"])
def test_compiled_is_refused(tmp_path: Path, name: str) -> None:
    digest = wheel(tmp_path / "a-1-py3-none-any.whl", "a/__init__.py", f"a/{name}")
    with pytest.raises(agent_tree.TreeError, match="which is compiled"):
        agent_tree.unpack(tmp_path / "a-1-py3-none-any.whl", digest, tmp_path / "lib")


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil.py", "a/../../evil.py"])
def test_a_way_out_of_the_tree_is_refused(tmp_path: Path, name: str) -> None:
    digest = wheel(tmp_path / "a.whl", name)
    with pytest.raises(agent_tree.TreeError, match="leads out of the tree"):
        agent_tree.unpack(tmp_path / "a.whl", digest, tmp_path / "lib")
    assert not (tmp_path / "lib").exists()


def test_another_wheel_or_none_is_refused(tmp_path: Path) -> None:
    wheel(tmp_path / "a.whl", "a.py")
    with pytest.raises(agent_tree.TreeError, match="is not the file that"):
        agent_tree.unpack(tmp_path / "a.whl", "0" * 64, tmp_path / "lib")
    with pytest.raises(agent_tree.TreeError, match="run make setup"):
        agent_tree.unpack(tmp_path / "b.whl", "0" * 64, tmp_path / "lib")


def test_a_list_of_another_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("# why\n\ntuf>=7\n")
    with pytest.raises(agent_tree.TreeError, match="not NAME==VERSION"):
        agent_tree.dependencies(tmp_path / "list")
