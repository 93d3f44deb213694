"""Kernel facts say what they are made from; documents of before say so, too, by saying nothing."""

from __future__ import annotations

import json

import pytest

from kmend.core.document import decode, encode, plain
from kmend.core.errors import MalformedError
from kmend.core.facts import KernelFacts, MadeFrom
from kmend.core.kernel import KernelIdentity

FACTS = KernelFacts(KernelIdentity("ab" * 20, "6.1.0-9-amd64", "#1 SMP", "debian:6.1.0-9-amd64@6.1.8-1"), {}, (), {})


def test_a_document_of_before_is_from_debug_information() -> None:
    tree = plain(FACTS)
    assert isinstance(tree, dict)
    assert tree.pop("made_from") == "debug information"
    assert decode(KernelFacts, json.dumps(tree).encode()) == FACTS


def test_what_it_is_made_from_is_kept() -> None:
    facts = KernelFacts(FACTS.kernel, {}, (), {}, made_from=MadeFrom.KBUILD)
    assert b'"made_from":"kbuild"' in encode(facts)
    assert decode(KernelFacts, encode(facts)) == facts


def test_another_word_is_refused() -> None:
    with pytest.raises(MalformedError, match="made_from"):
        decode(KernelFacts, encode(FACTS).replace(b"debug information", b"hearsay"))
