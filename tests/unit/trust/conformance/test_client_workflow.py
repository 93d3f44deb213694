"""What the TUF conformance suite asks of a client, replayed against kmend's own: TUF specification 1.0, section 5.

The suite itself cannot be installed as a package; its subjects are all here (initial refresh, downloads, rollback, expiry, keys
and thresholds, rotations, delegations, odd names), with rotations and delegation graphs generated instead of listed.
"""

from __future__ import annotations

import contextlib
import datetime
import fnmatch
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import securesystemslib.signer._key as verifying
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tests.unit.trust.conformance import client as program
from tests.unit.trust.conformance.simulated import KEYS, Client, Simulated
from tests.unit.trust.loopback import Loopback, serving
from tests.unit.trust.test_repository_faults import at
from tuf.api.metadata import TargetFile, Targets

DAY = datetime.timedelta(days=1)
FIRST = [("root", 2), ("timestamp", None), ("snapshot", 1), ("targets", 1)]
SLOW_EXAMPLES = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@contextlib.contextmanager
def world(folder: Path, repository: Simulated | None = None) -> Iterator[tuple[Simulated, Client, Loopback]]:
    simulated = repository or Simulated()
    with serving(simulated.answer) as server:
        yield simulated, Client(server, folder, simulated.files["1.root"]), server


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[Simulated, Client]]:
    with world(tmp_path / "client") as (simulated, client, _):
        yield simulated, client


Both = tuple[Simulated, Client]


def test_first_refresh(both: Both) -> None:
    repository, client = both
    assert client.refresh()
    assert (repository.asked, client.versions()) == (FIRST, (1, 1, 1, 1))


def test_download_refreshes_first(both: Both) -> None:
    repository, client = both
    assert not client.download("nothing of that name")
    assert (repository.asked, client.versions()) == (FIRST, (1, 1, 1, 1))


@pytest.mark.parametrize("damage", ["version", "signature", "json", "type"])
def test_unusable_initial_root_asks_for_nothing(tmp_path: Path, damage: str) -> None:
    repository = Simulated()
    root = json.loads(repository.files["1.root"])
    if damage == "version":
        del root["signed"]["version"]
    elif damage == "signature":
        root["signatures"][0]["sig"] = "00" * 64
    elif damage == "type":
        root["signed"]["_type"] = "targets"
    content = b"{" if damage == "json" else json.dumps(root).encode()
    with serving(repository.answer) as server:
        assert not Client(server, tmp_path / "client", content).refresh()
    assert repository.asked == []


def test_unknown_fields_are_signed_too(both: Both) -> None:
    repository, client = both
    assert client.refresh()
    repository.root.unrecognized_fields["more"] = {"a": 1}
    repository.root.roles["root"].unrecognized_fields["more"] = "b"
    next(iter(repository.root.keys.values())).unrecognized_fields["more"] = ["c"]
    repository.publish_root()
    assert client.refresh()
    assert client.version("root") == 2


def test_same_timestamp_version_with_other_content_is_not_taken(both: Both) -> None:
    repository, client = both
    assert client.refresh()
    before = client.content("timestamp")
    repository.timestamp.snapshot_meta.version = 100
    repository.files["timestamp"] = repository.sign("timestamp")
    assert client.refresh()
    assert client.content("timestamp") == before


@pytest.mark.parametrize("hashes", [False, True])
def test_targets_that_the_snapshot_does_not_mean(both: Both, hashes: bool) -> None:
    repository, client = both
    repository.hashes = hashes
    repository.publish("targets")
    assert client.refresh()
    repository.publish("targets")
    if hashes:
        repository.targets.unrecognized_fields["changed"] = True
        repository.files["3.targets"] = repository.sign("targets")
    else:
        repository.files["3.targets"] = repository.files["2.targets"]
    assert not client.refresh()
    assert client.version("targets") == 2


