"""The page for patch authors names every refusal there is, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

from kmend.factory.build.refusal import ALLOWABLE, RefusalCode

PAGE = Path(__file__).parents[4] / "docs/patch-authors.md"


def test_every_code_is_explained() -> None:
    rows = re.findall(r"^\| (`[^|]*) \|", PAGE.read_text(), re.MULTILINE)
    named = {code for row in rows for code in re.findall(r"`([a-z-]+)`", row)}
    assert named == {code.value for code in RefusalCode}


def test_what_can_be_stated_is_named() -> None:
    (sentence,) = re.findall(r"^That is possible for (.*)\.$", PAGE.read_text(), re.MULTILINE)
    assert set(re.findall(r"`([a-z-]+)`", sentence)) == {code.value for code in ALLOWABLE}
