"""Recalls: signed by their own key alone, never hidden or rolled back, and refused in every other form."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.sample_livepatch import livepatch, write_build
from tuf.api.metadata import Metadata, Root, Targets

from kmend.core.errors import KmendError, MalformedError
from kmend.core.recall import Extent, Recall, Recalls
from kmend.trust.client import open_repository
from kmend.trust.errors import MismatchError
from kmend.trust.recalls import ROOT_FIELD, SIGNED_FIELD, read_recalls
from kmend.trust.signing import keyfiles
from kmend.trust.signing.keyfiles import KeyFolder, KeyPlan
from kmend.trust.signing.publishing import Publisher, read_build
from kmend.trust.signingerrors import PublishRefusedError, SigningError

FIX = "ab" * 32


class Shop:
    """A publisher with one level."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = folder / "repository"
        self.keys = folder / "keys"
        self.now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
        keyfiles.create(self.keys, KeyPlan(bin_bits=1, module_key_bits=2048), now=self.now)
        self.manifest, module = livepatch(1, ("CVE-2026-1001",))
        self.publisher.publish([read_build(write_build(folder / "level-1", self.manifest, module))])

    @property
    def publisher(self) -> Publisher:
        return Publisher(self.repository, KeyFolder(self.keys, lambda path: b""), now=self.now)

    def seen(self, state: str = "state") -> Recalls:
        """What a host gets."""
        root = (self.keys / "root.json").read_bytes()
        with open_repository(self.repository.as_uri(), bootstrap=root, state=self.folder / state) as repository:
            return repository.recalls()


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_none_then_one_then_withdrawn(shop: Shop) -> None:
    assert shop.seen() == Recalls()
    shop.publisher.recall(Extent.REVERT, "it crashes", fix=FIX)
    recalls = shop.seen()
    assert [(item.fix, item.extent, item.number) for item in recalls.recalls] == [(FIX, Extent.REVERT, 1)]
    assert shop.seen() == recalls  # from what is kept
    shop.publisher.recall(Extent.STOP_NEW, "not that one", build_id=shop.manifest.kernel.build_id, level=1)
    shop.publisher.withdraw(1)
    recalls = shop.seen()
    assert [item.number for item in recalls.recalls] == [2]
    assert recalls.version == 3
    assert recalls.of(shop.manifest) is not None
    assert recalls.of(shop.manifest, (Extent.REVERT,)) is None
    # Numbers are not given again.
    assert shop.publisher.recall(Extent.REVERT, "once more", fix=FIX).recalls[-1].number == 3


def test_needs_the_recall_key_and_no_other_offline_key(shop: Shop) -> None:
    (shop.keys / "offline/targets-1.pem").rename(shop.folder / "targets")
    (shop.keys / "offline/root-1.pem").rename(shop.folder / "root")
    shop.publisher.recall(Extent.REVERT, "it crashes", fix=FIX)
    (shop.keys / "offline/recall-1.pem").rename(shop.folder / "recall")
    with pytest.raises(SigningError, match="usable recall keys"):
        shop.publisher.recall(Extent.REVERT, "again", fix=FIX)
    # A targets key in its place does not count.
    shutil.copy(shop.folder / "targets", shop.keys / "offline/recall-1.pem")
    with pytest.raises(SigningError, match="usable recall keys"):
        shop.publisher.recall(Extent.REVERT, "again", fix=FIX)
    assert len(shop.seen().recalls) == 1


def test_recalling_nothing_or_two_things_or_without_a_reason_is_refused(shop: Shop) -> None:
    for reason, fix, build_id, level in (
        ("why", "", "", 0),
        ("why", FIX, "cd" * 20, 1),
        ("", FIX, "", 0),
        ("two\nlines", FIX, "", 0),
    ):
        with pytest.raises(PublishRefusedError):
            shop.publisher.recall(Extent.REVERT, reason, fix=fix, build_id=build_id, level=level)
    with pytest.raises(PublishRefusedError, match="no recall 7"):
        shop.publisher.withdraw(7)
    assert shop.seen() == Recalls()


