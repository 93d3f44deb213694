"""Where webhooks may lead: every way that is known to disguise this machine or its network."""

from __future__ import annotations

import contextlib
import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.server.notices import guard
from kmend.server.notices.errors import DeliveryError, ForbiddenTargetError
from kmend.server.notices.guard import Rules

PUBLIC = "93.184.216.34"


def literal(host: str, port: int) -> list[str]:
    """As the system reads addresses in all their forms; no name is known."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return [str(item[4][0]) for item in found]


def test_a_public_host_is_allowed_and_its_address_kept() -> None:
    target = guard.aim("https://hooks.example:8443/a/b?c=d", Rules(), lambda host, port: [PUBLIC])
    assert target == guard.Target(True, "hooks.example", 8443, "/a/b?c=d", PUBLIC)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",  # decimal
        "0x7f000001",
        "0177.0.0.1",
        "0",
        "0.0.0.0",  # noqa: S104 - an address to be refused
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",  # carriers' own
        "169.254.169.254",  # a cloud's metadata
        "168.63.129.16",  # another's
        "192.0.0.192",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[::ffff:93.184.216.34]x",
        "[::7f00:1]",  # IPv4-compatible
        "[2002:7f00:0001::]",  # 6to4 of 127.0.0.1
        "[64:ff9b::7f00:1]",  # NAT64
        "[64:ff9b:1::1]",
        "[2001:0:4136:e378:8000:63bf:80ff:fffe]",  # Teredo of 127.0.0.1
        "[fe80::1]",
        "[fe80::1%25eth0]",
        "[fd00:ec2::254]",
        "[fc00::1]",
        "[ff02::1]",
        "[2001:db8::1]",
    ],
)
def test_what_is_not_public_is_refused_in_every_form(host: str) -> None:
    with pytest.raises((ForbiddenTargetError, DeliveryError)):
        guard.aim(f"https://{host}/", Rules(), literal)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/",
        "ftp://hooks.example/",
        "file:///etc/passwd",
        "gopher://hooks.example/",
        "//hooks.example/",
        "https:///path",
        "https://user@hooks.example/",
        "https://hooks.example@127.0.0.1/",
        "https://user:word@hooks.example/",
        "https://hooks.example\\@127.0.0.1/",
        "https://hooks.example/#@127.0.0.1/",
        "https://hooks.example:99999/",
        "https://hooks.example:0x50/",
        "https://hooks.example/\r\nHost: other",
        "https://hooks.example/\t",
        "https://hooks.example /",
        "https://[::1/",
        "https://höoks.example/",
        "https://127。0。0。1/",
        "https://hooks.example/" + "a" * 3000,
        "",
    ],
)
def test_what_is_no_plain_https_url_is_refused_before_anything_is_resolved(url: str) -> None:
    def never(host: str, port: int) -> list[str]:
        raise AssertionError(f"{host} was resolved")

    with pytest.raises(ForbiddenTargetError):
        guard.aim(url, Rules(), never)


def test_one_forbidden_address_among_several_is_enough() -> None:
    for addresses in ([PUBLIC, "127.0.0.1"], ["10.0.0.1", PUBLIC], [PUBLIC, "::1"]):
        with pytest.raises(ForbiddenTargetError, match="not a public one"):
            guard.aim("https://two.example/", Rules(), lambda host, port, found=addresses: found)  # type: ignore[misc]


def test_what_an_administrator_allows_is_allowed_and_nothing_beside_it() -> None:
    rules = Rules(("10.2.0.0/16", "fd00:1::/32"), http=True)
    for address in ("10.2.3.4", "fd00:1::9"):
        target = guard.aim("http://inside.example/", rules, lambda host, port, found=address: [found])  # type: ignore[misc]
        assert (target.address, target.port, target.secure) == (address, 80, False)
    for address in ("10.3.0.1", "127.0.0.1", "::ffff:10.2.3.4"):
        with pytest.raises(ForbiddenTargetError):
            guard.aim("http://inside.example/", rules, lambda host, port, found=address: [found])  # type: ignore[misc]


def test_an_unknown_host_is_a_failure_that_may_pass() -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(DeliveryError, match="is not known"):
        guard.aim("https://nobody.example/", Rules(), unknown)
    with pytest.raises(DeliveryError, match="is not known"):
        guard.aim("https://nobody.example/", Rules(), lambda host, port: [])


@given(st.ip_addresses())
def test_no_address_that_is_not_global_is_ever_chosen(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    try:
        target = guard.aim("https://any.example/", Rules(), lambda host, port: [str(address)])
    except ForbiddenTargetError:
        return
    chosen = ipaddress.ip_address(target.address)
    assert chosen.is_global
    assert not chosen.is_multicast
    assert not (isinstance(chosen, ipaddress.IPv6Address) and chosen.ipv4_mapped and not chosen.ipv4_mapped.is_global)


@given(st.text(max_size=60))
def test_any_text_is_a_target_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(ForbiddenTargetError, DeliveryError):
        guard.aim(f"https://{text}", Rules(), lambda host, port: [PUBLIC])
