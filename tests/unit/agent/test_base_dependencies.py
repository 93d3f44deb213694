"""The agent as the packages carry it, with nothing else on the interpreter's path: the whole way on a simulated host.

The repository is signed here; what verifies it runs in a process of its own, where there is no `cryptography`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.agent.conftest import Published

ROOT = Path(__file__).parents[3]
SYSTEM = Path("/usr/bin/python3")
DRIVER = """
import json, sys
sys.path[:0] = [sys.argv[1]]
sys.path.append(sys.argv[2])
from pathlib import Path
from kmend.agent.main import main
from kmend.agent.paths import Paths
from kmend.agent.session import Host
from tests.unit.agent.simulated import SimulatedClock, SimulatedKernel

paths = Paths(Path(sys.argv[3]))
kernel = SimulatedKernel(paths)
kernel.boot()
host = Host(paths, SimulatedClock(kernel), lambda: kernel, lambda: None)
done = [main(words, host=host) for words in json.loads(sys.argv[4])]
third = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
print(json.dumps([done, sorted(third)]), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent's tree."""
    folder = tmp_path_factory.mktemp("tree") / "agent"
    subprocess.run(
        [sys.executable, ROOT / "packaging/agent_tree.py", folder], check=True, capture_output=True, timeout=120
    )
    return folder / "lib"


@pytest.mark.parametrize("interpreter", sorted({sys.executable, str(SYSTEM)}))
def test_the_whole_way_with_base_dependencies_only(
    interpreter: str, library: Path, published: Published, tmp_path: Path
) -> None:
    config = tmp_path / "etc/kmend"
    config.mkdir(parents=True)
    (config / "agent.toml").write_text(f'[repository]\nurl = "{published.folder.as_uri()}"\n')
    (config / "root.json").write_bytes(published.root.read_bytes())
    commands = [["check"], ["update", "--level", "1"], ["update"], ["status", "--exit-code"], ["rollback"], ["unload"]]
    arguments = [str(library), str(ROOT), str(tmp_path), json.dumps(commands)]
    done = subprocess.run(
        [interpreter, "-I", "-S", "-c", DRIVER, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": os.environ["PATH"]},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    statuses, modules = json.loads(done.stderr.splitlines()[-1])
    assert statuses[:4] == [0, 0, 0, 0], done.stderr
    assert {"kmend", "securesystemslib", "tuf", "urllib3"} <= set(modules)
    assert set(modules) <= {"kmend", "securesystemslib", "tests", "tomli", "tuf", "urllib3", "__main__", "__mp_main__"}
