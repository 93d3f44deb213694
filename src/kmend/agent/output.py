"""How a command's result reaches its reader: one JSON document, or text; messages go to standard error."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable

from kmend.core.document import plain


def show(options: argparse.Namespace, document: object, text: Callable[[], str]) -> None:
    """Print `document` as JSON where `--json` asks for it, else the text."""
    if options.json:
        sys.stdout.write(json.dumps(plain(document), indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(text() + "\n")
    sys.stdout.flush()


def say(message: str) -> None:
    """A message, to standard error."""
    sys.stderr.write(f"kmend: {message}\n")
    sys.stderr.flush()


def wants_colour() -> bool:
    """Whether standard output is a terminal that wants colours (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
