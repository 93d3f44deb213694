"""Kernel console text -> the code addresses in it: warnings, oopses, panics, call traces; plain text in, plain values out.

The kernel writes an address as `function+0xoffset/0xsize [module build-id]` (`%pS`, `%pB` and `%pSb` of `lib/vsprintf.c`,
`kallsyms.c:__sprint_symbol`); the build ID only with CONFIG_STACKTRACE_BUILD_ID. Whatever stands before it (timestamps, host
names, task numbers) does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kmend.core.errors import KmendError

MAX_TEXT = 32 * 1024 * 1024
MAX_FRAMES = 20_000
MAX_LINE = 4096
"""Characters of a line that are looked at; the kernel's own are 1024 at most (`CONSOLE_LOG_MAX`)."""

_FRAME = re.compile(
    r"(?P<unsure>\? )?(?<![\w.$])(?P<function>[A-Za-z_$][\w.$]{0,511})\+0x(?P<offset>[0-9a-f]{1,8})/0x(?P<size>[0-9a-f]{1,8})"
    r"(?: \[(?P<module>[A-Za-z0-9_]{1,55})(?: (?P<build_id>[0-9a-f]{40}))?\])?"
)
_EXACT = re.compile(r"\b(?:RIP|EIP|IP|PC)\b ?:|\bWARNING: .* at |\bkernel BUG at |\bunable to handle |pc : ")
"""Lines whose address is that of the instruction itself; those of a call trace are where the call returns to."""
_RELEASE = re.compile(
    r"\bComm: .*? (?P<release>\d+\.\d+\.\d+[-\w.+]*) (?P<version>#\d+\S*.*?)\s*(?P<build_id>\b[0-9a-f]{40})?\s*$"
)
_PACKAGE = re.compile(r"\b(?:Debian|Ubuntu) (\S+)")
_CONTROL = bytes(set(range(1, 32)) - set(b"\t\n\v\f\r\x1b"))


class TraceError(KmendError):
    """The input is not kernel console text with code addresses in it."""

    kind = "trace"
    exit_status = 2


@dataclass(frozen=True, slots=True)
class Frame:
    """One code address.

    Attributes:
        line: number of the text's line, from 1.
        offset: bytes from the function's start; size: of the function, as the kernel counts it (to the next symbol).
        module: None for the kernel proper.
        build_id: of the module, if the kernel told it.
        exact: whether it is the address of an instruction, not that to which a call returns.
        sure: false where the kernel marks it with `?`: found on the stack, but perhaps left from an earlier call.
    """

    line: int
    function: str
    offset: int
    size: int
    module: str | None = None
    build_id: str | None = None
    exact: bool = False
    sure: bool = True

    @property
    def looked_up(self) -> int:
        """The offset whose source line is meant: of the call, for a return address."""
        return self.offset if self.exact else max(0, self.offset - 1)

    def __str__(self) -> str:
        return f"{self.function}+{self.offset:#x}/{self.size:#x}" + (f" [{self.module}]" if self.module else "")


@dataclass(frozen=True, slots=True)
class Trace:
    """What a console text holds.

    Attributes:
        lines: the text.
        release: `uname -r` of the kernel that wrote it, if it says so; package: the version of its package, likewise.
    """

    lines: tuple[str, ...]
    frames: tuple[Frame, ...]
    release: str | None = None
    package: str | None = None


def read_trace(content: bytes, name: str = "the input") -> Trace:
    """Find the code addresses in console text.

    Raises:
        TraceError: it is too large, is not text, or holds no code address.
    """
    if len(content) > MAX_TEXT:
        raise TraceError(
            f"{name} is larger than {MAX_TEXT >> 20} MiB",
            hint="cut out the part around the oops, or pipe it through tail",
        )
    if content[:4] in (b"\x7fELF", b"KDUM", b"\x28\xb5\x2f\xfd", b"\xfd7zX") or content[:2] == b"\x1f\x8b":
        raise TraceError(
            f"{name} is not text but a compressed file, a dump or a program",
            hint="give the text of the kernel's log (dmesg, journalctl -k, the serial console); decompress it before",
        )
    # A log torn by a crash may hold a stretch of zeros; a binary holds control characters all over.
    control = len(content) - len(content.translate(None, _CONTROL))
    if control > len(content) // 50 or content.count(0) > max(4096, len(content) // 4):
        raise TraceError(f"{name} is binary, not text", hint="give the text of the kernel's log")
    lines = tuple(content.replace(b"\0", b"").decode(errors="replace").replace("\r", "").split("\n"))
    frames = tuple(_frames(lines))
    if not frames:
        raise TraceError(
            f"{name} holds no kernel trace: nothing in it looks like function+0x12/0x34",
            hint="the kernel must have been built with CONFIG_KALLSYMS; give the lines from WARNING, BUG or Oops on",
        )
    release = package = None
    for line in lines:
        match = _RELEASE.search(line[:MAX_LINE])
        if match is not None:
            release = match["release"]
            named = _PACKAGE.search(match["version"])
            package = named[1] if named is not None else None
            break
    return Trace(lines, frames, release, package)


def _frames(lines: tuple[str, ...]) -> Iterator[Frame]:
    count = 0
    for number, line in enumerate(lines, start=1):
        if "+0x" not in line:
            continue
        text = line[:MAX_LINE]
        for match in _FRAME.finditer(text):
            count += 1
            if count > MAX_FRAMES:
                raise TraceError(
                    f"the text holds more than {MAX_FRAMES} code addresses", hint="cut out the part around the oops"
                )
            yield Frame(
                line=number,
                function=match["function"],
                offset=int(match["offset"], 16),
                size=int(match["size"], 16),
                module=match["module"],
                build_id=match["build_id"],
                exact=_EXACT.search(text, 0, match.start("function")) is not None,
                sure=match["unsure"] is None,
            )
