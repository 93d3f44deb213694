"""Types and prototypes from debug information; and struct layouts, compared: a livepatch runs among unpatched code that reads
and writes the same objects.

Both objects' debug information is turned to BTF by pahole (the tool that Debian's kernels were made with); types of the same
name are then compared member by member. A new type is fine, a changed one is not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kmend.core.errors import KmendError
from kmend.core.manifest import sha256_hex
from kmend.core.process import run
from kmend.factory.build.refusal import Refusal, RefusalCode

_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_KINDS = ("void", "int", "ptr", "array", "struct", "union", "enum", "fwd", "typedef", "volatile", "const", "restrict", "func",
          "func_proto", "var", "datasec", "float", "decl_tag", "type_tag", "enum64")  # fmt: skip
_MAX_SPELLED = 4096
_AGGREGATES = frozenset({"struct", "union", "enum", "enum64", "typedef"})


class BtfError(KmendError):
    """pahole's output is not the BTF that Documentation/bpf/btf.rst describes."""

    kind = "btf"
    default_hint = "this is a fault of kmend's, not of the fix: report it, with the fix and the kernel ref"


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a struct or union, or a value of an enum: name, bit offset or value, and its type spelled out."""

    name: str
    place: int
    type: str


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A struct, union or enum: its size in bytes and its members in order. A typedef has one member without a name: its type."""

    kind: str
    name: str
    size: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Passed:
    """A parameter or a result.

    Attributes:
        type: as the source spells it, more or less.
        form: how it is handed over: typedefs, signs and qualifiers aside.
    """

    type: str
    form: str


@dataclass(frozen=True, slots=True)
class Prototype:
    """A function's result and parameters; the last one's form is `...` if more may follow."""

    result: Passed
    parameters: tuple[Passed, ...]


@dataclass(frozen=True, slots=True)
class DebugTypes:
    """What an object's debug information says.

    Attributes:
        aggregates: `struct foo` -> its definitions (one, but for local types).
        prototypes: of the functions that have code of their own under their own name.
    """

    aggregates: dict[str, frozenset[Aggregate]]
    prototypes: dict[str, Prototype]


def read_types(object_file: Path, folder: Path) -> DebugTypes:
    """The named aggregates and the prototypes of an object's debug information.

    Raises:
        BtfError: the types cannot be read.
        ProgramFailedError: pahole failed.
    """
    target = folder / f"{object_file.name}.btf"
    run(["pahole", f"--btf_encode_detached={target}", object_file], timeout=120)
    try:
        types = _Types(target.read_bytes())
        return DebugTypes(types.aggregates(), types.prototypes())
    except (struct.error, IndexError, ValueError, RecursionError) as problem:
        raise BtfError(f"the types of {object_file.name} cannot be read: {problem}") from None


def layout_refusals(
    source: str, old: dict[str, frozenset[Aggregate]], new: dict[str, frozenset[Aggregate]]
) -> list[Refusal]:
    """A refusal for every aggregate that both have and that differs; an enum may gain values, members may be renamed."""
    found = []
    for name in sorted(old.keys() & new.keys()):
        if old[name] == new[name] or _only_gained_values(old[name], new[name]) or _only_renamed(old[name], new[name]):
            continue
        before, after = next(iter(sorted(old[name], key=repr))), next(iter(sorted(new[name], key=repr)))
        found.append(
            Refusal(
                RefusalCode.STRUCT_LAYOUT,
                f"{name} changes: {_difference(before, after)}; unpatched code and objects that exist already use the old layout",
                hint="keep the layout and attach the new data with a shadow variable (klp_shadow_get_or_alloc)",
                file=source,
                symbol=name.rpartition(" ")[2],
            )
        )
    return found


def _only_gained_values(old: frozenset[Aggregate], new: frozenset[Aggregate]) -> bool:
    if len(old) != 1 or len(new) != 1:
        return False
    (before,), (after,) = old, new
    return before.kind.startswith("enum") and before.size == after.size and set(before.members) <= set(after.members)


def _only_renamed(old: frozenset[Aggregate], new: frozenset[Aggregate]) -> bool:
    """Whether members have other names, but each has its old place and type: the code is the same."""
    if len(old) != 1 or len(new) != 1:
        return False
    (before,), (after,) = old, new
    places = {member.name: member.place for member in before.members if member.name}
    return (
        before.kind in ("struct", "union")
        and all(places.get(member.name, member.place) == member.place for member in after.members)
        and before.size == after.size
        and [(member.place, member.type) for member in before.members] == [(m.place, m.type) for m in after.members]
    )


def _difference(old: Aggregate, new: Aggregate) -> str:
    if old.size != new.size:
        return f"from {old.size} to {new.size} bytes"
    for before, after in zip(old.members, new.members, strict=False):
        if before != after:
            if old.kind == "typedef":
                return f"from {before.type} to {after.type}"
            if old.kind.startswith("enum"):
                return f"value {before.name} = {before.place} becomes {after.name} = {after.place}"
            left, right = (f"{m.name} ({m.type}, at bit {m.place})" for m in (before, after))
            return f"member {left} becomes {right}"
    return f"from {len(old.members)} to {len(new.members)} members"


