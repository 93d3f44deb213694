"""The support bundle: bounded, previewed, and without a secret that was planted anywhere."""

from __future__ import annotations

import base64
import gzip
import json
import tarfile
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.agent.conftest import Machine, Published

from kmend.agent import doctor, redaction
from kmend.agent.redaction import Redactor, of_environment, of_url

SECRETS = {
    "repository": "r3po-Pa55/w@rd",
    "query": "sig-0123456789abcdef",
    "proxy": "pr0xy+Pa55",
    "credentials": "f1le-Cr3d",
    "hook": "h00k-t0ken-value",
    "variable": "env1r0n-s3cret",
    "environment-proxy": "envproxy-pa55",
    "journal": "j0urnal-b34rer-t0ken",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl",
    "log": "l0g-passw0rd",
    "command-line": "cmdl1ne-s3cret",
    "key": "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC",
}
HOST = "db7.customer-site.example"


@pytest.fixture
def planted(machine: Machine, published: Published, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A host that has run, with secrets in configuration, journal, environment, kernel log and command line."""
    machine.must("update")
    user = quote(SECRETS["repository"], safe="")
    machine.configure(
        f'[repository]\nurl = "https://mirror:{user}@127.0.0.1:9/kmend?sig={SECRETS["query"]}"\n'
        f'[network]\nproxy = "http://bob:{SECRETS["proxy"]}@127.0.0.1:9"\nproxy_credentials = "/etc/kmend/proxy"\nattempts = 1\n'
        f"[hooks]\nafter = ['curl --token {SECRETS['hook']} https://x.example/?key={SECRETS['query']}']\n"
    )
    (machine.paths.config / "proxy").write_text(f"bob:{SECRETS['credentials']}\n")
    machine.kernel.log(f"kmend: password={SECRETS['log']} for {HOST}")
    machine.kernel.write("cmdline", f"root=/dev/vda1 kmend=no-apply systemd.setenv=X={SECRETS['command-line']}")
    (machine.paths.root / "etc/hostname").write_text(f"{HOST}\n")
    (machine.paths.root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    encoded = base64.b64encode(f"bob:{SECRETS['credentials']}".encode()).decode()
    journal = (
        f"Authorization: Bearer {SECRETS['journal']}\nProxy-Authorization: Basic {encoded}\ncookie {SECRETS['jwt']}\n"
        f"{HOST} kmend[7]: {user} and {SECRETS['variable']}\n0123456789abcdef0123456789abcdef\n"
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRETS['key']}\n-----END RSA PRIVATE KEY-----\nthe end\n"
    )
    monkeypatch.setattr("kmend.agent.doctor.journal", lambda: journal)
    monkeypatch.setenv("DEPLOY_TOKEN", SECRETS["variable"])
    monkeypatch.setenv("https_proxy", f"http://u:{SECRETS['environment-proxy']}@127.0.0.1:9")
    return machine


def contents(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        found = {}
        for member in archive.getmembers():
            stream = archive.extractfile(member)
            assert stream is not None
            found[member.name.removeprefix("kmend-doctor/")] = stream.read().decode()
    return found


def test_no_planted_secret_is_in_the_bundle(planted: Machine, tmp_path: Path) -> None:
    target = tmp_path / "bundle.tar.gz"
    planted.must("doctor", "-o", str(target))
    assert target.stat().st_mode & 0o777 == 0o600
    raw = gzip.decompress(target.read_bytes()).decode(errors="replace")
    for name, secret in SECRETS.items():
        encodings = (secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode().rstrip("="))
        for form in encodings:
            assert form not in raw, name
    assert base64.b64encode(f"bob:{SECRETS['credentials']}".encode()).decode() not in raw
    assert "customer-site" not in raw
    assert "0123456789abcdef0123456789abcdef" not in raw
    assert "the end" in raw
    parts = contents(target)
    assert json.loads(parts["status.json"])["livepatch"]["level"] == 3
    assert "root=[redacted] kmend=no-apply systemd.setenv=[redacted]" in parts["command-line.txt"]
    listed = json.loads(parts["redactions.json"])
    assert listed["journal.txt"]["taken_out"]["private key"] == 1
    assert listed["journal.txt"]["taken_out"]["host name"] == 2
    assert listed["kernel-log.txt"]["taken_out"]
    for name, text in parts.items():
        if name.endswith(".json"):
            json.loads(text)


def test_the_preview_writes_nothing_and_shows_what_would_be_written(planted: Machine, tmp_path: Path) -> None:
    before = sorted(path for path in planted.paths.root.rglob("*"))
    out = planted.must("doctor")
    assert "nothing was written or sent" in out
    assert "taken out: " in out
    shown = planted.must("doctor", "--show", "journal.txt")
    for secret in SECRETS.values():
        assert secret not in out
        assert secret not in shown
    assert sorted(path for path in planted.paths.root.rglob("*")) == before
    planted.must("doctor", "-o", str(tmp_path / "x.tar.gz"))
    assert contents(tmp_path / "x.tar.gz")["journal.txt"].rstrip("\n") == shown.rstrip("\n")
    assert planted.run("doctor", "--show", "nonsense") == 2
    assert "status.json" in planted.err


def test_a_host_name_may_be_kept(planted: Machine) -> None:
    assert HOST in planted.must("doctor", "--keep-host-name", "--show", "journal.txt")


def test_a_file_that_exists_is_left_alone(planted: Machine, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.write_text("mine")
    assert planted.run("doctor", "-o", str(target)) == 2
    assert target.read_text() == "mine"
    assert planted.run("doctor", "-o", str(tmp_path / "no/folder")) == 1
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    assert planted.run("doctor", "-o", str(link)) == 2
    assert not (tmp_path / "elsewhere").exists()


def test_a_bundle_is_bounded(planted: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"line {number} password=hunter{number}\n" for number in range(60_000))
    monkeypatch.setattr("kmend.agent.doctor.journal", lambda: text)
    for number in range(40):
        planted.kernel.log(f"kmend {number} " + "x" * 7000)
    target = tmp_path / "x.tar.gz"
    document = planted.json("doctor", "-o", str(target))
    sizes = {part["name"]: part["bytes"] for part in document["parts"]}
    assert max(sizes.values()) <= doctor.MAX_PART_BYTES
    assert sum(sizes.values()) <= doctor.MAX_BUNDLE_BYTES + doctor.MAX_PART_BYTES
    cut = {part["name"]: part["cut"] for part in document["parts"]}
    assert cut["journal.txt"] > 0
    journal = contents(target)["journal.txt"]
    assert "hunter" not in journal
    assert journal.endswith("password=[redacted]\n")


def test_a_broken_host_gets_a_bundle_all_the_same(machine: Machine, tmp_path: Path) -> None:
    (machine.paths.state).mkdir(parents=True)
    (machine.paths.state / "history.jsonl").write_bytes(b"\xff\x00{")
    machine.configure("[repository]\nurl = 7\n")
    machine.must("doctor", "-o", str(tmp_path / "x.tar.gz"))
    parts = contents(tmp_path / "x.tar.gz")
    assert parts["last_check.json"] == "null\n"
    assert "url" in parts["config.json"]


@given(
    secret=st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=4, max_size=20).filter(
        lambda word: word not in "redacted"
    ),
    before=st.text(max_size=30),
    after=st.text(max_size=30),
)
def test_a_known_secret_never_stays(secret: str, before: str, after: str) -> None:
    cleaned = Redactor([secret]).clean(f"{before}{secret}{after}{base64.b64encode(secret.encode()).decode()}")
    assert secret not in cleaned.text.replace(redaction.MARK, "")


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("https://user:pa55@host/x", "pa55"),
        ("https://user:p@55@host/x", "p@55"),
        ("socks5://t0k@host", "t0k"),
        ("http://h/x?token=abc&b=c", "abc"),
        ("authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ('{"password": "a b c"}', "a b c"),
        ('"cmd": "x --header \\"token: a1b2c3\\""', "a1b2c3"),
        ("API_KEY=xyz123", "xyz123"),
        ("mysql --password hunter2 x", "hunter2"),
        ("client_secret: 'two words'", "two words"),
        ("-----BEGIN EC PRIVATE KEY-----\nabc\nno end", "abc"),
    ],
)
def test_forms_of_secrets(text: str, gone: str) -> None:
    cleaned = Redactor([]).clean(text)
    assert gone not in cleaned.text
    assert sum(cleaned.counts.values()) >= 1


def test_what_is_no_secret_stays() -> None:
    text = (
        "level 3 https://host.example/kmend/files/ab/cdef kmend_3_0123abcd CVE-2026-1001 tasks: 3 unix_ioctl+0x0/0x20"
    )
    assert Redactor([], ["db7"]).clean(text).text == text


def test_secrets_of_urls_and_environments() -> None:
    assert of_url("https://a:b%40c@h/?k=v1&l=v2") >= {"b%40c", "b@c", "v1", "v2"}
    assert of_url("user:pw12@proxy:3128") >= {"pw12"}
    assert of_url("https://0123456789abcdef@h/") == {"0123456789abcdef"}
    assert of_url("https://kmend@h/") == set()
    found = of_environment({"GITHUB_TOKEN": "abcdef", "X_TOKEN": "1", "HOME": "/root", "ALL_PROXY": "u:pw99@h:1"})
    assert found == {"abcdef", "pw99"}
