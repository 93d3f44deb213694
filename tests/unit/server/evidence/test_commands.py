"""`kmend-server evidence` and `inventory`, as an operator and an auditor use them, and what they are told when it goes wrong."""

from __future__ import annotations

import datetime
import errno
import json
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.unit.server.api.asking import Asked, person
from tests.unit.server.evidence.conftest import Packed
from tests.unit.server.evidence.packing import DAY, OPEN, SECOND, Yard, wrong
from tests.unit.server.hosts.machines import Machine, enrolment_key
from tests.unit.server.hosts.machines import enrol as enrol_there
from tests.unit.server.operations.running import Running
from tests.unit.server.operations.test_serving import Done, command, told
from tests.unit.server.repository.conftest import Press
from tuf.api.metadata import Metadata, Root

from kmend.core.errors import SystemProblemError
from kmend.server.access.audit import Head
from kmend.server.access.permissions import Role
from kmend.server.evidence import making, showing, signing
from kmend.server.evidence.container import Pack
from kmend.server.evidence.countersigning import countersign
from kmend.server.evidence.errors import EvidenceError
from kmend.server.evidence.reading import Reader
from kmend.server.evidence.verifying import Trusted, verify
from kmend.server.main import cli
from kmend.server.store import Store, open_store
from kmend.trust import keypem
from kmend.trust.signing import keyfiles
from kmend.trust.signing.keyfiles import KeyFolder


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = Running(tmp_path_factory.mktemp("running"))
    yield made
    made.close()


def alone(*words: object) -> tuple[int, str]:
    """A command that needs no server: exit status, and what it has printed."""
    found = CliRunner().invoke(cli, list(map(str, words)), standalone_mode=False)
    if found.exception is not None:
        raise found.exception
    return found.return_value or 0, found.stdout


def test_a_pack_of_a_fleet_without_hosts(running: Running, tmp_path: Path) -> None:
    target = tmp_path / "empty.tar"
    done = command(running, "evidence", "pack", "--from", "2020-01-01", "--to", "2020-01-31", "-o", str(target))
    assert done.returncode == 0, done.stderr
    assert "0 hosts, 0 reports" in done.stdout
    assert "write down the head of the audit log" in done.stderr
    assert list(tmp_path.iterdir()) == [target], "no unfinished file stays"
    found = verify(target, Trusted(_any_root(running, tmp_path), {}, server_alone=True))
    assert wrong(found) == {}


def _any_root(running: Running, tmp_path: Path) -> bytes:
    """A server without a repository rests on no root: any will do."""
    import datetime

    from kmend.trust.signing import keyfiles
    from kmend.trust.signing.keyfiles import KeyPlan

    keyfiles.create(
        tmp_path / "k", KeyPlan(bin_bits=2, module_key_bits=2048), now=datetime.datetime.now(datetime.timezone.utc)
    )
    return (tmp_path / "k/root.json").read_bytes()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--from", "2999-01-01", "--to", "2999-01-31"), 2, "the period has not begun yet"),
        (("--from", "2026-02-01", "--to", "2026-01-01"), 2, "the period ends before it begins"),
        (("--from", "2001-01-01", "--to", "2026-01-01"), 2, "1100 days at most"),
        (("--from", "1901-01-01", "--to", "1901-02-01"), 2, "before 1970"),
        (("--from", "2026-01-01", "--to", "2026-02-01", "--ring", "nowhere"), 2, "nowhere"),
        (("--from", "january", "--to", "2026-02-01"), 2, "january"),
    ],
)
def test_a_period_that_cannot_be(
    running: Running, tmp_path: Path, words: tuple[str, ...], status: int, said: str
) -> None:
    done = command(running, "evidence", "pack", *words, "-o", str(tmp_path / "p.tar"))
    assert (done.returncode, done.stdout) == (status, ""), done
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_where_the_pack_cannot_be_written(running: Running, tmp_path: Path) -> None:
    done = _pack(running, tmp_path / "nowhere/p.tar")
    assert (done.returncode, "cannot write" in done.stderr) == (1, True), done
    (tmp_path / "kept.tar").write_bytes(b"an earlier pack")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        done = _pack(running, tmp_path / "kept.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (done.returncode, "cannot write" in done.stderr) == (1, True), done
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("kept.tar", b"an earlier pack")]


