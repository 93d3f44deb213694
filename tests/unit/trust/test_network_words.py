"""The pure parts: which proxy, which exception, which pause, which words; properties where the input is anybody's."""

from __future__ import annotations

import datetime
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.trust import clockcheck, retrying
from kmend.trust.addresses import origin, redirected, shown
from kmend.trust.errors import NetworkSettingsError, RedirectError
from kmend.trust.proxies import Proxy, excepted, read_proxies

NOW = datetime.datetime(2026, 11, 24, 3, 0, tzinfo=datetime.timezone.utc)
TEXT = st.text(max_size=60)


@pytest.mark.parametrize(
    ("host", "port", "items", "expected"),
    [
        ("patches.example", 443, "patches.example", True),
        ("patches.example", 443, "example", True),
        ("patches.example", 443, ".example", True),
        ("patches.example", 443, "*.example", True),
        ("PATCHES.example.", 443, "Patches.Example", True),
        ("badexample", 443, "example", False),
        ("example", 443, "patches.example", False),
        ("patches.example", 443, "patches.example:443", True),
        ("patches.example", 8443, "patches.example:443", False),
        ("patches.example", 443, "*", True),
        ("patches.example", 443, "", False),
        ("10.1.2.3", 80, "10.0.0.0/8", True),
        ("11.1.2.3", 80, "10.0.0.0/8", False),
        ("10.1.2.3", 80, "10.1.2.3", True),
        ("10.1.2.3", 80, "10.1.2.3:80", True),
        ("10.1.2.3", 81, "10.1.2.3:80", False),
        ("110.1.2.3", 80, "10.1.2.3", False),
        ("::ffff:10.1.2.3", 80, "10.0.0.0/8", True),
        ("fd00::1", 80, "fd00::/8", True),
        ("fd00::1", 80, "[fd00::1]", True),
        ("fd00::1", 80, "[fd00::1]:80", True),
        ("fd00::1", 81, "[fd00::1]:80", False),
        ("10.1.2.3", 80, "10.0.0.0/99", False),
        ("patches.example", 80, "10.0.0.0/8", False),
    ],
)
def test_exceptions(host: str, port: int, items: str, expected: bool) -> None:
    assert excepted(host, port, (items,)) == expected


@given(host=TEXT, port=st.integers(0, 65535), items=st.lists(TEXT, max_size=4))
def test_no_exception_list_does_harm(host: str, port: int, items: list[str]) -> None:
    excepted(host, port, tuple(items))


@given(address=st.ip_addresses(), other=st.ip_addresses(), bits=st.integers(0, 32))
def test_networks(address: ipaddress.IPv4Address, other: ipaddress.IPv4Address, bits: int) -> None:
    network = ipaddress.ip_network(f"{other}/{bits}", strict=False)
    mapped = getattr(address, "ipv4_mapped", None) or address
    assert excepted(str(address), 80, (str(network),)) == (mapped in network)


def test_environment() -> None:
    found = read_proxies(
        "", (), "", {"HTTP_PROXY": "a:1", "http_proxy": "b:2", "ALL_PROXY": "http://u:p@c:3", "no_proxy": "x, y"}
    )
    assert found.by_scheme == {"http": Proxy("http://b:2"), "https": Proxy("http://c:3", "u:p")}
    assert found.before("http://sub.y/z") is None
    assert found.before("file:///x") is None
    assert read_proxies("", (), "", {"HTTP_PROXY": "a:1", "REQUEST_METHOD": "GET"}).by_scheme == {}
    assert read_proxies("", (), "me:too", {"https_proxy": "http://[fd00::1]:3128"}).by_scheme == {
        "https": Proxy("http://[fd00::1]:3128", "me:too")
    }
    assert read_proxies("none", (), "", {"http_proxy": "b:2"}).by_scheme == {}


