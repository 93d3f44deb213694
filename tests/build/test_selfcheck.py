"""Files of a real kernel with a line more at the top: no change, built in or in a module."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.build.conftest import PROGRAM

from kmend.factory.kernels.prepared import Kernel
from kmend.factory.survey import selfcheck
from kmend.factory.survey.selfcheck import Verdict, candidates, check

VERSION = "fs/proc/version.c"


def _run(kernel: Kernel, folder: Path, count: int) -> dict[str, object]:
    words: list[str | Path] = [
        PROGRAM,
        "selfcheck",
        "--kernel",
        kernel.identity.ref,
        "--count",
        str(count),
        "--seed",
        "2",
    ]
    done = subprocess.run([*words, "--json", "-o", folder / "found.json"], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    assert json.loads((folder / "found.json").read_text()) == found
    return found


def test_a_few_files(prepared: Kernel, tmp_path: Path) -> None:
    found = _run(prepared, tmp_path, 4)
    assert (found["no_change"], found["exceptions"], found["seed"]) == (4, 0, 2)


@pytest.mark.slow
def test_many_files(prepared: Kernel, tmp_path: Path) -> None:
    found = _run(prepared, tmp_path, 80)
    assert (found["no_change"], found["exceptions"]) == (80, 0)


def test_nearly_every_compiled_file_is_a_candidate(prepared: Kernel) -> None:
    known = candidates(prepared)
    assert len(known) > 4000
    homes = {home for path in known for home in prepared.units[path]}
    assert "vmlinux" in homes
    assert len(homes) > 1000


def test_a_real_change_is_told_with_evidence(prepared: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself can fail: here the line that is added changes what the code refers to."""
    monkeypatch.setattr(selfcheck, "LINE", b"#define linux_proc_banner linux_banner")
    found = check(prepared, VERSION)
    assert found.verdict is Verdict.CHANGED
    (evidence,) = found.evidence
    assert (evidence.code, evidence.symbol) == ("changed-function", "version_proc_show")
    assert evidence.section == ".text.version_proc_show"
    assert evidence.offset > 0
    assert "linux_proc_banner+0x0 against linux_banner+0x0" in evidence.message


@pytest.mark.parametrize(
    "path",
    [
        # Several files of that name, and none of their local symbols to tell them apart.
        "lib/cmdline.c",
        # Objects without names that are reached only through each other.
        "drivers/comedi/drivers/ni_routing/ni_device_routes/pci-6221.c",
    ],
)
def test_files_that_were_once_taken_for_changed(prepared: Kernel, path: str) -> None:
    found = check(prepared, path)
    assert (found.verdict, found.evidence, found.message) == (Verdict.NO_CHANGE, (), "")
