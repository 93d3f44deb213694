"""The line that takes a host in, as the server prints it and a shell runs it, over real TLS that no authority knows."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.server.operations.running import PATIENCE, Running
from tests.unit.server.operations.test_founding import run
from tests.unit.server.operations.test_serving import told

from kmend.factory.main import cli as factory
from packager.offer import make_script

TOOLS = {
    "curl": 'exec {python} -c \'{fetch}\' "$3" "$2"',
    "wget": 'exec {python} -c \'{fetch}\' "$5" "$4"',
    "python3": 'exec {python} "$@"',
}
FETCH = (
    "import ssl, sys, urllib.request as r; "
    'open(sys.argv[2], "wb").write(r.urlopen(sys.argv[1], context=ssl._create_unverified_context()).read())'
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with a package and the script that installs it in its repository."""
    folder = tmp_path_factory.mktemp("line")
    made = Running(folder, one_box=True)
    package = folder / "kmend_9_all.deb"
    package.write_bytes(b"a package")
    script = make_script(folder, [package])
    files = ("--agent-package", package, "--agent-package", script)
    data = folder / "data"
    out = run("publish", "--keys", data / "keys", "--repository", data / "repository", *files, program=factory)
    assert hashlib.sha256(script.read_bytes()).hexdigest() in out
    yield made
    made.close()


def line_of(served: Running) -> dict[str, str]:
    """An answer with a line; the watcher needs a moment to import the repository."""
    for _ in range(200):
        made: dict[str, str] = told(served, "keys", "create", "--ring", "default")
        if made["line"]:
            return made
    raise AssertionError(made)


@pytest.mark.parametrize("tool", sorted(TOOLS))
def test_a_host_runs_the_signed_script_with_what_it_is_to_believe(served: Running, tmp_path: Path, tool: str) -> None:
    made = line_of(served)
    tools = tmp_path / "tools"
    tools.mkdir()
    programs = {
        tool: TOOLS[tool].format(python=sys.executable, fetch=FETCH),
        "sh": 'echo "$KMEND_ENROLMENT_KEY" "$@" >> "$0.log"',
        "sha256sum": 'exec /usr/bin/sha256sum "$@"',
    }
    for name, text in programs.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "-c", made["line"]], env={"PATH": str(tools)}, cwd=tmp_path, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "kmend-install.sh").read_bytes() == (served.folder / "kmend-install.sh").read_bytes()
    key, script, *options = (tools / "sh.log").read_text().split()
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert (key, script) == (made["secret"], "kmend-install.sh")
    root = (served.folder / "data/root.json").read_bytes()
    assert given == {
        "--repository": f"https://localhost:{served.port}/repository",
        "--root": f"{json.loads(root)['signed']['version']}:{hashlib.sha256(root).hexdigest()}",
        "--server": f"https://localhost:{served.port}",
        "--pin": served.made.pin,
    }
    # What the script is to fetch is there, as it is named.
    version, digest = given["--root"].split(":")
    assert hashlib.sha256(served.get(f"/repository/metadata/{version}.root.json").data).hexdigest() == digest
    package = hashlib.sha256(b"a package").hexdigest()
    assert served.get(f"/repository/targets/agent/{package}.kmend_9_all.deb").data == b"a package"


def test_a_script_that_was_changed_is_not_run(served: Running, tmp_path: Path) -> None:
    """By whoever has the server: the digest in the line is that of the signed one."""
    made = line_of(served)
    (script,) = (served.folder / "data/repository/targets/agent").glob("*.kmend-install.sh")
    whole = script.read_bytes()
    script.write_bytes(whole + b"# changed\n")
    try:
        tools = tmp_path / "tools"
        tools.mkdir()
        for name, text in {"sh": 'touch "$0.log"', "sha256sum": 'exec /usr/bin/sha256sum "$@"',
                           "python3": f'exec {sys.executable} "$@"'}.items():  # fmt: skip
            (tools / name).write_text(f"#!/bin/sh\n{text}\n")
            (tools / name).chmod(0o755)
        command = ["/bin/sh", "-c", made["line"]]
        done = subprocess.run(
            command, env={"PATH": str(tools)}, cwd=tmp_path, capture_output=True, timeout=PATIENCE, check=False
        )
    finally:
        script.write_bytes(whole)
    assert done.returncode != 0
    assert not (tools / "sh.log").exists()
