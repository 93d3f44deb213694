"""Logs: one object a line, whatever is logged, and nothing that looks like a secret."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.server.access import secrets
from kmend.server.operations import logs


def line(message: str, *words: object, **extra: object) -> str:
    record = logging.getLogger("kmend.test").makeRecord(
        "kmend.test", logging.INFO, "f", 1, message, words, None, extra=extra
    )
    return logs.JsonFormatter().format(record)


@pytest.mark.parametrize("kind", ["token", "enrol", "hook"])
def test_our_own_secrets_never_come_out(kind: str) -> None:
    secret = secrets.make(kind)
    for told in (line("a %s b", secret), line("x", path=f"/a?token={secret}"), line(f"Bearer {secret}")):
        assert secret not in told
        assert "***" in told


def test_others_secrets_by_their_place() -> None:
    for text in (
        "postgresql+psycopg://kmend:hunter2@db/kmend",
        "Authorization: Bearer hunter2.abc",
        "signature " + "0123456789abcdef" * 8,
    ):
        told = line(text)
        assert "hunter2" not in told
        assert "0123456789abcdef" * 8 not in told
    assert "https://db.example/x" in line("https://db.example/x")


def test_a_traceback_is_cleaned_too() -> None:
    secret = secrets.make("token")
    try:
        raise ValueError(f"bad token {secret}")
    except ValueError as problem:
        record = logging.LogRecord("n", logging.ERROR, "f", 1, "m", (), (type(problem), problem, problem.__traceback__))
    for formatter in (logs.JsonFormatter(), logs.TextFormatter()):
        told = formatter.format(record)
        assert "ValueError" in told
        assert secret not in told


@given(st.text())
def test_any_message_is_one_line_of_json(text: str) -> None:
    told = line("%s", text)
    assert "\n" not in told
    assert json.loads(told)["logger"] == "kmend.test"


def test_the_requests_number_is_in_the_line() -> None:
    token = logs.request_id.set("r-1")
    try:
        tree = json.loads(line("m", status=200, unknown="x"))
    finally:
        logs.request_id.reset(token)
    assert (tree["request"], tree["status"]) == ("r-1", 200)
    assert "unknown" not in tree
