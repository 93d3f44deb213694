"""The configuration: every problem with its line, and an example that says of every member what its default is."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import tomllib

from kmend.core.document import from_plain
from kmend.core.errors import MalformedError
from kmend.server.config import ServerConfig, ServerConfigError, read_address, read_config

EXAMPLE = Path(__file__).parents[3] / "packaging/server/server.toml"


def written(folder: Path, text: str) -> Path:
    path = folder / "server.toml"
    path.write_text(text)
    return path


def test_the_example_names_every_member_with_its_default() -> None:
    text = EXAMPLE.read_text()
    bare = "\n".join(line.removeprefix("# ") for line in text.splitlines() if re.match(r"# (\[|[a-z_]+ = )", line))
    tree = tomllib.loads(bare)
    default = ServerConfig()
    assert set(tree) == {field.name for field in dataclasses.fields(default)}
    for section in dataclasses.fields(default):
        value = getattr(default, section.name)
        assert set(tree[section.name]) == {field.name for field in dataclasses.fields(value)}, section.name
        assert from_plain(type(value), tree[section.name]) == value, section.name


def test_every_problem_is_told_with_its_line(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """[server]
data = "relative"
listen = ["8443"]
colour = "red"
interval = 5
[tls]
certificate = "/a.pem"
[databse]
url = "mysql://x"
[database]
url = "mysql://x"
[notices]
allow_networks = ["10.0.0.1/8"]
""",
    )
    with pytest.raises(ServerConfigError) as caught:
        read_config(path)
    for told in (
        "server.toml line 2: data must be an absolute path",
        "server.toml line 3: '8443' is not an address with a port",
        "server.toml line 4: [server] has no member colour",
        "server.toml line 5: interval must be 10 to 86400",
        "server.toml line 7: certificate and key go together",
        "server.toml line 8: there is no section [databse]",
        "server.toml line 11: url must begin with sqlite:///",
        "server.toml line 13: allow_networks: '10.0.0.1/8' is not a network",
    ):
        assert told in caught.value.message


def test_an_empty_one_is_all_defaults_and_a_missing_one_an_error(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, ""))
    assert config == ServerConfig()
    assert config.database_url == "sqlite:////var/lib/kmend-server/kmend.sqlite"
    assert config.repository_source == "file:///var/lib/kmend-server/repository"
    with pytest.raises(ServerConfigError, match="there is no configuration"):
        read_config(tmp_path / "none.toml")


def test_where_things_are_follows_from_what_is_configured(tmp_path: Path) -> None:
    config = read_config(
        written(
            tmp_path, '[server]\ndata = "/d"\npublic_url = "https://k:8443/"\n[repository]\nsource = "https://r/x"\n'
        )
    )
    assert config.repository_folder is None
    assert config.repository_source == "https://r/x"
    assert config.repository_url == "https://k:8443/repository"
    assert str(config.certificate) == "/d/tls/server.pem"
    own = read_config(written(tmp_path, '[tls]\ncertificate = "/c"\nkey = "/k"\n[repository]\nurl = "https://cdn/"\n'))
    assert own.authority is None
    assert own.repository_url == "https://cdn"


@pytest.mark.parametrize(("text", "found"), [("0.0.0.0:1", ("0.0.0.0", 1)), ("[::1]:65535", ("::1", 65535))])  # noqa: S104
def test_addresses(text: str, found: tuple[str, int]) -> None:
    assert read_address(text) == found


@pytest.mark.parametrize("text", ["", ":1", "a", "a:", "a:b", "a:65536", "a:-1", "a:\uff11"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(MalformedError):
        read_address(text)
