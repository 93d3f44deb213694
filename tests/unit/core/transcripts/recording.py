"""Makes the transcript of the protocol as the agent speaks it now: `python -m tests.unit.core.transcripts.recording`."""

from __future__ import annotations

import functools
import json
import uuid
from dataclasses import replace

from tests.unit.agent.director import KEY, Director
from tests.unit.agent.party import MemoryParty, Wire, check_in
from tests.unit.core import transcripts
from tests.unit.core.transcripts import Exchange, Transcript
from tests.unit.sample_livepatch import BUILD_ID

from kmend.agent import exchange
from kmend.core.document import decode, encode, plain
from kmend.core.wire import CHECK_IN_PATH, SIGNATURE_HEADER, CheckIn, ModuleReport, Offer
from kmend.trust import hostkey

TIMESTAMP = '{"signatures":[],"signed":{"_type":"timestamp","expires":"2030-01-01T00:00:00Z","version":7}}'
SEEDS = (bytes(range(32)), bytes(range(32, 64)))


def record() -> Transcript:
    """A host that enrols, reports, is offered a level, tries it, is behind with its counter, and finds itself to be a copy."""
    director, host, exchanges, names = _enrolled()
    for name, state, offer in (
        ("first check-in, with the whole state", "idle", Offer(BUILD_ID, 0)),
        ("a level is offered", "idle", Offer(BUILD_ID, 1, reason="spring")),
        ("nothing new", "idle", Offer(BUILD_ID, 1, reason="spring")),
        ("another state", "soaking", Offer(BUILD_ID, 1, reason="spring")),
        ("sent back while it is tried", "soaking", Offer(BUILD_ID, 0, back=1, reason="halted")),
    ):
        names.append(name)
        host.level_state = state
        host.at += 60
        director.offer(offer)
        check_in(director, host)
    names.append("the server has lost the state")
    for row in director.rows.values():
        row.report, row.state = "", None
    check_in(director, host)
    names.append("a counter that lies behind")
    host.disk.files["counter"] = 1
    check_in(director, host)
    names.append("news")
    request = exchange.news(host.identity(), "1.0", host.at, 300, host.sign)
    director.answer(request.path, request.headers, request.body)
    names.append("a start of the machine")
    host.boot_id = str(uuid.UUID(int=2, version=4))
    check_in(director, host)
    names.append("a copy on another machine")
    host.here = "ff" * 32
    host.disk.files["coming"] = SEEDS[1]
    check_in(director, host)
    names.append("decommissioned")
    for row in director.rows.values():
        row.decommissioned = True
    message = next(exchange.check_in(host))
    director.answer(message.path, message.headers, message.body)
    return Transcript(1, tuple(exchanges))


def record_modules() -> Transcript:
    """A host that says what it says of its modules: once it is asked, then when it changes, then no more."""
    director, host, exchanges, names = _enrolled()
    director.wants_modules = True
    director.offer(Offer(BUILD_ID, 0))
    first = ModuleReport(("ext4", "virtio_net"), ("dccp",), ("exfat",), installed="6.1.187-1")
    second = replace(first, loaded=("exfat", "ext4", "virtio_net"), absent=(), sealed=True, unpatched=("exfat",))
    for name, said in (
        ("first check-in, and what is asked for then", first),
        ("nothing new", first),
        ("other modules", second),
        ("nothing new of the other modules", second),
        ("it cannot tell any more", None),
    ):
        names.append(name)
        host.module_report = said
        host.at += 60
        check_in(director, host)
    names.append("the server has lost what it was told")
    host.module_report = second
    check_in(director, host)
    for row in director.rows.values():
        row.modules, row.module_report = "", None
    check_in(director, host)
    return Transcript(1, tuple(exchanges))


def _enrolled() -> tuple[Director, MemoryParty, list[Exchange], list[str]]:
    """A server, a host that has just enrolled there, what they say to each other, and what that is called from now on."""
    director = Director()
    director.timestamp = TIMESTAMP
    exchanges: list[Exchange] = []
    names: list[str] = []

    def note(path: str, status: int, content: bytes) -> None:
        _, headers, body = director.received[-1]
        exchanges.append(Exchange(names[-1], path, headers, body.decode(), status, content.decode()))

    director.meddle = note
    host = MemoryParty()
    host.disk.files["coming"] = SEEDS[0]
    names.append("enrolment")
    sign = functools.partial(hostkey.sign, SEEDS[0])
    course = exchange.enrol(KEY, "https://kmend.example", hostkey.public_key(SEEDS[0]), host.facts(host.here), sign)
    host.become(Wire(director).run(course)[0], SEEDS[0])
    return director, host, exchanges, names


def before_chains(found: Transcript) -> Transcript:
    """As an agent would have said it that does not name what its reports follow; what is signed then is another thing."""
    return replace(found, exchanges=tuple(_before_chains(item) for item in found.exchanges))


def _before_chains(item: Exchange) -> Exchange:
    if item.path != CHECK_IN_PATH:
        return item
    message = replace(decode(CheckIn, item.body.encode()), after="")
    return replace(item, body=encode(message).decode(), headers={**item.headers, SIGNATURE_HEADER: ""})


def main() -> None:
    """Write what there is no file for yet."""
    for gained, made in (("chain", record()), ("chain-modules", record_modules())):
        path = transcripts.path(made.protocol, gained)
        if not path.exists():
            path.write_text(json.dumps(plain(made), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