class _Types:
    """A parsed BTF blob (Documentation/bpf/btf.rst, section 2)."""

    def __init__(self, blob: bytes) -> None:
        magic, version, _, header, type_off, type_len, str_off, str_len = _HEADER.unpack_from(blob, 0)
        if magic != 0xEB9F or version != 1:
            raise BtfError("not a BTF file")
        self._types = blob[header + type_off : header + type_off + type_len]
        self._strings = blob[header + str_off : header + str_off + str_len]
        self._table: list[tuple[str, str, int, int, int, int]] = [("void", "", 0, 0, 0, 0)]
        offset = 0
        while offset < len(self._types):
            name, info, size = _TYPE.unpack_from(self._types, offset)
            number = info >> 24 & 0x1F
            if number >= len(_KINDS):
                raise BtfError(f"unknown type kind {number}")
            kind, count = _KINDS[number], info & 0xFFFF
            self._table.append((kind, self._text(name), size, count, info >> 31, offset + 12))
            extra = {"int": 4, "array": 12, "struct": 12 * count, "union": 12 * count, "enum": 8 * count,
                     "func_proto": 8 * count, "var": 4, "datasec": 12 * count, "decl_tag": 4, "enum64": 12 * count}  # fmt: skip
            offset += 12 + extra.get(kind, 0)
        self._spelled: dict[int, str] = {}

    def _text(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode(errors="replace")

    def aggregates(self) -> dict[str, frozenset[Aggregate]]:
        found: dict[str, set[Aggregate]] = {}
        for number, (kind, name, size, *_rest) in enumerate(self._table):
            if kind in _AGGREGATES and name:
                size = 0 if kind == "typedef" else size
                found.setdefault(f"{kind} {name}", set()).add(Aggregate(kind, name, size, tuple(self._members(number))))
        return {name: frozenset(definitions) for name, definitions in found.items()}

    def prototypes(self) -> dict[str, Prototype]:
        return {
            name: self._prototype(self._table[number][2])
            for number, (kind, name, *_rest) in enumerate(self._table)
            if kind == "func" and name
        }

    def _prototype(self, number: int) -> Prototype:
        kind, _, result, count, _, offset = self._table[number]
        if kind != "func_proto":
            raise BtfError("a function has no prototype")
        types = [struct.unpack_from("<I", self._types, offset + 8 * n + 4)[0] for n in range(count)]
        return Prototype(
            self._passed(result), tuple(Passed("...", "...") if t == 0 else self._passed(t) for t in types)
        )

    def _passed(self, number: int) -> Passed:
        return Passed(self._spell(number), self._form(number))

    def _form(self, number: int, depth: int = 0) -> str:
        kind, name, size, _, _, offset = self._table[number]
        if depth > 64:
            raise BtfError("the types are nested too deeply")
        if kind in ("typedef", "volatile", "const", "restrict", "type_tag"):
            return self._form(size, depth + 1)
        if kind == "int":
            (encoding,) = struct.unpack_from("<I", self._types, offset)
            return "bool" if encoding >> 24 & 4 else f"integer of {size} bytes"
        if kind in ("enum", "enum64"):
            return f"integer of {size} bytes"
        if kind == "ptr":
            return f"pointer to {self._pointee(size)}"
        return f"{kind} {name or self._spell(number)}" if kind != "void" else "void"

    def _pointee(self, number: int) -> str:
        """What a pointer leads to; all pointers to plain bytes and to nothing in particular are one."""
        for _ in range(64):
            kind, name, size, *_rest = self._table[number]
            if kind in ("typedef", "volatile", "const", "restrict", "type_tag"):
                number = size
            elif kind in ("fwd", "struct", "union", "enum", "enum64") and name:
                return name
            elif kind == "void" or (kind == "int" and size == 1):
                return "void"
            else:
                return self._form(number, 1) if kind == "int" else self._spell(number)
        raise BtfError("the types are nested too deeply")

    def _members(self, number: int) -> Iterator[Member]:
        kind, _, target, count, _, offset = self._table[number]
        if kind == "typedef":
            yield Member("", 0, self._spell(target))
            return
        for _ in range(count):
            if kind == "enum":
                name, value = struct.unpack_from("<Ii", self._types, offset)
                yield Member(self._text(name), value, "")
                offset += 8
            elif kind == "enum64":
                name, low, high = struct.unpack_from("<III", self._types, offset)
                yield Member(self._text(name), high << 32 | low, "")
                offset += 12
            else:
                name, type_id, place = _TYPE.unpack_from(self._types, offset)
                yield Member(self._text(name), place, self._spell(type_id))
                offset += 12

    def _spell(self, number: int, depth: int = 0) -> str:
        """A type in words; named aggregates by name only, anonymous ones by their members."""
        if number in self._spelled:
            return self._spelled[number]
        if depth > 64:
            raise BtfError("the types are nested too deeply")
        kind, name, size, count, _, offset = self._table[number]
        if kind in ("struct", "union", "enum", "enum64", "fwd"):
            if name:
                text = name
            else:
                members = ", ".join(f"{m.type} {m.name}:{m.place}" for m in self._members(number))
                # Anonymous types inside one another (typeof) can double their text at each level.
                shown = members if len(members) <= _MAX_SPELLED else f"SHA-256 {sha256_hex(members.encode())}"
                text = f"{kind} {{{shown}}}"
        elif kind == "array":
            element, _, count = _TYPE.unpack_from(self._types, offset)
            text = f"{self._spell(element, depth + 1)}[{count}]"
        elif kind == "ptr":
            text = f"{self._spell(size, depth + 1)} *"
        elif kind in ("int", "float"):
            text = f"{name}:{size}"
        elif kind == "typedef":
            text = name
        elif kind == "func_proto":
            # Who implements and who calls through a pointer must agree on it, as they must on a layout.
            places = range(offset, offset + 8 * count, 8)
            types = (struct.unpack_from("<I", self._types, place + 4)[0] for place in places)
            text = f"{self._spell(size, depth + 1)} ({', '.join(self._spell(number, depth + 1) for number in types)})"
        elif kind in ("volatile", "const", "restrict", "type_tag"):
            text = f"{kind} {self._spell(size, depth + 1)}"
        else:
            text = name or kind
        self._spelled[number] = text
        return text
