"""Draw the demonstration's output as a picture of a terminal.

`make demo | tee out.txt`, then `python -m demo.picture out.txt docs/demo.svg`.
"""

from __future__ import annotations

import re
import sys
from html import escape
from pathlib import Path

WIDTH = 118
LINE, CHARACTER, MARGIN = 17, 7.83, 18
_COLORS = {
    "act": "#ffffff",
    "command": "#7fd1e8",
    "good": "#8fd48f",
    "bad": "#ff7b72",
    "time": "#6e7681",
    "text": "#c9d1d9",
}


def kind(line: str) -> str:
    """Which colour a line has."""
    if re.match(r"\d+\. ", line):
        return "act"
    if re.match(r"   (\$|guest#) ", line):
        return "command"
    if line.startswith("   yes"):
        return "good"
    if line.startswith("   NO"):
        return "bad"
    return "time" if re.fullmatch(r"   \([\d.]+ s\)", line) else "text"


def draw(lines: list[str]) -> str:
    """The picture, as SVG."""
    shown = [line if len(line) <= WIDTH else line[: WIDTH - 1] + "…" for line in lines]
    height = LINE * len(shown) + 2 * MARGIN
    width = int(CHARACTER * WIDTH + 2 * MARGIN)
    rows = "\n".join(
        f'<text x="{MARGIN}" y="{MARGIN + LINE * number + 12}" fill="{_COLORS[kind(line)]}"'
        f"{' font-weight=' + chr(34) + 'bold' + chr(34) if kind(line) == 'act' else ''}>{escape(line)}</text>"
        for number, line in enumerate(shown)
        if line
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>\n'
        '<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="13" xml:space="preserve">\n'
        f"{rows}\n</g>\n</svg>\n"
    )


def main() -> None:
    """Read the output named first, write the picture named second."""
    source, target = map(Path, sys.argv[1:3])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", source.read_text()).strip().splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith("6. ")), 0)
    target.write_text(draw(lines[start:]))


if __name__ == "__main__":
    main()
