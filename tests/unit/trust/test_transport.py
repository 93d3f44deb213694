"""What the transport makes of servers that are slow, broken, huge, or somebody else; every one of them on loopback."""

from __future__ import annotations

import gzip
import itertools
import logging
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.unit.trust.authority import Authority
from tests.unit.trust.loopback import CLOSE, RESET, Request, Step, reply, serving, tunnel

from kmend.trust.errors import (
    DeniedError,
    InterceptedError,
    MismatchError,
    MissingError,
    RedirectError,
    SlowError,
    TooLargeError,
    TrustError,
    UnreachableError,
)
from kmend.trust.network import Network
from kmend.trust.transport import Partial, Transport

QUICK = Network(connect=2, read=2, total=10)
BODY = bytes(range(256)) * 1024


class Patient:
    """Records pauses instead of making them."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.pauses.append(seconds)


def quick(network: Network = QUICK, sleep: Patient | None = None, **environment: str) -> Transport:
    """A transport that neither waits long nor sees the environment of whoever runs the tests."""
    return Transport(network, environment=environment, sleep=sleep or Patient(), draw=lambda: 0.5)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_for_again(status: int) -> None:
    answers = iter([reply(status), reply(status), reply(200, b"here")])
    sleep = Patient()
    with serving(lambda _: next(answers)) as server:
        assert quick(sleep=sleep).get(f"{server.url}/a", 10).content == b"here"
    assert sleep.pauses == [0.25, 0.5]
    assert server.connections == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, UnreachableError), (401, DeniedError), (403, DeniedError), (404, MissingError), (410, MissingError),
     (501, UnreachableError), (505, UnreachableError), (300, UnreachableError), (204, UnreachableError),
     (304, UnreachableError)],
)  # fmt: skip
def test_what_stays_is_asked_for_once(status: int, error: type[TrustError]) -> None:
    with serving(lambda _: reply(status)) as server, pytest.raises(error, match=str(status)):
        quick().get(f"{server.url}/a", 10)
    assert len(server.requests) == 1


def test_attempts_come_to_an_end() -> None:
    with serving(lambda _: reply(503)) as server, pytest.raises(UnreachableError, match="503"):
        quick().get(f"{server.url}/a", 10)
    assert len(server.requests) == 4


def test_retry_after_is_honoured() -> None:
    answers = iter([reply(503, Retry_After="7"), reply(200, b"here")])
    sleep = Patient()
    with serving(lambda _: next(answers)) as server:
        Transport(Network(total=30), environment={}, sleep=sleep, draw=lambda: 0.5).get(f"{server.url}/a", 10)
    assert sleep.pauses == [7.25]


def test_long_retry_after_is_handed_on() -> None:
    with serving(lambda _: reply(429, Retry_After="3600")) as server, pytest.raises(UnreachableError) as caught:
        quick().get(f"{server.url}/a", 10)
    assert caught.value.retry_after == 3600
    assert "left alone for 3600 s" in caught.value.hint
    assert len(server.requests) == 1


def cut(after: int, **headers: str) -> Iterable[Step]:
    return [reply(200, BODY[:after], Content_Length=str(len(BODY)), **headers), CLOSE]


def test_broken_download_is_continued() -> None:
    def script(request: Request) -> Iterable[Step] | bytes:
        if "range" not in request.headers:
            return cut(100_000, ETag='"a"')
        start = int(request.headers["range"][6:-1])
        return reply(206, BODY[start:], ETag='"a"', Content_Range=f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")

    partial = Partial()
    with serving(script) as server:
        assert quick().get(f"{server.url}/a", len(BODY), partial=partial).content == BODY
    assert [request.headers.get("if-range") for request in server.requests] == [None, '"a"']
    assert partial.resumed == 1


@pytest.mark.parametrize("second", ["whole", "416", "elsewhere", "unreadable"])
def test_server_that_does_not_continue_is_asked_for_the_whole(second: str) -> None:
    def script(request: Request) -> Iterable[Step] | bytes:
        if len(server.requests) == 1:
            return cut(100_000, Last_Modified="Mon, 02 Nov 2026 00:00:00 GMT")
        if "range" in request.headers and second != "whole":
            assert request.headers["if-range"] == "Mon, 02 Nov 2026 00:00:00 GMT"
            return {
                "416": reply(416),
                "elsewhere": reply(206, BODY[5:], Content_Range=f"bytes 5-{len(BODY) - 1}/{len(BODY)}"),
                "unreadable": reply(206, BODY, Content_Range="sheep 3"),
            }[second]
        return reply(200, BODY)

    with serving(script) as server:
        assert quick().get(f"{server.url}/a", len(BODY)).content == BODY


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"a"'}])
def test_without_a_strong_validator_nothing_is_continued(headers: dict[str, str]) -> None:
    answers = iter([cut(1000, **headers), reply(200, BODY)])
    with serving(lambda _: next(answers)) as server:
        assert quick().get(f"{server.url}/a", len(BODY)).content == BODY
    assert "range" not in server.requests[1].headers


@pytest.mark.parametrize("end", [CLOSE, RESET])
def test_network_cut_for_good(end: str) -> None:
    def script(request: Request) -> Iterable[Step]:
        start = int(request.headers.get("range", "bytes=0-")[6:-1])
        status, span = (206, f"bytes {start}-{len(BODY) - 1}/{len(BODY)}") if start else (200, "")
        yield reply(
            status, BODY[start : start + 10], Content_Length=str(len(BODY) - start), ETag='"a"', Content_Range=span
        )
        yield 0.05
        yield end

    partial = Partial()
    with serving(script) as server, pytest.raises(UnreachableError, match=r"cut short|reset|was cut"):
        quick().get(f"{server.url}/a", len(BODY), partial=partial)
    assert bytes(partial.content) == BODY[:40]


@pytest.mark.parametrize(
    "steps", [[CLOSE], [RESET], [b"SSH-2.0-OpenSSH_9.2\r\n", CLOSE],
              [b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", CLOSE], [b"HTTP/1.1 200 " + b"x" * 100_000, CLOSE],
              [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab", CLOSE],
              [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nab", CLOSE]],
)  # fmt: skip
def test_answers_that_are_not_http(steps: list[Step]) -> None:
    with serving(lambda _: steps) as server, pytest.raises(UnreachableError):
        quick().get(f"{server.url}/a", 100)
    assert len(server.requests) == 4


def drip(what: bytes) -> Iterable[Step]:
    for letter in what:
        yield bytes([letter])
        yield 0.05


@pytest.mark.parametrize("where", ["headers", "body", "chunk size", "error page", "redirect"])
def test_who_drips_is_cut_off(where: str) -> None:
    def script(request: Request) -> Iterable[Step]:
        heads = {
            "headers": b"",
            "body": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
            "chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "error page": b"HTTP/1.1 404 No\r\nContent-Length: 1000\r\n\r\n",
            "redirect": b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 1000\r\n\r\n",
        }
        if heads[where]:
            yield heads[where]
        yield from drip(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000 if where == "headers" else b"0" * 1000)

    begun = time.monotonic()
    with serving(script) as server, pytest.raises((SlowError, MissingError, UnreachableError)) as caught:
        quick(Network(connect=2, read=2, total=0.5)).get(f"{server.url}/a", 2000)
    assert time.monotonic() - begun < 3
    assert where == "error page" or isinstance(caught.value, SlowError)


def test_who_delivers_at_the_agreed_rate_may_go_on() -> None:
    def script(_: Request) -> Iterable[Step]:
        yield reply(200, Content_Length=str(len(BODY)))
        for start in range(0, len(BODY), 16_384):
            yield 0.05
            yield BODY[start : start + 16_384]

    with serving(script) as server:
        transport = quick(Network(connect=2, read=2, total=0.3, min_rate=100_000))
        assert transport.get(f"{server.url}/a", len(BODY)).content == BODY


def test_who_says_nothing_is_slow() -> None:
    with serving(lambda _: [2.0, CLOSE]) as server, pytest.raises(SlowError, match="no answer in time"):
        quick(Network(connect=2, read=0.1, total=5, attempts=2)).get(f"{server.url}/a", 100)
    assert len(server.requests) == 2


def test_announced_size_is_believed_when_it_is_too_large() -> None:
    with (
        serving(lambda _: [reply(200, Content_Length=str(10**15)), 5.0]) as server,
        pytest.raises(TooLargeError, match="announced"),
    ):
        quick().get(f"{server.url}/a", 100)


def test_endless_answer_is_cut() -> None:
    def script(_: Request) -> Iterable[Step]:
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        yield from itertools.repeat(b"1000\r\n" + b"x" * 4096 + b"\r\n", 2000)

    transport = quick()
    with serving(script) as server, pytest.raises(TooLargeError, match="more than"):
        transport.get(f"{server.url}/a", 10_000)
    assert transport.received < 200_000


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
def test_compressed_answers_are_never_unpacked(encoding: str) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    with serving(lambda _: reply(200, bomb, Content_Encoding=encoding)) as server, pytest.raises(MismatchError):
        quick().get(f"{server.url}/a", 100_000_000)
    transport = quick()
    with serving(lambda _: reply(404, bomb[:15_000], Content_Encoding="gzip")) as server, pytest.raises(MissingError):
        transport.get(f"{server.url}/a", 100)
    assert transport.received == 0


def test_redirects_are_followed() -> None:
    def script(request: Request) -> bytes:
        return reply(200, b"here") if request.path == "/b/c" else reply(302, Location="b/c")

    with serving(script) as server:
        assert quick().get(f"{server.url}/a", 10).content == b"here"
    assert server.connections == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_end(status: int) -> None:
    with (
        serving(lambda _: reply(status, Location="/again?token=SECRET")) as server,
        pytest.raises(RedirectError) as caught,
    ):
        quick().get(f"{server.url}/a", 10)
    assert len(server.requests) == 6
    assert "SECRET" not in caught.value.diagnosis()


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "javascript:1", "", "http://[::", "http:///x"]
)
def test_redirects_lead_nowhere_else(target: str) -> None:
    with serving(lambda _: reply(302, Location=target)) as server, pytest.raises(RedirectError):
        quick().get(f"{server.url}/a", 10)


def test_login_of_the_url_goes_to_that_server_alone() -> None:
    def elsewhere(_: Request) -> bytes:
        return reply(302, Location=f"{other.url}/b")

    with serving(lambda _: reply(200, b"here")) as other, serving(elsewhere) as server:
        quick().get(f"http://us%65r:SECRET@127.0.0.1:{server.port}/a", 10)
    assert server.requests[0].headers["authorization"] == "Basic dXNlcjpTRUNSRVQ="
    assert "authorization" not in other.requests[0].headers


PAGE = b"\n<!DOCTYPE html><html><body>Welcome to our hotel</body></html>"


def test_captive_portal_is_named() -> None:
    def to_the_login(_: Request) -> bytes:
        return reply(302, Location=f"{portal.url}/login?mac=SECRET")

    with (
        serving(lambda _: reply(200, PAGE, Content_Type="text/html")) as portal,
        serving(to_the_login) as server,
        pytest.raises(InterceptedError, match="a web page came") as caught,
    ):
        quick().get(f"{server.url}/timestamp.json", 1000)
    assert "captive portal" in caught.value.hint
    assert "SECRET" not in caught.value.diagnosis()
    with serving(lambda _: reply(200, PAGE)) as server, pytest.raises(InterceptedError):
        quick().get(f"{server.url}/timestamp.json", 1000)
    with serving(lambda _: reply(511, PAGE)) as server, pytest.raises(InterceptedError, match="511"):
        quick().get(f"{server.url}/timestamp.json", 1000)


# Proxies


def test_proxy_with_credentials() -> None:
    with serving(lambda _: reply(200, b"here")) as proxy:
        transport = quick(Network(proxy=f"http://user:p%40ss@127.0.0.1:{proxy.port}"))
        assert transport.get("http://patches.example/a", 10).content == b"here"
    assert proxy.requests[0].path == "http://patches.example/a"
    assert proxy.requests[0].headers["proxy-authorization"] == "Basic dXNlcjpwQHNz"


def test_proxy_of_the_environment_and_its_exceptions() -> None:
    with serving(lambda _: reply(200, b"direct")) as server, serving(lambda _: reply(200, b"proxy")) as proxy:
        for no_proxy, expected in (("", b"proxy"), ("127.0.0.0/8", b"direct"), (f"127.0.0.1:{server.port}", b"direct")):
            transport = quick(QUICK, http_proxy=f"http://127.0.0.1:{proxy.port}", NO_PROXY=no_proxy)
            assert transport.get(f"{server.url}/a", 10).content == expected
        transport = quick(Network(proxy="none"), http_proxy=f"http://127.0.0.1:{proxy.port}")
        assert transport.get(f"{server.url}/a", 10).content == b"direct"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_secrets_are_in_no_message_and_no_log(scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"{scheme}://me:SECRET@patches.example/a?key=SECRET"
    with serving(lambda _: reply(407, Proxy_Authenticate="Basic")) as proxy, pytest.raises(DeniedError) as caught:
        quick(Network(proxy=f"http://user:SECRET@127.0.0.1:{proxy.port}")).get(url, 10)
    assert "the proxy wants a user" in caught.value.message
    for text in (caught.value.diagnosis(), repr(caught.value), caplog.text.replace("key=SECRET", "")):
        assert "SECRET" not in text
        assert "dXNlcjpTRUNSRVQ=" not in text


def test_proxy_that_refuses_to_connect_further() -> None:
    with serving(lambda _: reply(403)) as proxy, pytest.raises(UnreachableError, match=r"the proxy: .*403"):
        quick(Network(proxy=f"http://127.0.0.1:{proxy.port}")).get("https://patches.example/a", 10)


def test_proxy_that_is_not_there() -> None:
    with serving(lambda _: reply(200)) as proxy:
        pass
    with pytest.raises(UnreachableError, match="the proxy: "):
        quick(Network(proxy=f"http://127.0.0.1:{proxy.port}", connect=1)).get("http://patches.example/a", 10)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_tunnel_through_a_proxy(tmp_path: Path, scheme: str) -> None:
    authority = Authority(tmp_path)
    with serving(lambda _: reply(200, b"here"), authority.server("patches.example")) as server:

        def script(request: Request) -> Iterable[Step]:
            assert (request.method, request.path) == ("CONNECT", "patches.example:443")
            assert request.headers["proxy-authorization"] == "Basic dXNlcjpwYXNz"
            return [b"HTTP/1.1 200 Connected\r\n\r\n", tunnel(server.port)]

        with serving(script, authority.server("127.0.0.1") if scheme == "https" else None) as proxy:
            network = Network(proxy=f"{scheme}://user:pass@127.0.0.1:{proxy.port}", ca_file=str(authority.file()))
            assert quick(network).get("https://patches.example/a", 10).content == b"here"
    assert "proxy-authorization" not in server.requests[0].headers


@pytest.mark.parametrize(
    ("date", "kept"),
    [
        ("Tue, 24 Nov 2026 13:00:05 GMT", "Tue, 24 Nov 2026 13:00:00 GMT"),
        ("Tue, 24 Nov 2026 13:00:00 GMT", ""),
        ("yesterday", ""),
        ("", ""),
    ],
)
def test_a_date_of_change_counts_once_its_second_is_over(date: str, kept: str) -> None:
    """A file may change twice within a second, and its Last-Modified does not show it (RFC 9110, section 8.8.2.2)."""
    headers = {"Last_Modified": "Tue, 24 Nov 2026 13:00:00 GMT"} | ({"Date": date} if date else {})
    with serving(lambda _: reply(200, b"here", **headers)) as server:
        assert quick().get(f"{server.url}/a", 10).modified == kept
