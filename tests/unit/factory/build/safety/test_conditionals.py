"""Which lines a configuration leaves out."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.factory.build.safety.conditionals import left_out

CONFIG = {"CONFIG_ON": "y", "CONFIG_MOD": "m", "CONFIG_OFF": "n", "CONFIG_NUMBER": "64", "CONFIG_ZERO": "0"}


@pytest.mark.parametrize(
    ("condition", "out"),
    [
        ("#ifdef CONFIG_ON", False),
        ("#ifdef CONFIG_OFF", True),
        ("#ifdef CONFIG_ABSENT", True),
        ("#ifndef CONFIG_ON", True),
        ("#ifndef CONFIG_OFF", False),
        ("#ifdef CONFIG_MOD", True),
        ("#ifdef CONFIG_MOD_MODULE", False),
        ("#ifdef CONFIG_NUMBER", False),
        ("#ifdef MODULE", True),
        ("#ifdef DEBUG", False),
        ("#if 0", True),
        ("#if 1", False),
        ("#if IS_ENABLED(CONFIG_MOD)", False),
        ("#if IS_ENABLED(CONFIG_OFF)", True),
        ("#if IS_BUILTIN(CONFIG_MOD)", True),
        ("#if IS_MODULE(CONFIG_MOD)", False),
        ("#if IS_REACHABLE(CONFIG_MOD)", False),
        ("#if IS_REACHABLE(CONFIG_OFF)", True),
        ("#if defined(CONFIG_ON) && !defined(CONFIG_OFF)", False),
        ("#if defined CONFIG_OFF || defined(CONFIG_ABSENT)", True),
        ("#if defined(CONFIG_ON) && defined(CONFIG_OFF)", True),
        ("#if defined(SOMETHING) && defined(CONFIG_OFF)", True),
        ("#if defined(SOMETHING) || defined(CONFIG_OFF)", False),
        ("#if !(defined(CONFIG_ON))", True),
        ("#if CONFIG_NUMBER > 32", False),
        ("#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 1, 0)", False),
        ("#if CONFIG_ZERO", True),
        ("#if (", False),
        ("#if defined(", False),
        ("#if", False),
        ("#if f(1", False),
    ],
)
def test_conditions(condition: str, out: bool) -> None:
    found = left_out(f"int a;\n{condition}\nint b;\n#endif\nint c;\n".encode(), CONFIG, module=False)
    assert found == ({3: condition} if out else {})


def test_branches() -> None:
    text = (
        b"#ifdef CONFIG_ON\na\n#else\nb\n#endif\n#ifdef CONFIG_OFF\nc\n#elif defined(CONFIG_ON)\nd\n#else\ne\n#endif\n"
    )
    found = left_out(text, CONFIG, module=False)
    assert found.keys() == {4, 7, 11}
    assert found[4] == "#else of #ifdef CONFIG_ON"


def test_an_open_question_stays_one() -> None:
    text = b"#ifdef DEBUG\na\n#else\nb\n#endif\n#if UNKNOWN\nc\n#elif defined(CONFIG_OFF)\nd\n#else\ne\n#endif\n"
    assert left_out(text, CONFIG, module=False).keys() == {9}


def test_the_outermost_reason_is_told_and_comments_do_not_count() -> None:
    text = b"#ifdef CONFIG_OFF\n#ifdef CONFIG_ON\na\n#endif\n/*\n#endif\n*/\nb\n#endif\nc\n"
    found = left_out(text, CONFIG, module=False)
    assert {3, 8} <= found.keys()
    assert 10 not in found
    assert set(found.values()) == {"#ifdef CONFIG_OFF"}


def test_a_module_s_own_part() -> None:
    assert left_out(b"#ifndef MODULE\na\n#endif\n", CONFIG, module=True) == {2: "#ifndef MODULE"}


PIECES = '#if|#ifdef|#else|#elif|#endif|defined|(|)|&&|!|CONFIG_ON|CONFIG_OFF|0|X|>|/*|*/|"|\n|\\\n| |@'
WORDS = st.sampled_from(re.split(r"\|", PIECES))


@given(st.lists(WORDS, max_size=60))
def test_any_text_is_read(words: list[str]) -> None:
    left_out("".join(words).encode(), CONFIG, module=False)
