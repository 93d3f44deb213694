"""A header's pieces: what each declares, and which differ."""

from __future__ import annotations

from kmend.factory.derive.declarations import DeclarationKind, changed_declarations, declarations, only_expands


def named(content: bytes) -> list[tuple[DeclarationKind, set[str]]]:
    return [(piece.kind, set(piece.names)) for piece in declarations(content)]


def test_every_kind_is_told_from_the_others() -> None:
    content = b"""\
#include <linux/types.h>
#define TWICE(x) \\
	((x) + (x))
struct pair { int one, two; };
enum { RED, GREEN = 3 };
typedef int (*maker_t)(void);
extern int count;
int make(struct pair *pair);
static inline int first(struct pair *pair)
{
	return pair->one;
}
"""
    assert named(content) == [
        (DeclarationKind.DIRECTIVE, set()),
        (DeclarationKind.MACRO, {"TWICE"}),
        (DeclarationKind.TYPE, {"pair"}),
        (DeclarationKind.TYPE, {"RED", "GREEN"}),
        (DeclarationKind.TYPE, {"maker_t"}),
        (DeclarationKind.OTHER, {"count"}),
        (DeclarationKind.OTHER, {"make"}),
        (DeclarationKind.FUNCTION, {"first"}),
    ]


def test_a_type_named_without_its_members_declares_nothing_that_can_change() -> None:
    assert named(b"struct inode;\n") == [(DeclarationKind.DIRECTIVE, set())]


def test_what_only_an_assembler_sees_is_left_out() -> None:
    content = b"""\
#ifdef __ASSEMBLY__
.macro SAVE reg
	push \\reg
.endm
#else /* __ASSEMBLY__ */
extern int word;
#endif
"""
    assert named(content) == [(DeclarationKind.OTHER, {"word"})]


def test_an_expansion_without_semicolon_ends_at_its_parenthesis() -> None:
    content = b"""\
DEFINE_CLASS(item, int, if (_T >= 0) put(_T),
		get(flags), unsigned flags)
DEFINE_FREE(drop, struct file *, if (_T) drop(_T))
extern void drop(struct file *file);
"""
    found = named(content)
    assert len(found) == 3
    assert "drop" in found[1][1]
    assert found[2] == (DeclarationKind.OTHER, {"drop"})
    assert named(b"SYSCALL_DEFINE1(dup, int, fd)\n{\n\treturn 0;\n}\n")[0][0] is DeclarationKind.FUNCTION


def test_an_expansion_is_known_by_what_it_declares_not_by_its_macro() -> None:
    assert named(b"DECLARE_STATIC_KEY_FALSE(slow_path);\n") == [(DeclarationKind.OTHER, {"slow_path"})]


def test_an_expansion_that_comes_to_a_prototype_changes_nothing_for_its_users() -> None:
    old = b"extern void drop(struct file *file);\n"
    (change,) = changed_declarations(old, old + b"DEFINE_FREE(drop, struct file *, if (_T) drop(_T))\n")
    assert only_expands(change)
    (change,) = changed_declarations(old, b"extern int drop(struct file *file);\n")
    assert not only_expands(change)


def test_comments_and_white_space_are_no_change() -> None:
    assert changed_declarations(b"int a;\n", b"/* a */ int  a;\n") == []
