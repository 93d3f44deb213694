"""Addresses inside the livepatch that the kernel may keep for longer than the livepatch is there.

A new function's address is told by the extraction. Here it is new data: a table that holds pointers (operations, a list's head, a
timer) and whose address is taken may be put into an object of the kernel's. Reading a variable takes no address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import capstone
from capstone.x86_const import X86_OP_IMM

from kmend.factory.build.compare import Comparison, without_identity
from kmend.factory.build.special import DESCRIPTORS, TABLES, never_copied
from kmend.factory.build.unit import Element

_POINTER = 8


def escaping_data(comparison: Comparison, brought: Iterable[Element]) -> Iterator[str]:
    """Why the module must stay: one sentence for each new object whose address may be kept.

    Args:
        brought: the functions that the livepatch brings.
    """
    new = {id(element): element for element in comparison.new_objects if not without_identity(element)}
    holders = [*brought, *new.values()]
    told = set()
    for holder in holders:
        for reference in holder.references:
            target = reference.target
            if not isinstance(target, Element) or id(target) not in new or id(target) in told or target is holder:
                continue
            if _keeps_pointers(target) and (not holder.is_function or takes_address(holder, reference.offset)):
                told.add(id(target))
                yield f"the kernel may keep the address of the new object {target.name}, which {holder.name} hands out"


def _keeps_pointers(element: Element) -> bool:
    """Whether an object holds pointers, or can be given some."""
    if element.section.name in TABLES or element.section.name in DESCRIPTORS or never_copied(element.section.name):
        return False
    if element.section.name.startswith(".data..percpu"):
        return False
    return bool(element.references) or (element.section.writable and element.size > _POINTER)


def takes_address(function: Element, offset: int) -> bool:
    """Whether the field at `offset` is an address as such (`lea`, `mov $symbol`), not the place of what is read or written."""
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    decoder.skipdata = True
    for instruction in decoder.disasm(function.content, 0):
        if instruction.address <= offset < instruction.address + instruction.size:
            if instruction.id == 0 or instruction.mnemonic == "lea":
                return True
            immediate = any(operand.type == X86_OP_IMM for operand in instruction.operands)
            return immediate and instruction.imm_offset == offset - instruction.address
    return True