def _pack(running: Running, path: Path) -> Done:
    return command(running, "evidence", "pack", "--from", "2026-01-01", "--to", "2026-01-31", "-o", str(path))


def test_who_may_not_have_a_pack(running: Running, tmp_path: Path) -> None:
    viewer = told(running, "tokens", "create", "viewer", "--role", "viewer")["secret"]
    words = ("evidence", "pack", "--from", "2026-01-01", "--to", "2026-01-31", "-o", str(tmp_path / "p.tar"))
    done = command(running, *words, token=viewer)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, []), done
    done = command(running, *words, token="kmend_wrong")
    assert (done.returncode, list(tmp_path.iterdir())) == (2, []), done


def test_a_server_whose_disk_is_full_says_so_and_makes_the_next_one(
    store: Store, press: Press, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard = Yard(store, press, tmp_path)
    yard.fill()
    asked = Asked(yard.store, yard.config, now=yard.press.now)
    path = f"/evidence/pack?from={yard.begin}&to={yard.press.now}"

    def full(*words: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    try:
        auditor = person(asked, Role.AUDITOR)
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "NamedTemporaryFile", full)
            answer = auditor("GET", path)
            assert (answer.status, answer.word) == (500, "system"), answer
            assert "No space left" in answer.json["detail"]
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "TemporaryFile", full)
            with pytest.raises(SystemProblemError, match="No space left"):
                list(making.stream(yard.store, yard.config, yard.wanted()))
        assert auditor("GET", path).status == 200, "the one that failed is in nobody's way"
    finally:
        asked.close()


def test_a_cve_that_no_host_had_open_is_not_one_that_nobody_knows(packed: Packed) -> None:
    assert "web-2" in alone("evidence", "show", packed.path, "--cve", SECOND.lower())[1], "large or small letters"
    with pytest.raises(EvidenceError, match="nothing in the pack names CVE-2026-9999"):
        alone("evidence", "show", packed.path, "--cve", "CVE-2026-9999")
    assert alone("evidence", "show", packed.path, "--cve", "CVE-2026-2004")[1] == (
        "CVE-2026-2004 was open on no host in the period\n"
    )
    for words in (("--host", "nobody"), ("--cve", OPEN, "--host", "nobody")):
        with pytest.raises(EvidenceError, match="no host 'nobody'"):
            alone("evidence", "show", packed.path, *words)


def test_two_hosts_of_one_name_are_not_taken_for_each_other(store: Store, press: Press, tmp_path: Path) -> None:
    yard = Yard(store, press, tmp_path)
    yard.fill()
    twin = Machine.new("twin")
    twin.facts = yard.machines["web-1"].facts.__class__("web-1", "ab" * 32)
    secret = enrolment_key(store, ring="front", now=yard.begin, expires_at=yard.begin + DAY)
    enrol_there(store, twin, secret, now=yard.begin)
    path = yard.pack()
    assert wrong(yard.verify(path)) == {}
    with pytest.raises(EvidenceError, match="2 hosts have the name 'web-1'") as problem:
        showing.of_host(Reader(path), "web-1")
    assert twin.id in problem.value.hint
    assert showing.of_host(Reader(path), twin.id).stays == ()
    rows = list(showing.of_cve(Reader(path), SECOND, "web-1"))
    assert [row.host for row in rows] == [yard.machines["web-1"].id]


def test_a_time_beyond_every_calendar(store: Store, press: Press, tmp_path: Path) -> None:
    """The host's clock is the host's own word."""
    yard = Yard(store, press, tmp_path)
    yard.fill()
    yard.say("web-2", 2, 1, at=2**62)
    path = yard.pack()
    assert wrong(yard.verify(path)) == {}
    assert "web-2" in alone("evidence", "show", path, "--cve", OPEN)[1]
    assert f"second {2**62}" in alone("evidence", "show", path, "--host", "web-2")[1]


def test_what_was_damaged_is_not_signed(packed: Packed, copy: Path) -> None:
    content = copy.read_bytes()
    place = content.index(b"web-2")
    copy.write_bytes(content[:place] + b"web-3" + content[place + 5 :])
    keypem.make_signer(copy.parent / "a.pem")
    with pytest.raises(EvidenceError, match="was changed"):
        alone("evidence", "sign", copy, "--key", copy.parent / "a.pem")


