"""`make test-interpreters`: say which interpreters were tried, with what result."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.interpreters import finding
from tests.interpreters.running import TESTS, Outcome, run_tests

FOLDER = Path(__file__).parents[2] / ".venv/interpreters"
KNOWN = tuple((3, minor) for minor in range(10, 15))
"""Releases of Python that are out; those that could not be had are named."""


def main() -> int:
    """Run them all; 1 if a test failed anywhere, or none could be run."""
    parser = argparse.ArgumentParser(
        prog="tests.interpreters", description="Run the agent's tests on every interpreter."
    )
    parser.add_argument("--only", action="append", default=[], metavar="3.N", help="only this version; may be repeated")
    parser.add_argument("--no-debian", action="store_true", help="do not look into Debian's newer releases")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    parser.add_argument("tests", nargs="*", default=list(TESTS))
    options = parser.parse_args()
    found = finding.installed()
    if not options.no_debian:
        have = {item.minor for item in found}
        newer = [finding.of_debian(release, FOLDER / "debian") for release in finding.RELEASES]
        found += [item for item in newer if item is not None and item.minor not in have]
    found = [item for item in found if not options.only or ".".join(map(str, item.minor)) in options.only]
    outcomes = []
    for interpreter in found:
        outcomes.append(run_tests(interpreter, FOLDER, tuple(options.tests)))
        sys.stdout.write(line(outcomes[-1]) + "\n")
        sys.stdout.flush()
    missing = [".".join(map(str, minor)) for minor in KNOWN if minor not in {item.minor for item in found}]
    if missing and not options.only:
        sys.stdout.write(f"not to be had here: {', '.join(missing)}\n")
    if options.json:
        options.json.write_text(json.dumps([document(item) for item in outcomes], indent=2) + "\n")
    return 0 if outcomes and all(item.good for item in outcomes) else 1


def line(outcome: Outcome) -> str:
    """One row of the report."""
    text = (
        f"{outcome.interpreter.name:16} {outcome.passed:5} passed {outcome.failed:3} failed {outcome.seconds:7.1f} s  "
    )
    return text + str(outcome.interpreter.path) + (f"\n    {outcome.problem}" if outcome.problem else "")


def document(outcome: Outcome) -> dict[str, object]:
    """The same for programs."""
    return {
        "interpreter": str(outcome.interpreter.path),
        "version": list(outcome.interpreter.version),
        "passed": outcome.passed,
        "failed": outcome.failed,
        "seconds": round(outcome.seconds, 1),
        "problem": outcome.problem,
    }


if __name__ == "__main__":
    sys.exit(main())
