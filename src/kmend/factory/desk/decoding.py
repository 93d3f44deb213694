"""A kernel trace -> source lines: livepatched functions by their companions, all else by the distro's debug files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kmend.core.errors import KmendError
from kmend.core.kernel import KernelRef
from kmend.factory.build.debugmodule import debug_symbols
from kmend.factory.desk.companion import MODULE_NAME, Companion, find_companion
from kmend.factory.desk.kerneldebug import KernelDebug, Place
from kmend.factory.desk.sourcelines import SourceLine, source_lines
from kmend.factory.desk.trace import Frame, Trace
from kmend.factory.kernels.prepared import Kernel, prepared_kernels, resolve

_MAX_AMBIGUOUS = 8


@dataclass(frozen=True, slots=True)
class DecodedLine:
    """A source line with its text, which is empty where the text is not at hand."""

    source: SourceLine
    text: str = ""


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A code address and what it means.

    Attributes:
        lines: the innermost function first, then those into which the compiler put it.
        livepatch: whether the address is in a livepatch.
        problem: why there are no lines, or what is doubtful about them; empty if nothing is.
    """

    frame: Frame
    lines: tuple[DecodedLine, ...] = ()
    livepatch: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A whole trace.

    Attributes:
        kernel: ref of the prepared kernel whose debug files were used; None if it is not prepared.
        notes: what holds for the trace as a whole.
    """

    trace: Trace
    frames: tuple[DecodedFrame, ...]
    kernel: str | None
    notes: tuple[str, ...]

    @property
    def undecoded(self) -> tuple[DecodedFrame, ...]:
        """Addresses in livepatches that could not be decoded."""
        return tuple(frame for frame in self.frames if frame.livepatch and not frame.lines)


def decode_trace(
    trace: Trace,
    places: Sequence[Path],
    *,
    ref: KernelRef | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Decoded:
    """Decode every address of a trace, as far as its companion or its kernel is at hand.

    Args:
        places: where companions are looked for (`find_companion`).
        ref: the kernel that wrote it; by default the prepared one that the trace or a companion names.

    Raises:
        KmendError: a tool is missing; a single address that cannot be decoded is told in its frame.
    """
    companions, missing = _companions(trace, places)
    problems = {name: problem.message for name, problem in missing.items()}
    kernel = _kernel(trace, companions, ref)
    lookup = _Lookup(trace, kernel, companions, problems, progress)
    frames = tuple(lookup.decoded(frame) for frame in trace.frames)
    notes = list(dict.fromkeys(problem.hint for problem in missing.values() if problem.hint))
    if kernel is None and any(not frame.livepatch for frame in frames):
        named = f" {trace.release}" if trace.release else ""
        notes.append(
            f"the kernel{named} is not prepared here, so its own functions are left as they are; "
            "prepare it, and name it with --kernel"
        )
    return Decoded(trace, frames, kernel.identity.ref if kernel is not None else None, tuple(notes))


def _companions(trace: Trace, places: Sequence[Path]) -> tuple[dict[str, Companion], dict[str, KmendError]]:
    """The companions of the livepatches in the trace, and why one could not be had; both by module name."""
    found: dict[str, Companion] = {}
    problems: dict[str, KmendError] = {}
    for frame in trace.frames:
        name = frame.module
        if name is None or not MODULE_NAME.fullmatch(name) or name in found or name in problems:
            continue
        try:
            found[name] = find_companion(name, frame.build_id, places)
        except KmendError as problem:
            problems[name] = problem
    return found, problems


def _kernel(trace: Trace, companions: dict[str, Companion], ref: KernelRef | None) -> Kernel | None:
    """The prepared kernel that wrote the trace."""
    kernels = prepared_kernels()
    if ref is not None:
        wanted = str(resolve(ref))
        return next((kernel for kernel in kernels if kernel.identity.ref == wanted), None)
    builds = {companion.manifest.kernel.build_id for companion in companions.values()}
    fitting = [kernel for kernel in kernels if kernel.identity.build_id in builds]
    if not fitting and trace.release is not None:
        fitting = [kernel for kernel in kernels if kernel.identity.release == trace.release]
        if trace.package is not None:
            fitting = [kernel for kernel in fitting if kernel.package == trace.package]
    return fitting[0] if len(fitting) == 1 else None


@dataclass(slots=True)
class _Lookup:
    """Answers frame by frame; addresses of one file are looked up together, and only once."""

    trace: Trace
    kernel: Kernel | None
    companions: dict[str, Companion]
    problems: dict[str, str]
    progress: Callable[[str], None]
    _places: dict[Frame, list[Place]] = field(default_factory=dict)
    _lines: dict[Place, tuple[SourceLine, ...]] = field(default_factory=dict)
    _troubles: dict[Frame, str] = field(default_factory=dict)
    _asked: bool = False

    def decoded(self, frame: Frame) -> DecodedFrame:
        """What one address means."""
        if not self._asked:
            self._ask()
        livepatch = frame.module is not None and MODULE_NAME.fullmatch(frame.module) is not None
        trouble = self._troubles.get(frame, "")
        places = self._places.get(frame, [])
        companion = self.companions.get(frame.module or "")
        found = [lines for place in places if (lines := self._lines.get(place))]
        if not found:
            if not trouble and places:
                trouble = "the debug information does not know this address"
            return DecodedFrame(frame, (), livepatch, trouble)
        if len(set(found)) > 1:
            trouble = f"the kernel has {len(found)} functions {frame.function} of this size; this is the first of them"
        told = tuple(DecodedLine(line, self._text(line, companion)) for line in found[0])
        return DecodedFrame(frame, told, livepatch, trouble)

    def _ask(self) -> None:
        self._asked = True
        modules = frozenset(frame.module for frame in self.trace.frames if frame.module) - self.companions.keys()
        debug = KernelDebug(self.kernel, modules, self.progress) if self.kernel is not None else None
        for frame in dict.fromkeys(self.trace.frames):
            try:
                self._places[frame] = self._find(frame, debug)
            except KmendError as problem:
                self._troubles[frame] = problem.message
        groups: dict[tuple[Path, str | None], set[Place]] = {}
        for places in self._places.values():
            for place in places:
                groups.setdefault((place.file, place.section), set()).add(place)
        for (file, section), group in groups.items():
            lines = source_lines(file, section, [place.address for place in group])
            for place in group:
                self._lines[place] = lines.get(place.address, ())

    def _find(self, frame: Frame, debug: KernelDebug | None) -> list[Place]:
        """Where the address is, in files with debug information."""
        name = frame.module
        if name is not None and MODULE_NAME.fullmatch(name):
            companion = self.companions.get(name)
            if companion is None:
                self._troubles[frame] = self.problems[name]
                return []
            return self._in_companion(frame, companion)
        if debug is None:
            return []
        found = debug.functions(frame.function, frame.size, name)[:_MAX_AMBIGUOUS]
        if not found:
            where = f"its module {name}" if name is not None else "its vmlinux"
            self._troubles[frame] = f"{debug.kernel.identity.ref} has no such function of that size in {where}"
        return [Place(place.file, place.section, place.address + frame.looked_up) for place in found]

    def _in_companion(self, frame: Frame, companion: Companion) -> list[Place]:
        found = debug_symbols(companion.image, frame.function)
        fitting = [symbol for symbol in found if symbol.size <= frame.size and frame.offset <= symbol.size]
        if not found:
            self._troubles[frame] = f"{companion.manifest.module.name} has no function {frame.function}"
        elif not fitting:
            sizes = ", ".join(f"{symbol.size:#x}" for symbol in found)
            self._troubles[frame] = (
                f"{frame.function} is {sizes} bytes long in {companion.file}; this is another build's"
            )
        return [
            Place(companion.file, symbol.section.name, symbol.value + frame.looked_up)
            for symbol in fitting
            if symbol.section is not None
        ]

    def _text(self, line: SourceLine, companion: Companion | None) -> str:
        if companion is not None:
            text = companion.text(line.file, line.line, added=line.added)
            if text is not None:
                return text.strip()
        return self._kernels_text(line) if not line.added else ""

    def _kernels_text(self, line: SourceLine) -> str:
        if self.kernel is None or ".." in line.file.split("/") or line.file.startswith("/"):
            return ""
        try:
            with (self.kernel.tree.path / line.file).open("rb") as stream:
                for number, text in enumerate(stream, start=1):
                    if number == line.line:
                        return text.decode(errors="replace").strip()
        except OSError:
            pass
        return ""
