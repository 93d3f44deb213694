"""The agent says what it has said since protocol version 1, byte for byte, and understands the same answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.core import transcripts
from tests.unit.core.transcripts import recording

from kmend.agent import conversation
from kmend.agent.conversation import ServerError
from kmend.core.document import decode, encode
from kmend.core.wire import CHECK_IN_PATH, ENROL_PATH, SPLIT_PATH, Answer, CheckIn, Enrolled, News


def test_the_agent_says_what_it_always_said() -> None:
    for made, gained in ((recording.record(), ""), (recording.record_modules(), "modules")):
        assert made == transcripts.read(1, f"chain-{gained}".rstrip("-"))
        assert recording.before_chains(made) == recording.before_chains(transcripts.read(1, gained))


@pytest.mark.parametrize(
    "item",
    [item for gained in ("", "modules", "chain", "chain-modules") for item in transcripts.read(1, gained).exchanges],
    ids=lambda item: item.name,
)
def test_recorded_answers_are_understood(item: transcripts.Exchange) -> None:
    content = item.answer.encode()
    if item.status != 200:
        with pytest.raises(ServerError):
            raise conversation.refused(item.status, content)
        return
    kinds: dict[str, type[object]] = {CHECK_IN_PATH: Answer, ENROL_PATH: Enrolled, SPLIT_PATH: Enrolled}
    conversation.read(kinds.get(item.path, News), content)
    # What a later server adds is passed over.
    conversation.read(kinds.get(item.path, News), content[:-1] + b',"later":{"a":[1]}}')


def test_a_check_in_with_nothing_new_is_small() -> None:
    (item,) = [item for item in transcripts.read(1).exchanges if item.name == "nothing new"]
    assert decode(CheckIn, item.body.encode()).state is None
    assert len(item.body) + sum(len(name) + len(value) + 4 for name, value in item.headers.items()) < 700


def test_modules_cost_a_tag_when_nothing_is_new() -> None:
    (item,) = [item for item in transcripts.read(1, "modules").exchanges if item.name == "nothing new"]
    message = decode(CheckIn, item.body.encode())
    assert message.modules
    assert message.module_report is None
    bare = encode(replace(message, modules=""))
    assert len(item.body) - len(bare) == len(',"modules":"0123456789abcdef"') == 29
    assert b"modules" not in bare
    assert "modules" not in item.answer


def test_a_link_goes_beside_a_state_only() -> None:
    for gained in ("chain", "chain-modules"):
        for item in transcripts.read(1, gained).exchanges:
            if item.path == CHECK_IN_PATH:
                message = decode(CheckIn, item.body.encode())
                assert bool(message.after) == (message.state is not None)
