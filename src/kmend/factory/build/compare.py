"""Original against patched unit, symbol by symbol: which element is which (correlation), and which ones differ.

The compiler numbers static locals, clones and unique names anew whenever the source changes. So names are matched by class,
static locals by the order in which matched functions refer to them, and everything that carries no identity (strings,
`__func__`, switch tables, once-flags) by content alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from kmend.factory.build.refusal import Refusal, RefusalCode
from kmend.factory.build.special import (
    AUXILIARY,
    COMPARED_TABLES,
    TABLES,
    Entry,
    boot_table,
    boot_time,
    masked,
    never_copied,
    replacement_of,
    table_entries,
)
from kmend.factory.build.unit import Element, External, Kind, Reference, Unit
from kmend.factory.elf.constants import RELOCATION_WIDTH

_COUNTER = re.compile(r"\.\d+$")
_CLONE = re.compile(r"\.(isra|constprop|part|cold)(\.\d+)?")
_UNIQUE = re.compile(r"(__UNIQUE_ID_[A-Za-z_]+?)\d+")
_BTF_ID = re.compile(r"(__BTF_ID__\w+?__)\d+$")
_CONTENT_ONLY = frozenset(
    {
        "__func__", "__FUNCTION__", "__PRETTY_FUNCTION__", "__key", "__warned", "__already_done", "__print_once", "_rs", "_entry",
        "_entry_ptr", "CSWTCH", "descriptor", "___tp_str", "__msg", "_acpi_module_name",
    }
)  # fmt: skip
"""Static locals without identity: every copy of the code may have its own (once-flags, rate limits, lock classes,
descriptors) or they are constants that the compiler or a macro made."""
HARMLESS_WRITABLE = frozenset({"__key", "__warned", "__already_done", "__print_once", "_rs", "descriptor"})
"""Writable ones among them: a second copy costs at most a repeated message (DESIGN, section 4)."""


def base_name(name: str) -> str:
    """A name without what the compiler and macros number: `foo.3` -> `foo`, `bar.isra.0` -> `bar.isra`."""
    name = _UNIQUE.sub(r"\1", name)
    name = _BTF_ID.sub(r"\1", name)
    name = _CLONE.sub(lambda match: f".{match[1]}", name)
    return _COUNTER.sub("", name)


def without_identity(element: Element) -> bool:
    """Whether an element is matched by content alone and always copied with the code that uses it."""
    if element.kind in (Kind.STRING, Kind.CONSTANT):
        return True
    if element.is_function or element.is_global:
        return False
    base = base_name(element.name)
    return base in _CONTENT_ONLY or base.startswith("__UNIQUE_ID_")


def numbered(element: Element) -> bool:
    """Whether an element is a static local, or another object whose number the compiler chose."""
    return element.kind is Kind.OBJECT and not element.is_global and base_name(element.name) != element.name


def _memory(element: Element) -> tuple[bool, bool]:
    """What kind of memory an object lives in: whether it can be written, and whether every processor has its own."""
    return element.section.writable, element.section.name.startswith(".data..percpu")


def parent_name(name: str) -> str | None:
    """The function that `name` is the cold part of; None if it is none."""
    head, found, _ = name.partition(".cold")
    return head if found else None


@dataclass(slots=True)
class Comparison:
    """What came out.

    Attributes:
        changed: pairs (original, patched) of functions that differ, with the cold parts of changed functions.
        added: functions that are new.
        removed: names of functions that are gone.
        original_of: `id` of a patched element -> its original; patched_of: the other way round.
        promoted: functions that are replaced through their callers, with those callers' names; copied: their originals.
        refusals: why the difference cannot be taken.
    """

    original: Unit
    patched: Unit
    changed: list[tuple[Element, Element]] = field(default_factory=list)
    added: list[Element] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    original_of: dict[int, Element] = field(default_factory=dict)
    entries: dict[int, list[Entry]] = field(default_factory=dict)
    changed_ids: set[int] = field(default_factory=set)
    patched_of: dict[int, Element] = field(default_factory=dict)
    promoted: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    copied: list[Element] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    @property
    def new_objects(self) -> list[Element]:
        """Data of the patched unit that has an identity and that the original does not have."""
        fresh = [element for element in self.patched.objects if id(element) not in self.original_of]
        return [element for element in fresh if not without_identity(element)]


class _Matcher:
    """Correlates two units and tests pairs for equality."""

    def __init__(self, original: Unit, patched: Unit) -> None:
        self.original = original
        self.patched = patched
        self.patched_of: dict[int, Element] = {}
        self.original_of: dict[int, Element] = {}
        self.refusals: list[Refusal] = []
        self.original_entries = table_entries(original)
        self.patched_entries = table_entries(patched)
        self._equal: dict[tuple[int, int], bool] = {}

    def pair(self, old: Element, new: Element) -> None:
        self.patched_of[id(old)] = new
        self.original_of[id(new)] = old

    def correlate(self) -> None:
        self._by_exact_name(self.original.functions, self.patched.functions)
        self._by_class(self.original.functions, self.patched.functions)
        old = [e for e in self.original.objects if not numbered(e) and not without_identity(e)]
        new = [e for e in self.patched.objects if not numbered(e) and not without_identity(e)]
        self._by_exact_name(old, new)
        self._by_class(old, new)  # one that was made global, or static, is still the same
        self._static_locals()

    def _by_exact_name(self, old: list[Element], new: list[Element]) -> None:
        table: dict[tuple[str, bool], list[Element]] = {}
        for element in new:
            table.setdefault((element.name, element.is_global), []).append(element)
        for element in old:
            found = table.get((element.name, element.is_global), [])
            if len(found) == 1 and id(element) not in self.patched_of:
                self.pair(element, found[0])

    def _by_class(self, old: list[Element], new: list[Element]) -> None:
        """Clones whose number moved: `foo.part.0` may become `foo.part.1`, never `foo.isra.0`."""
        rest: dict[str, tuple[list[Element], list[Element]]] = {}
        for element in old:
            if id(element) not in self.patched_of:
                rest.setdefault(base_name(element.name), ([], []))[0].append(element)
        for element in new:
            if id(element) not in self.original_of:
                rest.setdefault(base_name(element.name), ([], []))[1].append(element)
        for left, right in rest.values():
            if len(left) == len(right) == 1:
                self.pair(left[0], right[0])

    def _static_locals(self) -> None:
        """Match numbered objects by the order in which matched functions, then matched objects, refer to them.

        An object matched on the way is looked into as well: `__compound_literal.5` may be all that leads to others.
        """
        holders = [
            (old, self.patched_of[id(old)])
            for old in [*self.original.functions, *self.original.objects]
            if id(old) in self.patched_of
        ]
        for old, new in holders:
            holders += self._match_referred(old, new)
        left: dict[tuple[str, int, tuple[bool, bool]], list[Element]] = {}
        right: dict[tuple[str, int, tuple[bool, bool]], list[Element]] = {}
        for side, elements, known in (
            (left, self.original.objects, self.patched_of),
            (right, self.patched.objects, self.original_of),
        ):
            for element in elements:
                if numbered(element) and not without_identity(element) and id(element) not in known:
                    side.setdefault((base_name(element.name), element.size, _memory(element)), []).append(element)
        for key, olds in left.items():
            news = right.get(key, [])
            if len(olds) == len(news) == 1:
                self.pair(olds[0], news[0])

    def _match_referred(self, old: Element, new: Element) -> list[tuple[Element, Element]]:
        """Match what two elements refer to, and say which pairs are new."""
        found = []
        left, right = self._referred(old), self._referred(new)
        for base, olds in left.items():
            olds = [element for element in olds if id(element) not in self.patched_of]
            news = [element for element in right.get(base, []) if id(element) not in self.original_of]
            if len(olds) == len(news) and all(
                a.size == b.size and _memory(a) == _memory(b) for a, b in zip(olds, news, strict=True)
            ):
                for a, b in zip(olds, news, strict=True):
                    self.pair(a, b)
                    found.append((a, b))
        return found

    def _referred(self, element: Element) -> dict[str, list[Element]]:
        found: dict[str, list[Element]] = {}
        for reference in element.references:
            target = reference.target
            if isinstance(target, Element) and numbered(target) and not without_identity(target):
                group = found.setdefault(base_name(target.name), [])
                if target not in group:
                    group.append(target)
        return found

    def equal(self, old: Element, new: Element) -> bool:
        """Whether two elements have the same content and refer to the same things."""
        key = (id(old), id(new))
        known = self._equal.get(key)
        if known is not None:
            return known
        self._equal[key] = True  # a cycle is equal unless something on it differs
        result = self._same(old, new)
        self._equal[key] = result
        return result

    def _same(self, old: Element, new: Element) -> bool:
        if old.size != new.size or len(old.references) != len(new.references):
            return False
        if old.kind is not new.kind or _memory(old) != _memory(new):
            return False
        fields = [(r.offset, r.offset + RELOCATION_WIDTH.get(r.type, 4)) for r in old.references]
        if masked(old.content, fields) != masked(new.content, fields):
            return False
        if not all(self._same_reference(a, b) for a, b in zip(old.references, new.references, strict=True)):
            return False
        return not old.is_function or self._same_entries(old, new)

    def _same_reference(self, old: Reference, new: Reference) -> bool:
        if old.offset != new.offset or old.type != new.type:
            return False
        if isinstance(old.target, External) or isinstance(new.target, External):
            return old.target == new.target and old.addend == new.addend
        if old.target.section.name == AUXILIARY and new.target.section.name == AUXILIARY:
            return True
        if old.target_offset != new.target_offset:
            return False
        if without_identity(old.target) or without_identity(new.target):
            return without_identity(old.target) and without_identity(new.target) and self.equal(old.target, new.target)
        return self.patched_of.get(id(old.target)) is new.target

    def _same_entries(self, old: Element, new: Element) -> bool:
        left = [e for e in self.original_entries.get(id(old), []) if e.table in COMPARED_TABLES]
        right = [e for e in self.patched_entries.get(id(new), []) if e.table in COMPARED_TABLES]
        return len(left) == len(right) and all(self._same_entry(a, b) for a, b in zip(left, right, strict=True))

    def _same_entry(self, old: Entry, new: Entry) -> bool:
        if old.table != new.table or old.code.target_offset != new.code.target_offset:
            return False
        ranges = [(r.offset, r.offset + RELOCATION_WIDTH.get(r.type, 4)) for r in old.element.references]
        ranges += TABLES[old.table].ignored
        if masked(old.element.content, ranges) != masked(new.element.content, ranges):
            return False
        if old.table == ".altinstructions":
            a, b = replacement_of(self.original, old), replacement_of(self.patched, new)
            return (a is None) == (b is None) and (a is None or b is None or self._same(a, b))
        others = list(zip(old.others, new.others, strict=False))
        return len(old.others) == len(new.others) and all(self._entry_reference(old, a, b) for a, b in others)

    def _entry_reference(self, entry: Entry, old: Reference, new: Reference) -> bool:
        inside = isinstance(old.target, Element) and isinstance(new.target, Element)
        if inside and old.target is entry.code.target:
            return old.target_offset == new.target_offset
        return self._same_reference(old, new)


def compare(original: Unit, patched: Unit) -> Comparison:
    """Correlate and compare two builds of one source file.

    Raises:
        ElfError: a table of one of the objects is malformed.
    """
    matcher = _Matcher(original, patched)
    matcher.correlate()
    result = Comparison(
        original,
        patched,
        original_of=matcher.original_of,
        patched_of=matcher.patched_of,
        entries=matcher.patched_entries,
    )
    changed: dict[int, tuple[Element, Element]] = {}
    for old in original.functions:
        new = matcher.patched_of.get(id(old))
        if new is None:
            result.removed.append(old.name)
        elif not matcher.equal(old, new):
            changed[id(new)] = (old, new)
    _add_cold_parts(matcher, changed)
    result.changed = list(changed.values())
    result.changed_ids = set(changed)
    result.added = [new for new in patched.functions if id(new) not in matcher.original_of]
    for old in original.objects:
        new = matcher.patched_of.get(id(old))
        if (
            new is not None
            and not never_copied(old.section.name)
            and not without_identity(old)
            and not matcher.equal(old, new)
        ):
            result.refusals.append(_changed_data(original.source, old, new))
    result.refusals += _static_local_refusals(matcher, result)
    result.refusals += _boot_table_refusals(original, patched)
    return result


def _add_cold_parts(matcher: _Matcher, changed: dict[int, tuple[Element, Element]]) -> None:
    """A function and its cold part change together: they jump into each other's middle."""
    by_name = {element.name: element for element in matcher.patched.functions}
    for element in matcher.patched.functions:
        head = parent_name(element.name)
        parent = by_name.get(head) if head is not None else None
        if parent is None:
            continue
        for one, other in ((element, parent), (parent, element)):
            old = matcher.original_of.get(id(other))
            if id(one) in changed and id(other) not in changed and old is not None:
                changed[id(other)] = (old, other)


