"""Callbacks: functions of a fix that livepatch runs when it patches an object, and when it takes the patch off.

A new function with one of four reserved names becomes a callback of the object (vmlinux or a module) that its file belongs to:
`kmend_pre_patch` (which may refuse, by an error code), `kmend_post_patch`, `kmend_pre_unpatch`, `kmend_post_unpatch`
(`struct klp_callbacks`, include/linux/livepatch.h). Livepatch has one of each kind for an object.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kmend.factory.build.layout import Prototype
from kmend.factory.build.refusal import Refusal, RefusalCode
from kmend.factory.build.unit import Element


class CallbackKind(enum.Enum):
    """When a callback runs; the values are those of the members of `struct klp_callbacks`."""

    PRE_PATCH = "pre_patch"
    POST_PATCH = "post_patch"
    PRE_UNPATCH = "pre_unpatch"
    POST_UNPATCH = "post_unpatch"

    @property
    def function(self) -> str:
        """The reserved name."""
        return f"kmend_{self.value}"

    @property
    def result(self) -> str:
        """What the function returns."""
        return "int" if self is CallbackKind.PRE_PATCH else "void"


_KINDS = {kind.function: kind for kind in CallbackKind}
_NAMES = re.compile(rb"\b(?:" + b"|".join(name.encode() for name in _KINDS) + rb")\b")


@dataclass(frozen=True, slots=True)
class Callback:
    """A callback of an object, and the global name by which the glue refers to it."""

    kind: CallbackKind
    object: str
    alias: str
    source: str


@dataclass(frozen=True, slots=True)
class CallingUnit:
    """A unit whose callbacks are looked at.

    Attributes:
        object: vmlinux or the module that holds it.
        text: of the patched file.
        added: its new functions; prototypes: of its functions.
    """

    source: str
    object: str
    text: bytes
    added: Collection[Element]
    prototypes: Mapping[str, Prototype]


def callbacks_among(added: Iterable[Element]) -> list[tuple[CallbackKind, Element]]:
    """Those of a unit's new functions that are callbacks."""
    return [(_KINDS[element.name], element) for element in added if element.name in _KINDS]


def callback_refusals(units: Sequence[CallingUnit]) -> list[Refusal]:
    """Refusals for callbacks that are not compiled, have another prototype, or are not the only one of their kind."""
    found = []
    holders: dict[tuple[str, CallbackKind], str] = {}
    for unit in units:
        there = callbacks_among(unit.added)
        compiled = {element.name for _, element in there}
        for name in sorted({match.decode() for match in _NAMES.findall(unit.text)} - compiled):
            found.append(_refusal(unit, name, "is named, but is not in the compiled code", "define it with '__used'"))
        for kind, element in there:
            wrong = _wrong_prototype(kind, unit.prototypes.get(element.name))
            if wrong:
                hint = f"write it as 'static {kind.result} __used {element.name}(struct klp_object *object)'"
                found.append(_refusal(unit, element.name, wrong, hint))
            other = holders.setdefault((unit.object, kind), unit.source)
            if other != unit.source:
                message = f"is a callback of {unit.object}, and {other} has one of the same kind for it"
                found.append(_refusal(unit, element.name, message, "let one call do the work of both"))
    return found


def _wrong_prototype(kind: CallbackKind, prototype: Prototype | None) -> str:
    if prototype is None:
        return "has no debug information, so its prototype is not known"
    result = prototype.result.type.partition(":")[0]
    if result != kind.result:
        return f"returns {result}, and should return {kind.result}"
    if [parameter.type for parameter in prototype.parameters] != ["klp_object *"]:
        return "does not take a 'struct klp_object *' alone"
    return ""


def _refusal(unit: CallingUnit, name: str, what: str, hint: str) -> Refusal:
    return Refusal(RefusalCode.CALLBACK, f"{name} of {unit.source} {what}", hint, file=unit.source, symbol=name)