def test_a_changed_or_foreign_statement_is_refused(shop: Shop, tmp_path: Path) -> None:
    shop.publisher.recall(Extent.REVERT, "it crashes", fix=FIX)
    path = shop.repository / "metadata/1.recall.json"
    whole = path.read_bytes()
    root = Metadata[Root].from_bytes((shop.keys / "root.json").read_bytes()).signed
    assert read_recalls(whole, root, 1).last == 1
    for bad in (
        b"",
        b"[]",
        whole.replace(b"it crashes", b"it dances!"),
        whole[:-40],
        (shop.repository / "metadata/1.targets.json").read_bytes(),
    ):
        path.write_bytes(bad)
        with pytest.raises(KmendError):
            shop.seen(f"state-{len(bad)}")
    other = Shop(tmp_path / "other")
    other.publisher.recall(Extent.REVERT, "not ours", fix=FIX)
    path.write_bytes((other.repository / "metadata/1.recall.json").read_bytes())
    with pytest.raises(MismatchError, match="not signed by who may recall"):
        shop.seen("state-other")
    with pytest.raises(MismatchError, match="version"):
        read_recalls(whole, root, 2)


def test_a_recall_cannot_be_taken_out_of_sight(shop: Shop) -> None:
    before = shop.folder / "before"
    shutil.copytree(shop.repository, before)
    shop.publisher.recall(Extent.REVERT, "it crashes", fix=FIX)
    assert len(shop.seen().recalls) == 1
    shutil.rmtree(shop.repository)
    before.rename(shop.repository)
    with pytest.raises(KmendError, match=r"(?i)older|version|rolled"):
        shop.seen()
    # Even with the online keys: a snapshot that no longer names it is refused.
    shop.publisher.refresh()
    shop.publisher.refresh()
    with pytest.raises(KmendError):
        shop.seen()


def test_a_trust_root_from_before_gets_a_recall_key_when_it_is_renewed(shop: Shop) -> None:
    root = Metadata[Root].from_bytes((shop.keys / "root.json").read_bytes())
    del root.signed.unrecognized_fields[ROOT_FIELD]
    keys = KeyFolder(shop.keys, lambda path: b"")
    root.signatures.clear()
    root.sign(keys.signer(shop.keys / "offline/root-1.pem"))
    (shop.keys / "root.json").write_bytes(root.to_bytes())
    (shop.keys / "offline/recall-1.pem").unlink()
    shutil.rmtree(shop.repository)
    module = livepatch(1, ("CVE-2026-1001",))
    shop.publisher.publish([read_build(write_build(shop.folder / "again", *module))])
    with pytest.raises(SigningError, match="names nobody who may recall"):
        shop.publisher.recall(Extent.REVERT, "it crashes", fix=FIX)
    shop.publisher.renew()
    shop.publisher.recall(Extent.REVERT, "it crashes", fix=FIX)
    assert len(shop.seen().recalls) == 1


@pytest.mark.parametrize("field", [None, [], {"version": 2}, {"version": "x", "recalls": 3}, {"version": -1}])
def test_signed_nonsense_is_refused(shop: Shop, field: object) -> None:
    root = Metadata[Root].from_bytes((shop.keys / "root.json").read_bytes()).signed
    body = Targets(version=1)
    if field is not None:
        body.unrecognized_fields[SIGNED_FIELD] = field
    metadata = Metadata(body)
    metadata.sign(KeyFolder(shop.keys, lambda path: b"").signer(shop.keys / "offline/recall-1.pem"))
    with pytest.raises(MismatchError):
        read_recalls(metadata.to_bytes(), root, 1)


def test_a_trust_root_that_names_them_badly_is_refused(shop: Shop) -> None:
    shop.publisher.recall(Extent.REVERT, "it crashes", fix=FIX)
    whole = (shop.repository / "metadata/1.recall.json").read_bytes()
    root = Metadata[Root].from_bytes((shop.keys / "root.json").read_bytes()).signed
    good = json.loads(json.dumps(root.unrecognized_fields[ROOT_FIELD]))
    bads: list[object] = [3, [], {}, {**good, "threshold": 0}, {**good, "keyids": ["00"]}, {**good, "keys": {}}]
    for bad in [*bads, {**good, "threshold": 2}]:
        root.unrecognized_fields[ROOT_FIELD] = bad
        with pytest.raises(MismatchError):
            read_recalls(whole, root, 1)


@given(st.lists(st.integers(1, 50), max_size=6), st.integers(-3, 60))
def test_numbers_rise_and_are_bounded(numbers: list[int], last: int) -> None:
    items = tuple(Recall(number, Extent.REVERT, "why", 0, FIX) for number in numbers)
    right = numbers == sorted(set(numbers)) and (not numbers or numbers[-1] <= last)
    if right:
        assert Recalls(1, last, items).fixes == (frozenset({FIX}) if numbers else frozenset())
    else:
        with pytest.raises(MalformedError):
            Recalls(1, last, items)
