"""The page for patch authors names every refusal and every warning there is, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

from kmend.factory.build.builder import WARNING_CODES
from kmend.factory.build.refusal import ALLOWABLE, RefusalCode

PAGE = Path(__file__).parents[4] / "docs/patch-authors.md"


def codes_of(section: str) -> set[str]:
    """The codes in the first column of a section's table."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    return {code for row in rows for code in re.findall(r"`([a-z-]+)`", row)}


def test_every_refusal_is_explained() -> None:
    assert codes_of("What is refused, and what to do then") == {code.value for code in RefusalCode}


def test_every_warning_is_explained() -> None:
    assert codes_of("What is warned of") == WARNING_CODES


def test_what_can_be_stated_is_named() -> None:
    (sentence,) = re.findall(r"^That is possible for (.*)\.$", PAGE.read_text(), re.MULTILINE)
    assert set(re.findall(r"`([a-z-]+)`", sentence)) == {code.value for code in ALLOWABLE}
