"""CSAF 2.0's schema, and the tests of its specification (section 6), by the program of the package `csaf`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from kmend.core.process import run


def broken(folder: Path, *documents: Any) -> list[dict[str, list[str]]]:
    """Which mandatory tests each document does not pass (`schema`, `6.1.2`), with what is said of it."""
    paths = [folder / f"{number:03}.json" for number in range(len(documents))]
    for path, document in zip(paths, documents, strict=True):
        path.write_text(json.dumps(document))
    words = ["validate", "--spec-version", "v20", "--preset", "basic", "--no-network", "--format", "deprecated-json"]
    done = run([sys.executable, "-m", "csaf", *words, "--rfc7464-always", *paths], check=False)
    # RFC 7464: each text begins with a record separator.
    reports = [json.loads(text)["tests"] for text in done.stdout.decode().split("\x1e")[1:]]
    assert len(reports) == len(documents), done.stderr
    return [_told(report) for report in reports]


def _told(report: list[dict[str, Any]]) -> dict[str, list[str]]:
    names = {item["name"] for item in report}
    assert "mandatoryTest_6_1_33" in names or not report[0]["isValid"], names
    found = {item["name"]: [one["message"] for one in item["errors"]] for item in report}
    return {name.rpartition("Test_")[2].replace("_", "."): lines for name, lines in found.items() if lines}