def test_a_pack_is_never_half_signed(packed: Packed, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = copy.read_bytes()
    keypem.make_signer(copy.parent / "a.pem")
    key = signing.private_key(copy.parent / "a.pem", lambda _: b"")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SystemProblemError, match="No space left"):
        countersign(copy, key, name="", note="", at=1)
    assert copy.read_bytes() == before
    assert {path.name for path in copy.parent.iterdir()} == {copy.name, "a.pem"}
    monkeypatch.undo()
    countersign(copy, key, name="", note="", at=1)
    assert copy.read_bytes()[: Pack(packed.path).end] == before[: Pack(packed.path).end]


def test_a_signature_lies_under_its_own_key_once(packed: Packed, copy: Path) -> None:
    from kmend.server.evidence.container import Writer

    pack = Pack(copy)
    (name,) = pack.parts("countersignatures")
    with copy.open("r+b") as stream:
        stream.seek(pack.end)
        writer = Writer(stream.write)
        writer.add(f"countersignatures/{'ab' * 32}.json", pack.read(name))
        writer.end()
    assert "of another key" in wrong(packed.yard.verify(copy))["people"]


def test_a_key_that_a_later_root_has_revoked_counts_no_more(store: Store, press: Press, tmp_path: Path) -> None:
    """Also for an auditor who has the root from before; it may have been stolen since."""
    yard = Yard(store, press, tmp_path)
    yard.fill()
    now = datetime.datetime.now(datetime.timezone.utc)
    second = keypem.make_signer(tmp_path / "second.pem")
    root = Metadata[Root].from_bytes(yard.root)
    (first,) = keyfiles.root_signers(root, KeyFolder(press.keys, lambda _: b""))
    both = Metadata[Root].from_bytes(yard.root)
    both.signed.add_key(second.public_key, "root")
    both.signed.version -= 1
    trusted = keyfiles.next_root(both, [first], now=now)
    metadata = press.repository / "metadata"
    (metadata / "1.root.json").write_bytes(trusted)
    (metadata / "2.root.json").write_bytes(keyfiles.next_root(root, [first], now=now))
    (yard.config.data / "root.json").write_bytes(trusted)
    path = yard.pack(countersigned=False)
    countersign(path, signing.private_key(tmp_path / "second.pem", lambda _: b""), name="", note="", at=1)
    assert list(wrong(verify(path, Trusted(trusted, {})))) == ["people"]
    yard.countersign(path, "root")
    assert wrong(verify(path, Trusted(trusted, {}))) == {}


def test_a_head_that_is_not_there_spoils_no_other_check(packed: Packed) -> None:
    for head, said in ((Head(10**9, "0" * 64), "ends with record"), (Head(2, "0" * 64), "written anew")):
        found = wrong(packed.yard.verify(packed.path, heads=(head,)))
        assert list(found) == ["audit"]
        assert said in found["audit"]


def test_a_rollout_that_was_halted_is_shown_as_that(store: Store, press: Press, tmp_path: Path) -> None:
    from sqlalchemy import update

    from kmend.server.evidence.documents import ROLLOUTS, RolloutRow
    from kmend.server.store import tables

    yard = Yard(store, press, tmp_path)
    yard.fill()
    with store.write() as connection:
        connection.execute(update(tables.rollouts).values(state="running", override="halted"))
    (row,) = Reader(yard.pack()).rows(RolloutRow, ROLLOUTS)
    assert row.state == "halted"


def test_an_inventory_is_imported_and_counted(running: Running, tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{running.folder / 'data/kmend.sqlite'}", pool=1)
    machine = Machine.new("web-1")
    enrol_there(store, machine, enrolment_key(store))
    store.close()
    listed = tmp_path / "machines.csv"
    listed.write_text("\ufeffName;Owner\n")
    config = ("--config", str(running.folder / "server.toml"))
    done = command(running, "inventory", "import", str(listed), *config)
    assert (done.returncode, "no column" in done.stderr) == (2, True), done
    listed.write_text("name,owner\nWEB-1,web\ndb-1,data\n")
    done = command(running, "inventory", "import", str(listed), *config, "--json")
    assert json.loads(done.stdout) == {"machines": 2, "enrolled": 1}, done
    assert told(running, "inventory", "coverage")["without"][0]["name"] == "db-1"
    shown = command(running, "inventory", "coverage").stdout
    assert "1 of 2 machines are enrolled hosts" in shown
    assert "db-1" in shown
