"""E-mail, to a mail server that is an imitation: one message, and no way to make it two."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.server.notices import mail
from kmend.server.notices.errors import DeliveryError
from kmend.server.notices.mail import MailServer


@dataclass
class Post:
    """What the imitation was told, and what it answers."""

    port: int = 0
    lines: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    message: str = ""


@contextlib.contextmanager
def office(**answers: str) -> Iterator[Post]:
    post = Post(answers={word.upper(): answer for word, answer in answers.items()})
    listener = socket.create_server(("127.0.0.1", 0))
    post.port = listener.getsockname()[1]

    def serve() -> None:
        sock, _ = listener.accept()
        with sock, sock.makefile("rwb") as stream:

            def say(line: str) -> None:
                stream.write(line.encode() + b"\r\n")
                stream.flush()

            say("220 imitation")
            while line := stream.readline().decode().strip():
                post.lines.append(line)
                word = line.split(" ")[0].upper()
                if word in post.answers:
                    say(post.answers[word])
                elif word == "DATA":
                    say("354 go on")
                    while (piece := stream.readline()) != b".\r\n":
                        post.message += piece.decode()
                    say("250 taken")
                elif word == "QUIT":
                    say("221 bye")
                    return
                else:
                    say("250 well")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield post
    finally:
        listener.close()
        thread.join(5)


def server(post: Post, **other: str) -> MailServer:
    return MailServer("127.0.0.1", post.port, other.pop("security", "none"), "kmend@example.org", **other)


def test_a_message_is_sent() -> None:
    with office() as post:
        mail.send(server(post), "ops@example.org", "rollout.halted: r1", "body\n.\nend", seconds=5)
    assert "RCPT TO:<ops@example.org>" in [line.replace("rcpt", "RCPT") for line in post.lines]
    assert "Subject: [kmend] rollout.halted: r1" in post.message
    assert "Auto-Submitted: auto-generated" in post.message
    assert post.message.count("\r\n\r\n") >= 1


@pytest.mark.parametrize("word", ["mail", "rcpt", "data"])
def test_a_refusal_is_a_failure(word: str) -> None:
    with office(**{word: "550 no"}) as post, pytest.raises(DeliveryError, match="did not take the message"):
        mail.send(server(post), "ops@example.org", "s", "b", seconds=5)


def test_a_server_without_the_tls_that_is_wanted_gets_nothing() -> None:
    with office(starttls="502 no") as post, pytest.raises(DeliveryError):
        mail.send(
            server(post, security="starttls", user="u", password="hunter2"), "ops@example.org", "s", "b", seconds=5
        )
    assert not [line for line in post.lines if "AUTH" in line or "hunter2" in line]
    assert post.message == ""


def test_nobody_there_and_nothing_configured() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(DeliveryError):
        mail.send(MailServer("127.0.0.1", port, "none", "a@example.org"), "b@example.org", "s", "b", seconds=2)
    with pytest.raises(DeliveryError, match="no mail server"):
        mail.send(MailServer("", 25, "none", ""), "b@example.org", "s", "b", seconds=2)


@given(st.text(max_size=40))
def test_no_address_can_hold_another_header_or_recipient(text: str) -> None:
    if mail.is_address(text):
        assert text.isprintable()
        assert text.count("@") == 1
        assert not set(text) & set(" <>,;:\r\n")
