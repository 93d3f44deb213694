"""Commands over HTTP: through a proxy, with secrets that must not show, and with a network that fails in the middle."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.unit.agent.conftest import Machine, Published
from tests.unit.trust.loopback import CLOSE, Request, Script, folder, reply, serving

LOGIN = "Basic dXNlcjpTRUNSRVQ="


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmend.trust.retrying.FIRST_SECONDS", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def proxy_for(repository: Path) -> Script:
    """A proxy that knows one site, and wants a login, as the site does."""
    site = folder(repository)

    def script(request: Request) -> bytes:
        if request.headers.get("proxy-authorization") != LOGIN:
            return reply(407, Proxy_Authenticate='Basic realm="x"')
        assert request.headers["authorization"] == LOGIN
        path = request.path.removeprefix("http://patches.example/kmend")
        return site(Request(request.method, path, request.headers))  # type: ignore[return-value]

    return script


def configure(machine: Machine, port: int, password: str) -> None:
    (machine.paths.config / "proxy").write_text(f"user:{password}\n")
    machine.configure(
        f"""
        [repository]
        url = "http://user:SECRET@patches.example/kmend"
        [network]
        proxy = "http://127.0.0.1:{port}"
        proxy_credentials = "{machine.paths.config / "proxy"}"
        """
    )


def shows_no_secret(machine: Machine) -> None:
    texts = [machine.out, machine.err]
    for place in (machine.paths.state, machine.paths.run):
        texts += [path.read_text(errors="replace") for path in place.rglob("*") if path.is_file()]
    for text in texts:
        assert "SECRET" not in text
        assert "dXNlcjpTRUNSRVQ" not in text


def test_update_through_a_proxy_with_a_login(machine: Machine, published: Published) -> None:
    with serving(proxy_for(published.folder)) as proxy:
        configure(machine, proxy.port, "SECRET")
        machine.must("update")
        document = machine.json("status")
        assert document["livepatch"]["level"] == 3
        assert document["repository"] == "http://patches.example/kmend"
        shows_no_secret(machine)


def test_proxy_that_refuses_the_login(machine: Machine, published: Published) -> None:
    with serving(proxy_for(published.folder)) as proxy:
        configure(machine, proxy.port, "SECRET2")
        document = machine.json("check")
        assert machine.status == 1
        assert document["error"]["kind"] == "repository-denied"
        assert "network.proxy_credentials" in document["error"]["hint"]
        shows_no_secret(machine)
        assert len(proxy.requests) == 1
        machine.json("status")
        shows_no_secret(machine)


@pytest.mark.parametrize("what", ["/files/", "timestamp", "snapshot", "levels"])
def test_network_cut_in_the_middle_of_an_update(machine: Machine, published: Published, what: str) -> None:
    good = folder(published.folder)
    broken = True

    def script(request: Request) -> object:
        return [reply(200, b"{", Content_Length="40"), CLOSE] if broken and what in request.path else good(request)

    with serving(script) as server:  # type: ignore[arg-type]
        machine.configure(f'[repository]\nurl = "{server.url}"\n')
        assert machine.run("update") == 1
        assert "cut short" in machine.err
        assert machine.kernel.active() == []
        broken = False
        machine.must("update")
        assert machine.json("status")["livepatch"]["level"] == 3


def test_captive_portal(machine: Machine) -> None:
    begun = time.monotonic()
    with serving(lambda _: reply(200, b"<html>log in</html>", Content_Type="text/html")) as server:
        machine.configure(f'[repository]\nurl = "{server.url}"\n')
        assert machine.run("check") == 1
    assert "a web page came" in machine.err
    assert "captive portal" in machine.err
    assert time.monotonic() - begun < 5
