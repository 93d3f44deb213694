"""A second way to prove an original: compiled entirely as the distro did, without sections for each function.

With a section of its own, a function reaches its neighbours by jumps of five bytes where the shipped code has two, and is a few
bytes longer. Then the same source, compiled by the same command without those two flags, must be the shipped code.
"""

from __future__ import annotations

from kmend.core.errors import KmendError
from kmend.factory.build.compile import CompiledUnit, compile_plainly
from kmend.factory.build.moduleview import ModulePlacement
from kmend.factory.build.unit import Element, Unit
from kmend.factory.build.verify import Placement
from kmend.factory.elf import read_object
from kmend.factory.kernels.prepared import Kernel


class PlainProof:
    """Answers for one file; it is compiled when the first question comes."""

    def __init__(self, kernel: Kernel, original: CompiledUnit, placement: Placement | ModulePlacement) -> None:
        self._kernel = kernel
        self._original = original
        self._placement = placement
        self._functions: dict[str, Element] | None = None
        self._plain: Placement | ModulePlacement = placement

    def proves(self, element: Element) -> bool:
        """Whether the function of that name, compiled plainly, is the shipped one."""
        if self._functions is None:
            self._functions = self._compile()
        found = self._functions.get(element.name)
        return found is not None and self._plain.verify(found) is None

    def _compile(self) -> dict[str, Element]:
        source = self._original.source
        try:
            text = (self._kernel.tree.path / source).read_bytes()
            compiled = compile_plainly(self._kernel, self._original, {source: text})
            unit = Unit(source, read_object(compiled.content))
            self._plain = self._placement.of(unit)
        except KmendError:
            return {}
        return {function.name: function for function in unit.functions}
