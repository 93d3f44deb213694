"""What a file needs of the newer kernel's other changes is found by names, through headers, and not more than that."""

from __future__ import annotations

from kmend.factory.fixes import apply_series, parse_fix
from kmend.factory.survey.companions import Companions, missing_members, missing_names, related, words_of_errors

HEADER = b"""\
static inline int low(int x)
{
	return x;
}

static inline int other(int x)
{
	return x;
}

static inline int high(int x)
{
	return low(x) + 1;
}
"""
NEWER = HEADER.replace(b"return x;", b"return x & 7;")


def companions(**differing: tuple[bytes, bytes]) -> Companions:
    paths = {
        name.replace("_", "/", 1) + (".c" if name.endswith("file") else ".h"): both for name, both in differing.items()
    }
    return Companions(paths, set(paths))


def patched(chosen: Companions, path: str, old: bytes) -> bytes:
    return apply_series(lambda _: old, [parse_fix(chosen.patch(), "x.patch")])[path].patched


def test_only_the_named_declaration_is_taken() -> None:
    chosen = companions(include_a=(HEADER, NEWER))
    assert chosen.add({"low"})
    assert patched(chosen, "include/a.h", HEADER) == HEADER.replace(b"return x;", b"return x & 7;", 1)
    assert not chosen.add({"low"})


def test_a_change_is_reached_through_another_inline_function() -> None:
    chosen = companions(include_a=(HEADER, NEWER))
    assert not chosen.add_reached({"unrelated"}, lambda _: HEADER)
    assert chosen.add_reached({"high"}, lambda _: HEADER)
    assert patched(chosen, "include/a.h", HEADER) == HEADER.replace(b"return x;", b"return x & 7;", 1)


def test_a_function_that_only_the_newer_kernel_has_comes_along_from_its_file() -> None:
    old = b"int old(void)\n{\n\treturn 1;\n}\n\nint between(void)\n{\n\treturn 5;\n}\n"
    new = old.replace(b"return 1", b"return 2") + b"\nint fresh(void)\n{\n\treturn 3;\n}\n"
    chosen = companions(net_file=(old, new))
    assert not chosen.add_definitions({"old"})
    assert chosen.add_definitions({"fresh"})
    assert patched(chosen, "net/file.c", old) == old + b"\nint fresh(void)\n{\n\treturn 3;\n}\n"


def test_names_that_macros_make_are_found_by_the_lines_that_bring_them() -> None:
    old = b'#define REASONS \\\n\tEM(reason_new, "NEW") \\\n\tE_(reason_old, "OLD")\n\nint a;\n\nint b;\n\nint c;\n'
    new = old.replace(b"\tE_", b'\tEM(reason_put, "PUT") \\\n\tE_').replace(b"int c;", b"int d;")
    chosen = companions(fs_trace=(old, new))
    assert not chosen.add_mentions({"reason_old"})
    assert chosen.add_mentions({"reason_put"})
    assert patched(chosen, "fs/trace.h", old) == new.replace(b"int d;", b"int c;")


def test_the_compilers_complaints_name_what_is_missing() -> None:
    errors = (
        "a.c:3:9: error: implicit declaration of function 'fresh'; did you mean 'old'?\n"
        "a.c:4:9: error: 'struct pair' has no member named 'three'\n"
    )
    assert missing_names(errors) == {"fresh"}
    assert missing_members(errors) == {"three"}
    assert words_of_errors("fixed/a.c:1:2: error: no such thing", "a.c", b"long_word;") == {"long_word"}
    assert {"item", "fput"} <= words_of_errors(
        "a.c:1:2: error: cleanup argument not a function", "a.c", b"item __free(fput);"
    )


def test_keywords_name_nothing() -> None:
    text = b"int x;\nstatic struct outer *find(struct inner *key, void *none)\n"
    assert words_of_errors("a/b.c:2:5: error: no", "a/b.c", text) == {"outer", "find", "inner", "none"}


def test_what_words_suggest_is_looked_for_near_the_file() -> None:
    old = b"struct wait {\n\tint a;\n};\n"
    new = b"struct wait {\n\tint a;\n\tint b;\n};\n"
    chosen = companions(fs_ceph=(old, new), include_sched=(old, new))
    near = related(chosen.reach, "fs/ceph/file.c")
    assert near == {"fs/ceph.h"}
    assert related(["include/linux/ceph/map.h", "fs/ceph/super.h", "fs/other.h"], "fs/ceph/file.c") == {
        "include/linux/ceph/map.h",
        "fs/ceph/super.h",
    }
    assert chosen.add({"wait"}, within=near)
    taken = [chosen.paths]
    assert chosen.add({"wait"})
    assert [*taken, chosen.paths] == [("fs/ceph.h",), ("fs/ceph.h", "include/sched.h")]
