#!/usr/bin/env python3
"""kmend's repository client behind the command line that the TUF conformance suite drives (its CLIENT-CLI.md).

    client.py --metadata-dir DIR init ROOT
    client.py --metadata-dir DIR --metadata-url URL refresh
    client.py --metadata-dir DIR --metadata-url URL --target-name NAME --target-base-url URL --target-dir DIR download

Exit status 0 or 1. The suite takes the path of this file as its entrypoint. What is peculiar to kmend: docs/repository.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from kmend.core.errors import KmendError
from kmend.trust import layout
from kmend.trust.client import open_repository
from kmend.trust.errors import MissingError

MAX_TARGET_BYTES = 10_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url", default="")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-base-url", default="")
    parser.add_argument("--target-dir", type=Path)
    parser.add_argument("command", choices=["init", "refresh", "download"])
    parser.add_argument("trusted_root", nargs="?", type=Path)
    options = parser.parse_args(arguments)
    try:
        if options.command == "init":
            _init(options.metadata_dir, options.trusted_root)
        else:
            _run(options)
    except (KmendError, OSError) as problem:
        sys.stderr.write(f"{type(problem).__name__}: {problem}\n")
        return 1
    return 0


def _init(folder: Path, root: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / ".kmend"
    state.mkdir(exist_ok=True)
    content = root.read_bytes()
    (state / "bootstrap").write_bytes(content)
    (folder / "root.json").write_bytes(content)
    if not (state / "metadata").exists():
        (state / "metadata").symlink_to(folder.absolute(), target_is_directory=True)


def _run(options: argparse.Namespace) -> None:
    state = options.metadata_dir / ".kmend"
    url = options.metadata_url.rstrip("/").removesuffix(f"/{layout.METADATA}")
    bootstrap = (state / "bootstrap").read_bytes()
    # The suite counts requests, so every refresh follows the specification's order here, root first.
    with open_repository(url, bootstrap=bootstrap, state=state, root_every=0) as repository:
        for name in options.target_name:
            path = options.target_dir / quote(name, safe="")
            kept = path.read_bytes() if path.exists() else b""
            content = repository.target(name, limit=MAX_TARGET_BYTES, kept=kept)
            if content is None:
                raise MissingError(f"no role names {name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


if __name__ == "__main__":
    sys.exit(main())
