"""Where instructions end, and where branches without a relocation lead."""

from __future__ import annotations

import pytest
from tests.unit.factory.compiling import assemble

from kmend.factory.build.unit import External, Unit
from kmend.factory.elf import ElfError, read_object
from kmend.factory.elf.constants import PC_RELATIVE
from kmend.factory.elf.instructions import Branch, InstructionEnds, direct_branches


def bias_of(instruction: str) -> int:
    """Bytes from the relocated field to the instruction's end, in the middle of a function."""
    text = f".text\n.type f,@function\nf: nop\nmovl $1, %eax\n{instruction}\nmovl $2, %eax\nret\n.size f, .-f\n"
    image = read_object(assemble(text))
    section = image.section(".text")
    assert section is not None
    (relocation,) = section.relocations
    assert relocation.type in PC_RELATIVE
    return InstructionEnds().end_of(section.content, relocation.offset, "f") - relocation.offset


@pytest.mark.parametrize(
    ("instruction", "bias"),
    [
        ("call target", 4),
        ("jmp target", 4),
        ("jne target", 4),
        ("lea target(%rip), %rdi", 4),
        ("mov target(%rip), %rax", 4),
        ("incl target(%rip)", 4),
        ("lock cmpxchg %ecx, target(%rip)", 4),
        ("cmpb $0, target(%rip)", 5),
        ("cmpl $1, target(%rip)", 5),
        ("cmpq $0x7f, target(%rip)", 5),
        ("testb $4, target(%rip)", 5),
        ("shll $3, target(%rip)", 5),
        ("movw $0x1234, target(%rip)", 6),
        ("movl $0x12345678, target(%rip)", 8),
        ("movq $0x12345678, target(%rip)", 8),
        ("andq $-256, target(%rip)", 8),
        ("imul $1000, target(%rip), %eax", 8),
        ("incq %gs:target(%rip)", 4),
        ("call *target(%rip)", 4),
    ],
)
def test_the_end_of_an_instruction(instruction: str, bias: int) -> None:
    assert bias_of(instruction) == bias


def test_a_reference_leads_to_the_same_place_whatever_follows_the_field() -> None:
    text = (
        ".text\n.type f,@function\nf: cmpl $0, pair+4(%rip)\nmov pair+4(%rip), %eax\nmovl $77777, pair+4(%rip)\n"
        "movl $7, far+8(%rip)\nret\n.size f, .-f\n"
        ".data\n.type pair,@object\npair: .quad 1\n.size pair, 8\n.type next,@object\nnext: .quad 2\n.size next, 8\n"
    )
    (function,) = Unit("unit.c", read_object(assemble(text))).functions
    *inside, outside = function.references
    assert [reference.bias for reference in inside] == [5, 4, 8]
    for reference in inside:
        assert not isinstance(reference.target, External)
        assert (reference.target.name, reference.target_offset) == ("pair", 4)
    assert outside.target == External("far")
    assert (outside.target_offset, outside.bias, outside.addend) == (8, 8, 0)


def test_bytes_that_are_no_such_instruction() -> None:
    with pytest.raises(ElfError, match="belongs to no instruction"):
        InstructionEnds().end_of(bytes(16), 8, "zeros")
    with pytest.raises(ElfError, match="cannot be decoded"):
        InstructionEnds().end_of(b"\x8b\x05\0\0", 2, "cut short")
    with pytest.raises(ElfError, match="belongs to no instruction"):
        InstructionEnds().end_of(b"\0\0\0\0\0", 0, "nothing before it")


def test_direct_branches() -> None:
    text = (
        ".text\nstart: jmp start+4\nnop\nnop\ncall near\n.byte 0xeb, 0x10\njne near\nnop\ncall *%rax\njmp *8(%rax)\n"
        "cs call near\nnear: loop near\nret\n"
    )
    section = read_object(assemble(text)).section(".text")
    assert section is not None
    near = section.content.index(b"\xe2\xfe")
    found = list(direct_branches(section.content))
    assert found[0] == Branch(1, 1, 4)
    assert found[1] == Branch(5, 4, near)
    assert found[2] == Branch(10, 1, 11 + 0x10)
    assert [branch.target for branch in found[3:]] == [near] * 3
    assert [branch.width for branch in found[3:]] == [1, 4, 1]
    for branch in found:
        field = section.content[branch.field : branch.field + branch.width]
        assert branch.field + branch.width + int.from_bytes(field, "little", signed=True) == branch.target


def test_neighbours_in_one_section_refer_to_each_other() -> None:
    """The assembler settles what it can; the unit knows of it all the same."""
    filler = "\n".join(["movl $1, %eax"] * 60)
    text = (
        f".text\n.type a,@function\na: call c\njmp b\n{filler}\nret\n.size a, .-a\n"
        ".type b,@function\nb: nop\njmp c\nret\n.size b, .-b\n.type c,@function\nc: ret\n.size c, .-c\n"
    )
    unit = Unit("unit.c", read_object(assemble(text)))
    a, b, _ = unit.functions
    named = [
        (reference.target.name, reference.target_offset, reference.bias) for reference in [*a.references, *b.references]
    ]
    assert named == [("c", 0, 4), ("b", 0, 4), ("c", 0, 1)]
