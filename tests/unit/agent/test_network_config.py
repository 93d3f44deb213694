"""The section [network] of agent.toml, and what of it is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmend.agent.checking import network
from kmend.agent.configfiles import read_config
from kmend.agent.errors import ConfigError
from kmend.trust.network import Network


def written(folder: Path, text: str) -> Path:
    (folder / "agent.toml").write_text(text)
    return folder


def test_all_members_reach_the_transport(tmp_path: Path) -> None:
    config = read_config(
        written(
            tmp_path,
            """
            [timing]
            connect = 0
            read = 7
            [network]
            proxy = "http://user:secret@proxy.example:3128"
            no_proxy = ["10.0.0.0/8", ".internal"]
            proxy_credentials = "/etc/kmend/proxy"
            ca_file = "/etc/kmend/ca.pem"
            system_ca = false
            client_certificate = "/etc/kmend/host.pem"
            client_key = "/etc/kmend/host.key"
            total = 60
            min_rate = 1000
            attempts = 2
            """,
        )
    )
    assert network(config) == Network(
        proxy="http://user:secret@proxy.example:3128",
        no_proxy=("10.0.0.0/8", ".internal"),
        proxy_credentials="/etc/kmend/proxy",
        ca_file="/etc/kmend/ca.pem",
        system_ca=False,
        client_certificate="/etc/kmend/host.pem",
        client_key="/etc/kmend/host.key",
        connect=1,
        read=7,
        total=60,
        min_rate=1000,
        attempts=2,
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('proxy = "socks5://user:SECRET@h:1"', "network.proxy is not the URL of an HTTP proxy"),
        ('proxy = "http://user:SECRET@h:port"', "network.proxy is not the URL of a proxy"),
        ('ca_file = "ca.pem"', "ca_file must be an absolute path"),
        ("system_ca = false", "without system_ca there must be a ca_file"),
        ("attempts = 0", "attempts must be 1 to 20"),
        ("total = 100000", "total must be 1 to 86400"),
        ("min_rate = 0", "min_rate must be"),
        ('no_proxy = "10.0.0.0/8"', "no_proxy"),
    ],
)
def test_what_cannot_be_used_is_named_without_secrets(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(written(tmp_path, f"[network]\n{line}\n"))
    assert words in caught.value.message
    assert "SECRET" not in caught.value.diagnosis()