@pytest.mark.parametrize("hashes", [False, True])
def test_snapshot_that_the_timestamp_does_not_mean(both: Both, hashes: bool) -> None:
    repository, client = both
    repository.hashes = hashes
    repository.publish("targets")
    assert client.refresh()
    repository.publish()
    repository.files["3.snapshot"] = repository.files["2.snapshot"]
    assert not client.refresh()
    assert client.versions() == (1, 3, 2, 2)
    assert repository.asked[-1] == ("snapshot", 3)


# Rollback and fast-forward


def test_timestamp_rollback(both: Both) -> None:
    repository, client = both
    old = repository.files["timestamp"]
    repository.publish_timestamp()
    assert client.refresh()
    repository.files["timestamp"] = old
    assert not client.refresh()
    assert client.version("timestamp") == 2
    assert repository.asked[-1] == ("timestamp", None)


@pytest.mark.parametrize("hashes", [False, True])
def test_snapshot_rollback(both: Both, hashes: bool) -> None:
    repository, client = both
    repository.hashes = hashes
    repository.publish()
    assert client.refresh()
    repository.snapshot.version = 1
    repository.publish_timestamp()
    assert not client.refresh()
    assert client.versions() == (1, 2, 2, 1)
    assert repository.asked[-1] == ("timestamp", None)


@pytest.mark.parametrize("hashes", [False, True])
def test_targets_rollback(both: Both, hashes: bool) -> None:
    repository, client = both
    repository.hashes = hashes
    repository.publish("targets")
    repository.publish("targets")
    assert client.refresh()
    repository.targets.version = 0
    repository.publish("targets")
    assert not client.refresh()
    assert client.version("targets") == 3
    assert client.version("snapshot") == 3


def test_targets_may_not_vanish_from_the_snapshot(both: Both) -> None:
    repository, client = both
    repository.delegate("targets", "one")
    repository.publish("one", "targets")
    assert client.refresh()
    del repository.snapshot.meta["one.json"]
    repository.publish()
    assert not client.refresh()
    assert client.version("snapshot") == 2


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_new_keys_recover_from_versions_that_ran_away(both: Both, role: str) -> None:
    repository, client = both
    repository.roles[role].version = 99_999
    repository.publish_timestamp(bump=role == "snapshot")
    assert client.refresh()
    assert client.version(role) >= 99_999
    repository.rotate("timestamp", [KEYS[5]])
    if role == "snapshot":
        repository.rotate("snapshot", [KEYS[6]])
    repository.publish_root()
    repository.roles[role].version = 0
    repository.publish()
    assert client.refresh()
    assert client.version(role) == 1


def test_new_snapshot_keys_recover_targets(both: Both) -> None:
    repository, client = both
    repository.targets.version = 99
    repository.publish("targets")
    assert client.refresh()
    assert client.version("targets") == 100
    repository.rotate("snapshot", [KEYS[5]])
    repository.rotate("timestamp", [KEYS[6]])
    repository.publish_root()
    repository.targets.version = 1
    repository.publish("targets")
    assert client.refresh()
    assert client.version("targets") == 2


# Expiry


def test_expired_root_is_kept_and_ends_the_refresh(both: Both) -> None:
    repository, client = both
    assert client.refresh()
    repository.root.expires -= 400 * DAY
    repository.publish_root()
    repository.publish("targets")
    assert not client.refresh()
    assert client.versions() == (2, 1, 1, 1)


def test_expired_root_on_the_way_to_a_valid_one(both: Both) -> None:
    repository, client = both
    repository.root.expires -= 400 * DAY
    repository.publish_root()
    repository.root.expires += 400 * DAY
    repository.publish_root()
    assert client.refresh()
    assert client.version("root") == 3


@pytest.mark.parametrize(
    ("role", "versions"),
    [("timestamp", (1, 1, 1, 1)), ("snapshot", (1, 2, 1, 1)), ("targets", (1, 2, 2, 1))],
)
def test_expired_role(both: Both, role: str, versions: tuple[int, ...]) -> None:
    repository, client = both
    assert client.refresh()
    repository.roles[role].expires -= 400 * DAY
    repository.publish("targets")
    assert not client.refresh()
    assert client.versions() == versions


