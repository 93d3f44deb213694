"""The server understands what hosts of protocol version 1 have said, and judges it as it was judged then."""

from __future__ import annotations

import json

import pytest
from tests.unit.core import transcripts
from tests.unit.core.transcripts import Exchange

from kmend.core.document import decode, encode
from kmend.core.wire import (
    CHECK_IN_PATH,
    ENROL_PATH,
    HOST_HEADER,
    NEWS_PATH,
    SIGNATURE_HEADER,
    SPLIT_PATH,
    CheckIn,
    Enrolled,
    Enrolment,
    NewsRequest,
    Purpose,
    Split,
)
from kmend.server.hosts.checkin import ENROLLED, Accepted, Known, Received, Resync, judge
from kmend.server.hosts.signatures import signed

BLANK = Known(
    id="", public_key="", name="", ring="default", state=ENROLLED, counter=0, boot_id="", boots="[]", resyncs=0, report="",
    machine="", build_id="", level=0, trying=0, phase="", accepts_return=False, hardware="", role="", distro="", answer="",
    refuses="[]", cloned_at=0,
)  # fmt: skip


def _with(known: Known, **changes: object) -> Known:
    names = Known.__slots__
    return Known(**{name: changes.get(name, getattr(known, name)) for name in names})  # type: ignore[arg-type]


def _enrolled(item: Exchange, server: list[str], machine: str, public_key: str) -> Known:
    answer = decode(Enrolled, item.answer.encode())
    server[:] = [answer.server]
    return _with(BLANK, id=answer.host, public_key=public_key, machine=machine)


@pytest.mark.parametrize("gained", ["", "modules", "chain", "chain-modules"])
def test_recorded_requests_are_judged_as_they_were(gained: str) -> None:
    known, server = BLANK, [""]
    for item in transcripts.read(1, gained).exchanges:
        body, signature = item.body.encode(), item.headers[SIGNATURE_HEADER]
        if item.path == ENROL_PATH:
            enrolment = decode(Enrolment, body)
            assert signed(enrolment.public_key, signature, Purpose.ENROL, "", body)
            known = _enrolled(item, server, enrolment.facts.machine, enrolment.public_key)
            continue
        assert item.headers[HOST_HEADER] == known.id
        if item.path == SPLIT_PATH:
            assert signed(known.public_key, signature, Purpose.SPLIT, server[0], body)
            split = decode(Split, body)
            known = _enrolled(item, server, split.facts.machine, split.public_key)
        elif item.path == NEWS_PATH:
            assert decode(NewsRequest, body).host == known.id
            assert signed(known.public_key, signature, Purpose.NEWS, server[0], body)
        elif item.path == CHECK_IN_PATH:
            known = _judged(item, known, server[0], body, signature)


def _judged(item: Exchange, known: Known, server: str, body: bytes, signature: str) -> Known:
    message = decode(CheckIn, body)
    answer = json.loads(item.answer)
    if item.name == "decommissioned":
        known = _with(known, state="decommissioned")
    elif answer.get("send_state"):
        known = _with(known, report="")
    if item.name == "the server has lost what it was told" and answer.get("send_modules"):
        known = _with(known, modules="")
    outcome = judge(known, Received(body, signature, "192.0.2.1", message), server)
    if item.status == 200:
        assert isinstance(outcome, Accepted), item.name
        assert outcome.send_state == answer.get("send_state", False), item.name
        assert outcome.send_modules == answer.get("send_modules", False), item.name
        return _with(known, counter=message.counter, **outcome.changes)
    refused = outcome.refused if isinstance(outcome, Resync) else outcome
    assert not isinstance(refused, Accepted)
    was = json.loads(encode(refused.problem()))
    assert (was["status"], was["type"], was.get("counter", 0)) == (
        item.status,
        answer["type"],
        answer.get("counter", 0),
    )
    return known


def test_a_forged_body_is_not_signed() -> None:
    item = transcripts.read(1).exchanges[1]
    enrolment = decode(Enrolment, transcripts.read(1).exchanges[0].body.encode())
    body = item.body.replace('"idle"', '"held"').encode()
    assert not signed(enrolment.public_key, item.headers[SIGNATURE_HEADER], Purpose.CHECK_IN, "5e" * 16, body)
