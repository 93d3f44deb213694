"""Runs the agent's own code on a simulated host, in a process that has nothing but the agent's tree; `bench.agent` starts it.

    agent_driver.py LIBRARY CHECKOUT HOST prepare|check COUNT

`check` prints, for each check, its CPU seconds and the resident memory after it, in bytes.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import ssl
import sys
import time
from pathlib import Path

library, checkout, folder, mode, count = sys.argv[1:6]
sys.path.insert(0, library)
sys.path.append(checkout)
certificate = Path(folder).parent / "server.pem"
if certificate.exists():
    os.environ["SSL_CERT_FILE"] = str(certificate)

from tests.unit.agent.simulated import SimulatedClock, SimulatedKernel  # noqa: E402

from kmend.agent.main import main  # noqa: E402
from kmend.agent.paths import Paths  # noqa: E402
from kmend.agent.session import Host  # noqa: E402


def resident() -> int:
    """Bytes of this process in memory (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(*words: str) -> None:
    """One command; its output is dropped."""
    with contextlib.redirect_stdout(io.StringIO()):
        status = main(words, host=host)
    if status != 0:
        sys.exit(f"kmend {' '.join(words)} ended with {status}")


paths = Paths(Path(folder))
kernel = SimulatedKernel(paths)
host = Host(paths, SimulatedClock(kernel), lambda: kernel, lambda: None)
if mode == "prepare":
    kernel.boot()
    run("update")
    run("check")
else:
    spent: list[float] = []
    memory: list[int] = []
    for _ in range(int(count)):
        before = time.process_time()
        run("check")
        spent.append(time.process_time() - before)
        memory.append(resident())
    sys.stdout.write(json.dumps({"cpu": spent, "resident": memory, "openssl": ssl.OPENSSL_VERSION}) + "\n")
