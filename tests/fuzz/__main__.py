"""Coverage-guided fuzzing of everything that reads bytes from outside: `make fuzz`, or `python -m tests.fuzz [TARGET...]`.

Each target runs for so many minutes in a process of its own, started again if it dies. A finding is an exception other than
`KmendError`, an execution of more than five CPU seconds, or memory beyond 1 GiB; its input is kept, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.conftest import KERNELS
from tests.fuzz.seeds import write_seeds
from tests.fuzz.targets import TARGETS

from kmend.core.cache import cache_root
from kmend.factory.kernels.packages import choose_kernel
from kmend.factory.kernels.prepared import prepare

_ADDRESS_SPACE = 4 << 30
"""Ends a process that would take the machine's memory before the finer measure sees it."""
_EXECUTIONS = re.compile(r"^stat::number_of_executed_units:\s+(\d+)", re.MULTILINE)
_PEAK = re.compile(r"^stat::peak_rss_mb:\s+(\d+)", re.MULTILINE)
_PROGRESS = re.compile(r"^#(\d+)\s.*?cov: (\d+).*?rss: (\d+)Mb", re.MULTILINE)


@dataclass(slots=True)
class Account:
    """What became of one target. Memory in MiB; `edges` counts covered places in the Python code."""

    target: str
    seeds: int
    seconds: float = 0.0
    executions: int = 0
    edges: int = 0
    peak_mib: int = 0
    findings: tuple[str, ...] = ()


def main() -> int:
    """Fuzz, and tell."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the readers.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--minutes", type=float, default=15.0, help="for each target (default 15)")
    parser.add_argument("--folder", type=Path, help="keeps inputs and findings (default: in kmend's cache)")
    parser.add_argument("--json", action="store_true", help="print the accounts as JSON")
    options = parser.parse_args()
    unknown = [name for name in options.targets if name not in TARGETS]
    if unknown:
        parser.error(f"there is no target {unknown[0]}")
    folder = (options.folder or cache_root() / "fuzz").resolve()
    counts = write_seeds(prepare(choose_kernel(KERNELS)), folder / "corpus")
    accounts = []
    for name in options.targets or TARGETS:
        account = Account(name, counts[name])
        _fuzz(account, folder, options.minutes * 60)
        accounts.append(account)
        sys.stderr.write(
            f"{name}: {account.seeds} seeds, {account.seconds:.0f} s, {account.executions} executions, "
            f"{account.edges} edges, peak {account.peak_mib} MiB, {len(account.findings)} findings\n"
        )
        for finding in account.findings:
            sys.stderr.write(f"  {finding}\n")
    if options.json:
        sys.stdout.write(json.dumps([asdict(account) for account in accounts], indent=2) + "\n")
    return 1 if any(account.findings for account in accounts) else 0


def _fuzz(account: Account, folder: Path, seconds: float) -> None:
    corpus, findings = folder / "corpus" / account.target, folder / "findings" / account.target
    shutil.rmtree(findings, ignore_errors=True)
    findings.mkdir(parents=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kmend-fuzz-", dir="/dev/shm") as scratch:
        while (left := seconds - (time.monotonic() - start)) > 1:
            done = subprocess.run(
                [
                    sys.executable, "-m", "tests.fuzz.session", account.target, findings, corpus, f"-artifact_prefix={findings}/",
                    f"-max_total_time={int(left)}", "-timeout=60", "-rss_limit_mb=1024", "-print_final_stats=1", "-verbosity=1",
                ],
                env={**os.environ, "TMPDIR": scratch, "OPENBLAS_NUM_THREADS": "1"},
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE)),
                capture_output=True,
            )  # fmt: skip
            output = (done.stdout + done.stderr).decode(errors="replace")
            _count(account, output)
            if done.returncode != 0 and time.monotonic() - start < 5:
                sys.stderr.write(output[-4000:])
                break
            if done.returncode != 0 and not any(findings.iterdir()):
                (findings / f"died-{int(time.monotonic() - start)}.txt").write_text(output[-4000:])
    account.seconds = time.monotonic() - start
    account.findings = tuple(
        str(path) for path in sorted(findings.iterdir()) if path.suffix == ".txt" or "-" in path.name
    )


def _count(account: Account, output: str) -> None:
    progress = _PROGRESS.findall(output)
    executed, peak = _EXECUTIONS.findall(output), _PEAK.findall(output)
    account.executions += int(executed[-1]) if executed else int(progress[-1][0]) if progress else 0
    account.edges = max([account.edges, *(int(edges) for _, edges, _ in progress)])
    account.peak_mib = max([account.peak_mib, *(int(mib) for mib in peak), *(int(mib) for _, _, mib in progress)])


if __name__ == "__main__":
    sys.exit(main())
