"""What the command line does with mistakes, as a process: status, JSON document, hint; and what every error carries."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kmend
from kmend.core.errors import KmendError
from kmend.factory.build.refusal import RefusedError

PROGRAM = Path(sys.executable).parent / "kmend-factory"
ROOT = Path(kmend.__path__[0])
REF = "debian:6.1.0-50-cloud-amd64@6.1.176-1"


def run(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the program with a cache of its own."""
    environment = {**os.environ, "KMEND_CACHE": str(folder / "cache")}
    done = subprocess.run([PROGRAM, *words], env=environment, cwd=folder, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return done


MISTAKES = {
    "no option": (["build", "fix.patch"], "Missing option"),
    "no such command": (["bulid"], "No such command"),
    "no such option": (["kernel", "list", "--jsno"], "No such option"),
    "bad ref": (["build", "--kernel", "6.1", "-o", "out", "fix.patch"], "'6.1' is not a kernel ref"),
    "bad ref to prepare": (["kernel", "prepare", "6.1"], "'6.1' is not a kernel ref"),
    "bad ref to show": (["kernel", "show", "debian"], "'debian' is not a kernel ref"),
    "bad ref to keep": (["kernel", "prune", "--keep", "x"], "'x' is not a kernel ref"),
    "bad ref to check": (["selfcheck", "--kernel", "x"], "'x' is not a kernel ref"),
    "bad ref to survey": (["survey", "--kernel", "x", "--to", "6.1.187-1"], "'x' is not a kernel ref"),
    "bad ref to try": (["try", "--kernel", "x", "--test", "probe", "fix.patch"], "'x' is not a kernel ref"),
    "bad ref to compare with": (["build", "--kernel", REF, "--vendor", "x", "-o", "out", "fix.patch"], "'x' is not a kernel ref"),
    "level 0": (["build", "--kernel", REF, "--level", "0", "-o", "out", "fix.patch"], "is not in the range"),
    "level a": (["build", "--kernel", REF, "--level", "a", "-o", "out", "fix.patch"], "is not a valid integer"),
    "base of its own": (["build", "--kernel", REF, "--level", "2", "--base", "2", "-o", "out", "fix.patch"],
                        "level 2 cannot be built on level 2"),
    "no patch": (["build", "--kernel", REF, "-o", "out", "missing.patch"], "cannot read the fix missing.patch"),
    "no patch file": (["build", "--kernel", REF, "-o", "out", "prose.txt"], "holds no change"),
    "output is a file": (["build", "--kernel", REF, "-o", "prose.txt", "fix.patch"], "prose.txt is not a folder"),
    "output is foreign": (["build", "--kernel", REF, "-o", ".", "fix.patch"], "which does not belong to a livepatch"),
    "not a version": (["derive", "--from", "x", "--to", "6.1.187-1", "--file", "a.c", "-o", "a.patch"], "'x' is not a version"),
    "path out of the tree": (["derive", "--from", "6.1.176-1", "--to", "6.1.187-1", "--file", "../a.c", "-o", "a"], "'../a.c'"),
    "no folder for the patch": (["derive", "--from", "6.1.176-1", "--to", "6.1.187-1", "--file", "a.c", "-o", "no/a.patch"],
                                "is not a folder; make it first"),
    "facts into a folder": (["kernel", "facts", REF, "-o", "."], "is a folder; name a file"),
    "nothing to publish": (["publish", "--keys", "keys", "--repository", "r"], "give folders or packages to publish"),
    "not a build's folder": (["publish", "--keys", "keys", "--repository", "r", "."], "is not the whole folder of a livepatch"),
    "no repository": (["publish", "--keys", "keys", "--repository", "r", "--refresh"], "there is no repository at r"),
    "no manifest": (["reproduce", "missing"], "missing"),
    "no probe": (["try", "--kernel", REF, "--test", "missing", "fix.patch"], "cannot read the probe missing"),
    "thresholds": (["keys", "init", "k", "--root-keys", "1", "--root-threshold", "2"], "threshold"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to be wrong in."""
    found = tmp_path_factory.mktemp("mistakes")
    (found / "fix.patch").write_text("--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-a\n+b\n")
    (found / "prose.txt").write_text("Dear kernel,\nplease mend yourself.\n")
    return found


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_of_the_callers(name: str, folder: Path) -> None:
    """Status 2, one JSON document, the same for people on standard error, and nothing made or changed."""
    words, told = MISTAKES[name]
    before = {path.name for path in folder.iterdir()} | {"cache"}
    done = run(*words, "--json", folder=folder)
    assert done.returncode == 2, done.stdout + done.stderr
    error = json.loads(done.stdout)["error"]
    assert told in error["message"]
    assert told in done.stderr.replace("\n", " ")
    assert set(error) == {"kind", "message", "hint"}
    assert {path.name for path in folder.iterdir()} <= before


def test_lab_keeps_its_own_statuses(folder: Path) -> None:
    done = run("lab", "run", "--json", "--", "true", folder=folder)
    assert done.returncode == 125
    assert json.loads(done.stdout)["error"]["kind"] == "usage"
    # What stands after -- is the guest's.
    done = run("lab", "run", "--", "ip", "--json", folder=folder)
    assert (done.returncode, done.stdout) == (125, "")


def test_without_json_standard_output_stays_empty(folder: Path) -> None:
    done = run("kernel", "prepare", "6.1", folder=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "write distro:release@package-version" in done.stderr.replace("\n", " ")


def _raised() -> Iterator[tuple[str, type[KmendError]]]:
    """Every place in the factory where an error is raised without a hint of its own, and the error's class."""
    for path in sorted([*ROOT.glob("factory/**/*.py"), *ROOT.glob("trust/signing/*.py")]):
        module = importlib.import_module("kmend." + ".".join(path.relative_to(ROOT).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                kind = getattr(module, node.exc.func.id, None)
                given = any(word.arg == "hint" for word in node.exc.keywords)
                if inspect.isclass(kind) and issubclass(kind, KmendError) and not given:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", kind


def test_every_error_has_a_hint() -> None:
    """One of its own, or its class's; a refusal's hints are those of its reasons."""
    without = [
        place
        for place, kind in _raised()
        if not kind.default_hint and "__init__" not in vars(kind) and not issubclass(kind, RefusedError)
    ]
    assert without == []