def test_expired_local_metadata_leads_to_newer(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    repository, client = both
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    repository.timestamp.expires = now + 7 * DAY
    repository.publish_timestamp()
    assert client.refresh()
    repository.timestamp.expires = now + 21 * DAY
    repository.publish("targets")
    at(monkeypatch, now + 18 * DAY)
    assert client.refresh()
    assert client.versions() == (1, 3, 2, 2)


def test_expired_local_timestamp_still_protects_against_rollback(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    repository, client = both
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    old = repository.files["timestamp"]
    repository.timestamp.expires = now + 7 * DAY
    repository.publish_timestamp()
    assert client.refresh()
    repository.files["timestamp"] = old
    at(monkeypatch, now + 18 * DAY)
    assert not client.refresh()
    assert client.version("timestamp") == 2


def test_delegated_role_that_has_expired(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    repository, client = both
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    repository.delegate("targets", "one").expires = now + 7 * DAY
    repository.add("one", "first", b"1")
    repository.add("one", "second", b"2")
    repository.publish("one", "targets")
    assert client.download("first")
    with monkeypatch.context() as later:
        at(later, now + 18 * DAY)
        assert not client.download("second")
        repository.roles["one"].expires = now + 21 * DAY
        repository.publish("one")
        assert client.download("second")
    assert client.downloaded() == [b"1", b"2"]


# Keys and rotations


def test_threshold_is_reached_by_different_keys_only(both: Both) -> None:
    repository, client = both
    assert client.refresh()
    public = KEYS[5].public_key
    repository.rotate("snapshot", [KEYS[5]])
    for number in range(9):
        copy = type(public).from_dict(f"{number:064x}", public.to_dict())
        repository.root.add_key(copy, "snapshot")
    repository.root.roles["snapshot"].threshold = 6
    repository.publish_root()
    repository.publish()
    assert not client.refresh()
    assert client.versions() == (2, 2, 1, 1)


def test_unknown_key_algorithms_do_no_harm(both: Both) -> None:
    repository, client = both
    for key in repository.root.keys.values():
        key.unrecognized_fields["keyid_hash_algorithms"] = ["md5"]
    repository.publish_root()
    assert client.refresh()
    assert client.version("root") == 2


KEY_SETS = st.sets(st.integers(0, 9), min_size=1, max_size=5)


@SLOW_EXAMPLES
@given(old=KEY_SETS, new=KEY_SETS, ask=st.tuples(st.integers(1, 5), st.integers(1, 5)), signed=st.sets(st.integers(0, 9)),
       role=st.sampled_from(["root", "timestamp", "snapshot", "targets"]))  # fmt: skip
def test_rotation(
    old: set[int],
    new: set[int],
    ask: tuple[int, int],
    signed: set[int],
    role: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A new root needs the old threshold of old keys and the new one of new keys; another role that of its keys."""
    before, after = min(ask[0], len(old)), min(ask[1], len(new))
    repository = Simulated()
    repository.root.version = 0
    repository.rotate(role, [KEYS[key] for key in old], before)
    first = repository.publish_root()
    if role != "root":
        repository.publish("targets")
    with serving(repository.answer) as server:
        client = Client(server, tmp_path_factory.mktemp("rotation"), first)
        assert client.refresh()
        start = client.versions()
        repository.rotate(role, [KEYS[key] for key in new], after)
        repository.signers[role] = [KEYS[key] for key in sorted(signed)]
        repository.publish_root()
        if role != "root":
            repository.publish("targets")
        accepted = len(signed & new) >= after and (role != "root" or len(signed & old) >= before)
        assert client.refresh() == accepted
        if accepted:
            assert client.content(role) == (repository.files["2.root"] if role == "root" else repository.sign(role))
        else:
            index = ("root", "timestamp", "snapshot", "targets").index(role)
            assert client.versions()[index] == start[index]


def test_several_roots_at_once_and_a_gap(both: Both) -> None:
    repository, client = both
    for key in (4, 5, 6):
        outgoing = repository.signers["root"]
        repository.rotate("root", [KEYS[key]])
        repository.signers["root"] = [*outgoing, KEYS[key]]
        repository.publish_root()
        repository.signers["root"] = [KEYS[key]]
    assert client.refresh()
    assert client.version("root") == 4
    repository.root.version += 1
    repository.publish_root()
    assert client.refresh()
    assert client.version("root") == 4


def test_root_that_calls_itself_another_version(both: Both) -> None:
    repository, client = both
    repository.root.version = 4
    repository.publish_root()
    repository.files["2.root"] = repository.files["5.root"]
    assert not client.refresh()
    assert client.version("root") == 1


# Delegations


@st.composite
def graphs(draw: st.DrawFn) -> list[tuple[str, str, str, bool]]:
    """Delegations: from, to, path pattern, terminating; cycles included."""
    names = ["A", "B", "C", "D", "E"]
    above = st.sampled_from(["targets", *names])
    edge = st.tuples(above, st.sampled_from(names), st.sampled_from(["*", "*.py", "x*"]), st.booleans())
    return draw(st.lists(edge, max_size=9, unique_by=lambda item: item[:2]))


def reference(edges: list[tuple[str, str, str, bool]], path: str) -> list[str]:
    """The order of visits by the specification, 5.6.7: depth first, no role twice, no way back from a terminating one."""
    stack, visited = ["targets"], list[str]()
    while stack:
        role = stack.pop()
        if role in visited:
            continue
        visited.append(role)
        below = []
        for _, target, _, terminating in (e for e in edges if e[0] == role and fnmatch.fnmatch(path, e[2])):
            below.append(target)
            if terminating:
                stack = []
                break
        stack += reversed(below)
    return visited[1:]


@SLOW_EXAMPLES
@given(edges=graphs())
def test_order_of_the_search(edges: list[tuple[str, str, str, bool]], tmp_path_factory: pytest.TempPathFactory) -> None:
    repository = Simulated()
    for delegator, role, pattern, terminating in edges:
        for name in (delegator, role):
            if name not in repository.roles:
                repository.delegate("nobody" if "nobody" in repository.roles else _nobody(repository), name)
        repository.delegate(delegator, role, paths=(pattern,), terminating=terminating)
    repository.publish(*(name for name in repository.roles if name not in ("root", "timestamp", "snapshot")))
    with world(tmp_path_factory.mktemp("graph"), repository) as (_, client, _):
        assert not client.download("xmissing")
    assert [role for role, _ in repository.asked[4:]] == reference(edges, "xmissing")


def _nobody(repository: Simulated) -> str:
    """A role that nobody delegates to, so that roles can be made before who delegates to them."""
    repository.roles["nobody"] = Targets(expires=repository.expires)
    repository.signers["nobody"] = [KEYS[9]]
    return "nobody"


@pytest.mark.parametrize(
    ("path", "found", "visited"),
    [("top", True, []), ("a.md", True, ["A"]), ("r/x/1", True, ["B", "C"]), ("r/y/1.zip", True, ["B", "D"]),
     ("r/z/1.zip", False, ["B"])],
)  # fmt: skip
def test_paths_are_delegated_by_the_whole_chain(both: Both, path: str, found: bool, visited: list[str]) -> None:
    repository, client = both
    repository.delegate("targets", "A", paths=("*.doc", "*.md"))
    repository.delegate("targets", "B", paths=("r/*/*",))
    repository.delegate("B", "C", paths=("r/x/*",))
    repository.delegate("B", "D", paths=("r/y/*.zip",))
    for role, name in (("targets", "top"), ("A", "a.md"), ("C", "r/x/1"), ("D", "r/y/1.zip"), ("D", "r/z/1.zip")):
        repository.add(role, name, name.encode())
    repository.publish("D", "C", "B", "A", "targets")
    assert client.download(path) == found
    assert client.downloaded() == ([path.encode()] if found else [])
    assert [role for role, _ in repository.asked[4:]] == visited


@pytest.mark.parametrize("role", ["?", "#", "/one", "../one", "a b", "%2e", "é"])
def test_odd_role_names(both: Both, role: str, tmp_path: Path) -> None:
    repository, client = both
    repository.delegate("targets", role)
    repository.publish(role, "targets")
    assert not client.download("nothing of that name")
    assert (role, 1) in repository.asked
    assert client.trusted() == 5
    assert [path.name for path in tmp_path.iterdir()] == ["client"]


# Downloads


@pytest.mark.parametrize("name", ["file.txt", "path/to/file.txt", "a b?c#d", "%2e"])
def test_download(both: Both, name: str) -> None:
    repository, client = both
    repository.add("targets", name, b"content")
    repository.publish("targets")
    assert client.refresh()
    assert client.downloaded() == []
    assert client.download(name)
    assert client.downloaded() == [b"content"]


def test_changed_target_is_not_taken(both: Both) -> None:
    repository, client = both
    repository.add("targets", "one", b"content")
    repository.add("targets", "two", b"content2")
    repository.publish("targets")
    assert client.download("one")
    for name in repository.artifacts:
        repository.artifacts[name] = b"evil"
    assert client.download("one")
    assert not client.download("two")
    assert client.downloaded() == [b"content"]


def test_target_is_replaced_by_its_next_version(both: Both) -> None:
    repository, client = both
    for number in range(3):
        repository.add("targets", "one", f"content {number}".encode())
        repository.publish("targets")
        assert client.download("one")
        assert client.downloaded() == [f"content {number}".encode()]


def test_target_that_is_longer_than_said(both: Both) -> None:
    repository, client = both
    repository.add("targets", "one", b"content")
    (name,) = repository.artifacts
    repository.publish("targets")
    repository.artifacts[name] = b"content and more"
    assert not client.download("one")


def test_target_of_an_expired_world_is_not_downloaded(both: Both) -> None:
    repository, client = both
    target = TargetFile.from_data("one", b"content", ["sha256"])
    repository.targets.targets["one"] = target
    repository.targets.expires -= 400 * DAY
    repository.publish("targets")
    assert not client.download("one")


def test_program_is_what_the_suite_calls(tmp_path: Path) -> None:
    """The file as the suite's entrypoint: a process of its own."""
    with world(tmp_path / "client") as (repository, _, server):
        repository.add("targets", "one", b"content")
        repository.publish("targets")
        root = tmp_path / "root.json"
        root.write_bytes(repository.files["1.root"])
        common = [sys.executable, str(program.__file__), "--metadata-dir", str(tmp_path / "m")]
        url = ["--metadata-url", f"{server.url}/metadata"]
        place = [
            "--target-name",
            "one",
            "--target-base-url",
            f"{server.url}/targets",
            "--target-dir",
            str(tmp_path / "t"),
        ]
        for words in (["init", str(root)], [*url, "refresh"], [*url, *place, "download"]):
            done = subprocess.run([*common, *words], capture_output=True, text=True, timeout=60)
            assert (done.returncode, done.stderr) == (0, ""), words
        assert (tmp_path / "m/timestamp.json").exists()
        assert [path.read_bytes() for path in (tmp_path / "t").iterdir()] == [b"content"]
        url = ["--metadata-url", f"{server.url}/nothing"]
        assert subprocess.run([*common, *url, "refresh"], capture_output=True, timeout=60).returncode == 1


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_kinds_of_keys(both: Both, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host has no `cryptography`, and verifies Ed25519 alone; a repository with other keys is refused, not believed."""
    repository, client = both
    make = {
        "ed25519": CryptoSigner.generate_ed25519,
        "ecdsa": CryptoSigner.generate_ecdsa,
        "rsa": CryptoSigner.generate_rsa,
    }
    repository.rotate("timestamp", [make[kind]()])
    repository.publish_root()
    repository.publish()
    monkeypatch.setattr(verifying, "CRYPTO_IMPORT_ERROR", "not on a host")
    assert client.refresh() == (kind == "ed25519")
