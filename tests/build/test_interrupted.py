"""Builds that are stopped, killed, or run side by side; kernels whose files are damaged. In a cache of their own, linked to the
shared one, whose files are never written in place."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.build.conftest import PROGRAM
from tests.fixmaker import Edit, FixMaker

from kmend.core.cache import cache_root, locked
from kmend.core.process import run
from kmend.core.scratch import scratch_folder
from kmend.factory.kernels.prepared import Kernel

VERSION, LOADAVG = "fs/proc/version.c", "fs/proc/loadavg.c"


def _linked(prepared: Kernel, folder: Path, *, tree: bool) -> None:
    """The kernel in a cache at `folder`: files are hard links, so removing one removes nothing of the shared cache."""
    kernel = folder / "kernels" / prepared.folder.name
    kernel.mkdir(parents=True)
    (folder / "packages").symlink_to(cache_root() / "packages")
    run(["cp", "-al", prepared.folder / "index", prepared.folder / "prepared.json", kernel])
    if tree:
        with locked(prepared.folder / "tree.lock"):
            run(["cp", "-al", prepared.folder / "tree", *prepared.folder.glob("tree-*.json"), kernel])
        # kbuild writes these in place, and a hard link would carry that over.
        for note in (kernel / "tree/fs/proc").glob(".*.cmd"):
            note.unlink()
    else:
        (kernel / "tree").symlink_to(prepared.tree.path)


@pytest.fixture(scope="module")
def linked(prepared: Kernel) -> Iterator[Path]:
    """A cache whose kernel can compile."""
    with scratch_folder("test", cache_root()) as folder:
        _linked(prepared, folder, tree=True)
        yield folder


@pytest.fixture
def cache(linked: Path) -> Path:
    """That cache without compiled originals."""
    shutil.rmtree(next((linked / "kernels").iterdir()) / "originals", ignore_errors=True)
    return linked


@pytest.fixture
def index_only(prepared: Kernel) -> Iterator[Path]:
    """A cache with a kernel that can be damaged."""
    with scratch_folder("test", cache_root()) as folder:
        _linked(prepared, folder, tree=False)
        yield folder


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts the program in a cache, with a TMPDIR of its own."""
    (tmp_path / "tmp").mkdir()

    def begin(cache: Path, *words: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [PROGRAM, *words],
            env={**os.environ, "KMEND_CACHE": str(cache), "TMPDIR": str(tmp_path / "tmp")},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


def patch(maker: FixMaker, folder: Path, path: str) -> Path:
    """A patch that changes a file's show function."""
    name = folder / f"{Path(path).stem}.patch"
    name.write_text(
        maker.patch([Edit(path, "\treturn 0;\n}\n\nstatic int __init", "\treturn 1;\n}\n\nstatic int __init")])
    )
    return name


def leftovers(cache: Path, tmp_path: Path) -> list[str]:
    """Temporary folders and the note of an unfinished make."""
    kernel = next((cache / "kernels").iterdir())
    found = [*kernel.glob(".kmend-*"), *kernel.glob("tree.making"), *(tmp_path / "tmp").iterdir()]
    return sorted(path.name for path in found)


def at_the_first_compile(cache: Path) -> None:
    """Wait until the compiler is at work in the tree."""
    tree = str(next((cache / "kernels").iterdir()) / "tree")
    deadline = time.monotonic() + 60
    while not any(_compiles_in(path, tree) for path in Path("/proc").glob("[0-9]*")):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _compiles_in(process: Path, folder: str) -> bool:
    try:
        return str((process / "cwd").readlink()) == folder and "gcc" in (process / "comm").read_text()
    except OSError:
        return False


def test_stopped_or_killed_in_its_first_compile(
    start: Start, cache: Path, prepared: Kernel, maker: FixMaker, tmp_path: Path
) -> None:
    words = (
        "build",
        "--kernel",
        prepared.identity.ref,
        patch(maker, tmp_path, VERSION),
        "-o",
        tmp_path / "out",
        "--json",
    )
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        child = start(cache, *words)
        at_the_first_compile(cache)
        child.send_signal(number)
        stdout, stderr = child.communicate(timeout=60)
        if number == signal.SIGKILL:
            assert child.returncode == -signal.SIGKILL
            continue
        assert child.returncode == 128 + number
        assert json.loads(stdout)["error"]["kind"] == "interrupted"
        assert stderr.splitlines()[-1] == "interrupted"
        assert "does not compile" not in stderr
        assert not (tmp_path / "out").exists()
        assert leftovers(cache, tmp_path) in ([], ["tree.making"])
    again = start(cache, *words)
    stdout, stderr = again.communicate(timeout=120)
    assert again.returncode == 0, stderr
    assert json.loads(stdout)["outcome"] == "built"
    assert leftovers(cache, tmp_path) == []


def test_what_a_dead_make_left_in_the_tree_is_not_believed(
    start: Start, cache: Path, prepared: Kernel, maker: FixMaker, tmp_path: Path
) -> None:
    kernel = next((cache / "kernels").iterdir())
    made = start(
        cache,
        "build",
        "--kernel",
        prepared.identity.ref,
        patch(maker, tmp_path, VERSION),
        "-o",
        tmp_path / "one",
        "--json",
    )
    stdout, stderr = made.communicate(timeout=120)
    assert made.returncode == 0, stderr + stdout
    module = json.loads(stdout)["manifest"]["module"]
    # As if make had died while it wrote the object and a generated header: both newer than the note, and "up to date".
    shutil.rmtree(kernel / "originals")
    (kernel / "tree.making").write_text("")
    time.sleep(0.05)
    (kernel / "tree/fs/proc/version.o").write_bytes(b"\x7fELF half of an object")
    (kernel / "tree/fs/proc/half.h").write_text("#define HALF")
    again = start(
        cache,
        "build",
        "--kernel",
        prepared.identity.ref,
        patch(maker, tmp_path, VERSION),
        "-o",
        tmp_path / "two",
        "--json",
    )
    stdout, stderr = again.communicate(timeout=120)
    assert again.returncode == 0, stderr
    assert json.loads(stdout)["manifest"]["module"] == module
    assert not (kernel / "tree/fs/proc/half.h").exists()
    assert not (kernel / "tree.making").exists()


def test_builds_side_by_side(start: Start, cache: Path, prepared: Kernel, maker: FixMaker, tmp_path: Path) -> None:
    """Three processes that all need originals that nobody has compiled yet, two of them the same one."""
    ref = prepared.identity.ref
    patches = [patch(maker, tmp_path, path) for path in (VERSION, LOADAVG, VERSION)]
    children = [
        start(cache, "build", "--kernel", ref, name, "-o", tmp_path / f"out-{number}", "--json")
        for number, name in enumerate(patches)
    ]
    outputs = [child.communicate(timeout=180) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], outputs
    modules = [json.loads(stdout)["manifest"]["module"]["sha256"] for stdout, _ in outputs]
    assert modules[0] == modules[2] != modules[1]
    assert leftovers(cache, tmp_path) == []


DAMAGES: dict[str, tuple[str, bytes | None]] = {
    "no record": ("prepared.json", None),
    "an empty record": ("prepared.json", b""),
    "half a record": ("prepared.json", b'{"index_version": 2, "identity": {'),
    "another record": ("prepared.json", b'{"index_version": 2}'),
    "a record that is no object": ("prepared.json", b"[]"),
    "half a list of files": ("index/units.json", b'{"fs/proc/version.c": ["vmlin'),
    "no symbols": ("index/symbols.npy", None),
    "no sections": ("index/sections.json", b"{}"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_kernel_is_told_of(start: Start, index_only: Path, prepared: Kernel, damage: str) -> None:
    name, content = DAMAGES[damage]
    kernel = next((index_only / "kernels").iterdir())
    (kernel / name).unlink()
    if content is not None:
        (kernel / name).write_bytes(content)
    before = sorted(path.name for path in kernel.iterdir())
    shown = start(index_only, "kernel", "show", prepared.identity.ref, "--json")
    stdout, stderr = shown.communicate(timeout=60)
    assert shown.returncode == 1, stderr
    error = json.loads(stdout)["error"]
    assert error["kind"] == "kernel-damaged"
    assert str(kernel) in error["message"]
    assert error["hint"].endswith(f"kmend-factory kernel prepare {prepared.identity.ref}")
    listed = start(index_only, "kernel", "list", "--json")
    stdout, stderr = listed.communicate(timeout=60)
    if name == "prepared.json":
        assert (listed.returncode, json.loads(stdout)) == (1, [])
        assert "is damaged" in stderr
        assert "kmend-factory kernel prepare" in stderr
    assert sorted(path.name for path in kernel.iterdir() if path.name != "use.lock") == before


@pytest.mark.slow
def test_two_prepare_a_damaged_kernel_at_once(start: Start, index_only: Path, prepared: Kernel) -> None:
    kernel = next((index_only / "kernels").iterdir())
    (kernel / "prepared.json").unlink()
    children = [start(index_only, "kernel", "prepare", prepared.identity.ref, "--json") for _ in range(2)]
    outputs = [child.communicate(timeout=600) for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    records = [json.loads(stdout) for stdout, _ in outputs]
    assert records[0] == records[1]
    assert records[0]["identity"]["build_id"] == prepared.identity.build_id
    assert sorted(path.name for path in (index_only / "kernels").iterdir() if path.is_dir()) == [kernel.name]
    shown = start(index_only, "kernel", "show", prepared.identity.ref, "--json")
    assert shown.wait(60) == 0