@pytest.mark.parametrize(
    "url", ["socks5://u:SECRET@h:1", "http://", "http://u:SECRET@h:x", "http://[u:SECRET", "u:SECRET@:1"]
)
def test_unusable_proxy_is_named_without_its_password(url: str) -> None:
    for configured, environment in ((url, {}), ("", {"http_proxy": url})):
        with pytest.raises(NetworkSettingsError) as caught:
            read_proxies(configured, (), "", environment)
        assert "SECRET" not in caught.value.diagnosis()
        assert "proxy" in caught.value.message
    assert "SECRET" not in repr(Proxy("http://h:1", "u:SECRET"))


@given(user=st.text("abc@:/?#%é", min_size=1, max_size=8), url=TEXT)
def test_shown_urls_hold_no_secrets(user: str, url: str) -> None:
    from urllib.parse import quote

    address = (
        f"https://{quote(user, safe='')}:{quote('SECRET' + user, safe='')}@patches.example:8443/a/b?key=SECRET#SECRET"
    )
    assert shown(address) == "https://patches.example:8443/a/b"
    text = shown(url)
    assert text.isprintable()
    assert len(text) <= 300


@given(location=st.text(max_size=60) | st.from_regex(r"(https?|file|ftp)://[a-z@:\[\]0-9./]{0,20}", fullmatch=True))
def test_redirects_stay_on_the_web_and_in_tls(location: str) -> None:
    for current in ("http://a.example/x", "https://a.example/x"):
        try:
            target = redirected(current, location)
        except RedirectError:
            continue
        scheme, host, _ = origin(target)
        assert host
        assert scheme == "https" or (scheme, current[:5]) == ("http", "http:")


@given(attempt=st.integers(1, 2000), draw=st.floats(0, 1, exclude_max=True), after=st.none() | st.floats(0, 1e9))
def test_pauses(attempt: int, draw: float, after: float | None) -> None:
    pause = retrying.pause(attempt, draw, retry_after=after)
    if after is not None and after > retrying.PATIENCE_SECONDS:
        assert pause is None
    else:
        assert pause is not None
        assert (after or 0) <= pause <= (after or 0) + retrying.LONGEST_SECONDS
    assert retrying.pause(attempt, 0.0) == 0


def test_jitter_is_full() -> None:
    assert [retrying.pause(attempt, 0.999999) for attempt in (1, 2, 3, 9)] == pytest.approx([0.5, 1, 2, 20], rel=1e-3)


@given(value=TEXT)
def test_retry_after_can_be_anything(value: str) -> None:
    found = retrying.read_retry_after(value, None, NOW)
    assert found is None or found >= 0


def test_retry_after_is_held_against_the_date_of_the_answer() -> None:
    header = "Tue, 24 Nov 2026 03:00:30 GMT"
    assert retrying.read_retry_after(header, None, NOW) == 30
    assert (
        retrying.read_retry_after(header, NOW + datetime.timedelta(seconds=20), NOW - datetime.timedelta(days=400))
        == 10
    )
    assert retrying.read_retry_after("Tue, 24 Nov 2020 03:00:30 GMT", None, NOW) == 0
    assert retrying.read_retry_after(" 15 ", None, NOW) == 15
    assert retrying.read_retry_after("9" * 400, None, NOW) == 999_999_999


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(40, "40 seconds"), (3600, "1 hour"), (7000, "2 hours"), (86_400 * 3, "3 days"), (365 * 86_400, "1 year"),
     (56.9 * 365.25 * 86_400, "57 years")],
)  # fmt: skip
def test_spans(seconds: float, text: str) -> None:
    assert clockcheck.spoken(seconds) == text


@given(
    signed=st.none() | st.integers(-(2**63), 2**63), now=st.floats(0, 1e12), server=st.none() | st.floats(-1e12, 1e12)
)
def test_clocks_can_say_anything(signed: int | None, now: float, server: float | None) -> None:
    error = clockcheck.behind(signed, now)
    assert (error is not None) == (signed is not None and signed > now + clockcheck.TOLERANCE_SECONDS)
    assert clockcheck.expired("x is expired", now=now, server=server).message
    clockcheck.skew(now, server)
