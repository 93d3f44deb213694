"""`kmend-factory decode`: source lines for the addresses of a kernel's warning or oops."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kmend.core.errors import SystemProblemError
from kmend.core.kernel import KernelRef
from kmend.factory.commands.output import json_option, print_json, say
from kmend.factory.commands.parameters import KERNEL_REF
from kmend.factory.desk.companion import store_folder
from kmend.factory.desk.decoding import Decoded, DecodedFrame, decode_trace
from kmend.factory.desk.trace import MAX_TEXT, read_trace


@click.command()
@click.argument("text", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--manifest",
    "manifests",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="BUILD",
    help="A livepatch's build folder, or the manifest in it; its companion lies there. Repeatable.",
)
@click.option(
    "--companions",
    "stores",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Look there for companions before looking in the cache; repeatable.",
)
@click.option(
    "--kernel",
    "ref",
    type=KERNEL_REF,
    metavar="REF",
    help="The kernel that wrote it; default: what it names.",
)
@json_option
def command(
    text: Path, manifests: tuple[Path, ...], stores: tuple[Path, ...], ref: KernelRef | None, as_json: bool
) -> int:
    """Give the source lines of a kernel's trace: TEXT is what the kernel wrote (a file, or - for standard input).

    Livepatched functions are decoded by their debug companions, which build and reproduce keep; the kernel's own functions and
    modules, if that kernel is prepared.

    Exit status: 0 decoded, 1 a livepatch's companion is missing, 2 the text holds no trace.
    """
    trace = read_trace(_content(text), text.name if str(text) != "-" else "standard input")
    folders = [path if path.is_dir() else path.parent for path in manifests]
    decoded = decode_trace(
        trace,
        [*folders, *stores, store_folder()],
        ref=ref,
        progress=lambda message: say(f"- {message}"),
    )
    if as_json:
        print_json(_report(decoded))
    else:
        _tell(decoded)
    problems = dict.fromkeys(frame.problem for frame in decoded.undecoded)
    for problem in problems:
        say(f"not decoded: {problem}")
    for note in decoded.notes:
        say(f"note: {note}")
    return 1 if problems else 0


def _content(text: Path) -> bytes:
    """At most one byte more than is accepted, so that the trace's reader can say that it is too much."""
    if str(text) == "-":
        return sys.stdin.buffer.read(MAX_TEXT + 1)
    try:
        with text.open("rb") as stream:
            return stream.read(MAX_TEXT + 1)
    except OSError as problem:
        raise SystemProblemError(
            f"cannot read {text}: {problem.strerror}", hint="name a file, or - for standard input"
        ) from None


def _report(decoded: Decoded) -> dict[str, object]:
    return {
        "kernel": decoded.kernel,
        "release": decoded.trace.release,
        "notes": decoded.notes,
        "frames": [
            {
                "line": found.frame.line,
                "address": str(found.frame),
                "function": found.frame.function,
                "offset": found.frame.offset,
                "module": found.frame.module,
                "livepatch": found.livepatch,
                "sure": found.frame.sure,
                "problem": found.problem,
                "lines": [
                    {
                        "function": line.source.function,
                        "file": line.source.file,
                        "line": line.source.line,
                        "added": line.source.added,
                        "text": line.text,
                    }
                    for line in found.lines
                ],
            }
            for found in decoded.frames
        ],
    }


def _tell(decoded: Decoded) -> None:
    by_line: dict[int, list[DecodedFrame]] = {}
    for found in decoded.frames:
        by_line.setdefault(found.frame.line, []).append(found)
    for number, text in enumerate(decoded.trace.lines, start=1):
        click.echo(text)
        told: list[str] = []
        for found in by_line.get(number, []):
            told += _words(found)
        for words in dict.fromkeys(told):
            click.echo(words)


def _words(found: DecodedFrame) -> list[str]:
    words = []
    for depth, line in enumerate(found.lines):
        source = line.source
        way = " (a line of the fix)" if source.added else ""
        inside = "into " if depth else ""
        words.append(f"      = {inside}{source.file}:{source.line}{way} in {source.function}")
        if line.text:
            words.append(f"          {line.text}")
    if found.problem:
        words.append(f"      ! {found.problem}")
    return words
