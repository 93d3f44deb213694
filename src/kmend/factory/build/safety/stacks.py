"""Code that stands on stacks: functions that some task is always in, and code that livepatch's look at the stacks does not see.

A transition moves a task when none of the functions that it replaces is on the task's stack. What a kernel thread's main loop is
made of never leaves the thread's stack. When a livepatch goes, the kernel looks for the replacements themselves
(`klp_check_stack_func`, kernel/livepatch/transition.c, Linux 6.1: `[new_func, new_func + new_size)`): a task that sleeps in a
replacement's cold part, or in a new function that was jumped to (so that its caller's frame is gone), is not seen, and would
return into freed memory. Such a level must stay loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from kmend.core.manifest import Notice
from kmend.factory.build.compare import Comparison, parent_name
from kmend.factory.build.refusal import Refusal, RefusalCode
from kmend.factory.build.unit import Element, External, Reference, is_branch

RESIDENT = RefusalCode.ALWAYS_ON_STACK.value


@dataclass(frozen=True, slots=True)
class Resident:
    """A replaced function that some task is always in, and why that is so."""

    source: str
    function: str
    why: str

    @property
    def told(self) -> str:
        """What it means, as a sentence."""
        return (
            f"{self.function} is always on some stack: {self.why}; the transition may never complete, and tasks that are in it "
            "now do not run the new code"
        )


def resident_refusals(residents: Iterable[Resident]) -> Iterator[Refusal]:
    """A refusal for each: a transition that does not end keeps every other level from being loaded."""
    hint = "change a function that the loop calls; or state why the task is not there, or leaves it in time"
    for resident in residents:
        code = RefusalCode.ALWAYS_ON_STACK
        yield Refusal(code, resident.told, hint, file=resident.source, symbol=resident.function)


def resident_notices(residents: Iterable[Resident]) -> Iterator[Notice]:
    """A warning for each that was vouched for."""
    for resident in residents:
        yield Notice(RESIDENT, resident.told)


def unseen_code(comparison: Comparison, added: frozenset[str], sleeps: Callable[[str], bool]) -> Iterator[str]:
    """Why the module must stay: one sentence for each piece of its code in which a task may sleep unseen.

    Args:
        added: new functions that come along.
        sleeps: whether the function of that name, outside of the unit, may sleep.
    """
    copied = {name for name, _ in comparison.promoted}
    private = [e for e in comparison.added if e.name in added] + [
        e for e in comparison.patched.functions if e.name in copied
    ]
    replacements = [new for _, new in comparison.changed]
    cold = [element for element in [*replacements, *private] if parent_name(element.name) is not None]
    jumped = _jumped_to([*replacements, *private], {id(element) for element in private if element not in cold})
    sleeping = _Sleeping(comparison.changed_ids, sleeps)
    for element in [*cold, *(element for element in private if id(element) in jumped)]:
        callee = sleeping.first(element)
        if callee:
            how = "is apart from its function" if element in cold else f"is jumped to from {jumped[id(element)]}"
            yield f"a task may sleep in {element.name} (in {callee}) unseen by livepatch, since it {how}"


def _jumped_to(holders: Iterable[Element], private: set[int]) -> dict[int, str]:
    """`id` of each private function that another one ends in by a jump -> that one's name."""
    found: dict[int, str] = {}
    for holder in holders:
        for reference in holder.references:
            target = reference.target
            if (
                isinstance(target, Element)
                and id(target) in private
                and target is not holder
                and parent_name(holder.name) != target.name
                and is_branch(holder, reference)
                and not _is_call(holder, reference)
            ):
                found.setdefault(id(target), holder.name)
    return found


def _is_call(holder: Element, reference: Reference) -> bool:
    return holder.content[reference.offset - 1 : reference.offset] == b"\xe8"


_INDIRECT = "__x86_indirect_thunk_"


class _Sleeping:
    """Which of the unit's functions may sleep, by what they call."""

    def __init__(self, replaced: Collection[int], sleeps: Callable[[str], bool]) -> None:
        self._replaced = replaced
        self._outside = sleeps
        self._known: dict[int, bool] = {}

    def first(self, element: Element) -> str:
        """The first function that it calls, or ends in, and that may sleep; empty if there is none.

        While a task sleeps in what a replacement calls, the replacement is seen.
        """
        for target in self._called(element):
            if target.name.startswith(_INDIRECT):
                return "a function that it calls by a pointer"
            if self._may_sleep(target):
                return target.name
        return ""

    def _called(self, element: Element) -> Iterator[Element | External]:
        for reference in element.references:
            target = reference.target
            if is_branch(element, reference) and target is not element and target.name != parent_name(element.name):
                yield target

    def _may_sleep(self, target: Element | External) -> bool:
        if isinstance(target, External):
            return self._outside(target.name)
        if not target.is_function or id(target) in self._replaced:
            return False
        known = self._known.get(id(target))
        if known is None:
            self._known[id(target)] = False  # a cycle adds nothing
            known = self._known[id(target)] = any(self._may_sleep(callee) for callee in self._called(target))
        return known