def _changed_data(source: str, old: Element, new: Element) -> Refusal:
    offset = next((i for i, (a, b) in enumerate(zip(old.content, new.content, strict=False)) if a != b), -1)
    what = f"goes from {old.size} to {new.size} bytes" if old.size != new.size else "gets another initial value"
    if _memory(old) != _memory(new):
        what = f"moves from {old.section.name} to {new.section.name}, another kind of memory"
    if boot_time(old.section.name):
        return Refusal(
            RefusalCode.BOOT_TABLE,
            f"{old.name} {what}; it lies in {old.section.name}, which the kernel read when it booted, and does not read again",
            hint="redo the effect in a function that still runs",
            file=source,
            symbol=old.name,
            section=old.section.name,
            offset=offset,
        )
    return Refusal(
        RefusalCode.CHANGED_DATA,
        f"the existing object {old.name} {what}; the kernel has long been using it, and a livepatch replaces only functions",
        hint="change the functions that read it, or set the new value in a callback",
        file=source,
        symbol=old.name,
        section=old.section.name,
        offset=offset,
    )


def _boot_table_refusals(original: Unit, patched: Unit) -> list[Refusal]:
    """Entries that a fix adds to, or takes out of, a table that only a booting kernel reads."""
    sizes: dict[str, list[int]] = {}
    for side, unit in enumerate((original, patched)):
        for section in unit.image.sections:
            if boot_table(section.name):
                sizes.setdefault(section.name, [0, 0])[side] += section.size
    return [
        Refusal(
            RefusalCode.BOOT_TABLE,
            f"the table {name} {'gains' if after > before else 'loses'} entries; the kernel read it when it booted, "
            "and does not read it again",
            hint="redo the effect in a function that still runs",
            file=original.source,
            section=name,
        )
        for name, (before, after) in sorted(sizes.items())
        if before != after
    ]


def _static_local_refusals(matcher: _Matcher, result: Comparison) -> list[Refusal]:
    """A static local that looks new although one of that name existed: maybe the same one, so two copies of one state."""
    gone: dict[str, str] = {}
    for old in matcher.original.objects:
        if numbered(old) and not without_identity(old) and id(old) not in matcher.patched_of:
            gone[base_name(old.name)] = old.name
    found = []
    for new in matcher.patched.objects:
        base = base_name(new.name)
        if id(new) not in matcher.original_of and numbered(new) and not without_identity(new) and base in gone:
            found.append(
                Refusal(
                    RefusalCode.STATIC_LOCAL,
                    f"the static local {base} cannot be matched with the running kernel's {gone[base]}; "
                    "a second copy would split its state",
                    hint="keep its type, and keep a use of it in the functions that used it",
                    file=matcher.original.source,
                    symbol=new.name,
                    section=new.section.name,
                )
            )
    return found
