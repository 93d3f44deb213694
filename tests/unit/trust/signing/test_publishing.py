"""What may be published, what is refused, and what a publisher killed in the middle leaves."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.sample_livepatch import BUILD_ID, KERNEL, OTHER_BUILD_ID, livepatch, patch_of, source_of, write_build
from tests.unit.trust.conftest import NOW, no_passphrase, publisher

from kmend.core import durable
from kmend.core.document import encode, from_plain
from kmend.core.errors import MalformedError
from kmend.core.kernel import KernelIdentity
from kmend.core.manifest import FileRecord, Manifest, SourceFile, sha256_hex
from kmend.trust import layout
from kmend.trust.client import fetch_source, open_repository
from kmend.trust.errors import MismatchError
from kmend.trust.signing import keyfiles
from kmend.trust.signing.keyfiles import KeyFolder
from kmend.trust.signing.publishing import Publisher, read_build
from kmend.trust.signingerrors import KeyFileError, PublishRefusedError, SigningError
from kmend.trust.transport import Transport

ONE, TWO, THREE = "CVE-2026-2001", "CVE-2026-2002", "CVE-2026-2003"


@pytest.fixture
def repository(tmp_path: Path, original: Path) -> Path:
    shutil.copytree(original, tmp_path / "repository")
    return tmp_path / "repository"


def seen(repository: Path, keys: Path, state: Path, build_id: str = BUILD_ID) -> list[int]:
    """The levels that a client sees."""
    bootstrap = (keys / "root.json").read_bytes()
    with open_repository(repository.as_uri(), bootstrap=bootstrap, state=state) as opened:
        levels = opened.levels(build_id)
        if levels is None:
            return []
        for record in levels.levels:
            opened.manifest(build_id, record)
            opened.module(record)
        return [record.level for record in levels.levels]


def test_levels_pile_up(repository: Path, keys: Path, tmp_path: Path) -> None:
    build = write_build(tmp_path / "two", *livepatch(2, [ONE, TWO], base=1))
    result = publisher(repository, keys).publish([read_build(build)])
    assert [(level.level, level.signed, level.cves) for level in result.levels] == [(2, True, (ONE, TWO))]
    assert result.timestamp_version == 2
    assert result.warnings == ()
    assert seen(repository, keys, tmp_path / "state") == [1, 2]
    digest = sha256_hex(patch_of(TWO))
    assert (repository / layout.file_path(digest)).read_bytes() == patch_of(TWO)


def test_several_at_once_in_any_order(tmp_path: Path, keys: Path) -> None:
    other = KernelIdentity(OTHER_BUILD_ID, "6.1.0-53", "#1", "debian:6.1.0-53")
    builds = [
        write_build(tmp_path / "two", *livepatch(2, [ONE, TWO], base=1)),
        write_build(tmp_path / "other", *livepatch(1, [THREE], kernel=other)),
        write_build(tmp_path / "one", *livepatch(1, [ONE])),
    ]
    publisher(tmp_path / "fresh", keys).publish([read_build(build) for build in builds])
    assert seen(tmp_path / "fresh", keys, tmp_path / "state") == [1, 2]
    assert seen(tmp_path / "fresh", keys, tmp_path / "state", OTHER_BUILD_ID) == [1]


def test_all_or_none(repository: Path, keys: Path, tmp_path: Path) -> None:
    before = (repository / "metadata/timestamp.json").read_bytes()
    builds = [
        write_build(tmp_path / "two", *livepatch(2, [ONE, TWO])),
        write_build(tmp_path / "three", *livepatch(3, [ONE])),
    ]
    with pytest.raises(PublishRefusedError):
        publisher(repository, keys).publish([read_build(build) for build in builds])
    assert (repository / "metadata/timestamp.json").read_bytes() == before
    assert seen(repository, keys, tmp_path / "state") == [1]


def test_regression_names_what_it_would_reopen(repository: Path, keys: Path, tmp_path: Path) -> None:
    build = write_build(tmp_path / "two", *livepatch(2, [TWO]))
    with pytest.raises(PublishRefusedError, match=f"reopen {ONE}"):
        publisher(repository, keys).publish([read_build(build)])


@pytest.mark.parametrize(
    ("level", "base", "words"), [(1, None, "not newer"), (2, 1, ""), (5, 3, "built on level 3"), (3, None, "")]
)
def test_succession(repository: Path, keys: Path, tmp_path: Path, level: int, base: int | None, words: str) -> None:
    build = write_build(tmp_path / "next", *livepatch(level, [ONE, TWO], base=base))
    if not words:
        publisher(repository, keys).publish([read_build(build)])
        assert seen(repository, keys, tmp_path / "state") == [1, level]
        return
    with pytest.raises(PublishRefusedError, match=words):
        publisher(repository, keys).publish([read_build(build)])


def test_first_level_needs_no_base(tmp_path: Path, keys: Path) -> None:
    build = write_build(tmp_path / "two", *livepatch(2, [ONE], base=1))
    with pytest.raises(PublishRefusedError, match="which is not published"):
        publisher(tmp_path / "fresh", keys).publish([read_build(build)])
    assert not (tmp_path / "fresh/metadata/timestamp.json").exists()


def test_kernel_labels_must_agree(repository: Path, keys: Path, tmp_path: Path) -> None:
    manifest, module = livepatch(2, [ONE, TWO])
    relabelled = replace(manifest, kernel=replace(KERNEL, version="#2"))
    build = write_build(tmp_path / "two", relabelled, module)
    with pytest.raises(PublishRefusedError, match="calls its kernel"):
        publisher(repository, keys).publish([read_build(build)])


def test_module_must_be_the_manifests(tmp_path: Path) -> None:
    manifest, module = livepatch(1, [ONE])
    folder = write_build(tmp_path / "build", manifest, module[:-1] + b"!")
    with pytest.raises(PublishRefusedError, match="is not the module"):
        read_build(folder)


def test_signed_module_is_refused(tmp_path: Path) -> None:
    manifest, module = livepatch(1, [ONE])
    folder = write_build(tmp_path / "build", manifest, module + b"~Module signature appended~\n")
    with pytest.raises(PublishRefusedError, match="signed already"):
        read_build(folder)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[]"])
def test_manifest_must_be_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(PublishRefusedError):
        read_build(tmp_path)


def test_folder_without_a_build(tmp_path: Path) -> None:
    with pytest.raises(
        PublishRefusedError, match=r"is not the whole folder of a livepatch: .*manifest\.json"
    ) as caught:
        read_build(tmp_path)
    assert "build -o" in caught.value.hint
    assert caught.value.exit_status == 2


def test_expired_root_is_refused_and_can_be_renewed(repository: Path, keys: Path, tmp_path: Path) -> None:
    later = NOW + datetime.timedelta(days=400)
    build = write_build(tmp_path / "two", *livepatch(2, [ONE, TWO]))
    with pytest.raises(PublishRefusedError, match="has expired"):
        publisher(repository, keys, now=later).publish([read_build(build)])
    assert publisher(repository, keys, now=later).renew() == 2
    publisher(repository, keys, now=later).publish([read_build(build)])


def test_what_expires_soon_is_said_and_renewed(repository: Path, keys: Path, tmp_path: Path) -> None:
    later = NOW + datetime.timedelta(days=330)
    result = publisher(repository, keys, now=later).refresh()
    assert [warning.split(" expires")[0] for warning in result.warnings] == ["the trust root", "the targets metadata"]
    build = write_build(tmp_path / "two", *livepatch(2, [ONE, TWO]))
    result = publisher(repository, keys, now=later).publish([read_build(build)])
    assert [warning.split(" expires")[0] for warning in result.warnings] == ["the trust root"]
    assert len(list((repository / "metadata").glob("2.kernels-*.json"))) == 4


def test_refresh_needs_only_the_online_keys(repository: Path, keys: Path, tmp_path: Path) -> None:
    online = tmp_path / "online-only"
    shutil.copytree(keys, online)
    shutil.rmtree(online / "offline")
    shutil.rmtree(online / "module")
    publisher(repository, online).refresh()
    assert seen(repository, keys, tmp_path / "state") == [1]
    build = write_build(tmp_path / "two", *livepatch(2, [ONE, TWO]))
    with pytest.raises(KeyFileError, match="0 usable targets keys"):
        publisher(repository, online).publish([read_build(build)])
    assert seen(repository, keys, tmp_path / "state") == [1]


def test_refresh_needs_a_repository(tmp_path: Path, keys: Path) -> None:
    with pytest.raises(SigningError, match="no repository"):
        publisher(tmp_path / "nowhere", keys).refresh()


def test_threshold_of_targets_keys(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    plan = keyfiles.KeyPlan(targets_keys=3, targets_threshold=2, bin_bits=1, module_key_bits=2048)
    keyfiles.create(keys, plan, now=NOW)
    (keys / "offline/targets-2.pem").unlink()
    build = read_build(write_build(tmp_path / "one", *livepatch(1, [ONE])))
    publisher(tmp_path / "repository", keys).publish([build])
    assert seen(tmp_path / "repository", keys, tmp_path / "state") == [1]
    (keys / "offline/targets-3.pem").unlink()
    build = read_build(write_build(tmp_path / "two", *livepatch(2, [ONE, TWO])))
    with pytest.raises(KeyFileError, match="1 usable"):
        publisher(tmp_path / "repository", keys).publish([build])


def test_repository_that_somebody_changed_is_not_extended(repository: Path, keys: Path, tmp_path: Path) -> None:
    path = repository / "metadata/1.snapshot.json"
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":7', 1))
    build = write_build(tmp_path / "two", *livepatch(2, [ONE, TWO]))
    with pytest.raises(SigningError):
        publisher(repository, keys).publish([read_build(build)])


def test_other_keys_do_not_fit(repository: Path, tmp_path: Path) -> None:
    keyfiles.create(tmp_path / "other", keyfiles.KeyPlan(bin_bits=2, module_key_bits=2048), now=NOW)
    with pytest.raises(SigningError, match="not signed by the keys of this trust root"):
        publisher(repository, tmp_path / "other").refresh()


def test_operators_sign_without_touching_metadata(repository: Path, keys: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    keyfiles.create(own, keyfiles.KeyPlan(module_key_bits=2048), now=NOW)
    key = keyfiles.load_module_key(own / "module/module.pem", own / "module/module.x509", no_passphrase)
    before = {path.name: path.read_bytes() for path in (repository / "metadata").iterdir()}
    assert Publisher(repository, KeyFolder(keys, no_passphrase), now=NOW).sign_modules(key, "acme") == 1
    assert {path.name: path.read_bytes() for path in (repository / "metadata").iterdir()} == before
    bootstrap = (keys / "root.json").read_bytes()
    with open_repository(repository.as_uri(), bootstrap=bootstrap, state=tmp_path / "state") as opened:
        levels = opened.levels(BUILD_ID)
        assert levels is not None
        digest = levels.levels[0].module.sha256
        assert opened.signature(digest, "acme") not in (b"", opened.signature(digest))


def test_publisher_killed_at_any_write_leaves_a_valid_repository(
    repository: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = read_build(write_build(tmp_path / "two", *livepatch(2, [ONE, TWO])))
    write, written = durable.write_durably, [0]
    for fatal in range(1, 40):
        child = os.fork()
        if child == 0:

            def deadly(
                path: Path,
                content: bytes,
                *,
                mode: int = 0o644,
                owner: tuple[int, int] | None = None,
                fatal: int = fatal,
            ) -> None:
                written[0] += 1
                if written[0] == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
                write(path, content, mode=mode, owner=owner)

            durable.write_durably = deadly
            try:
                publisher(repository, keys).publish([build])
                os._exit(0)
            except BaseException:  # noqa: BLE001 - the child of a test must never return into pytest
                os._exit(99)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status)
        assert killed or os.waitstatus_to_exitcode(status) == 0
        assert seen(repository, keys, tmp_path / f"state-{fatal}") == ([1] if killed else [1, 2])
        if not killed:
            assert fatal > 5
            return
    raise AssertionError("the publisher never came to its end")


def test_two_publishes_of_the_same_level(repository: Path, keys: Path, tmp_path: Path) -> None:
    manifest, module = livepatch(1, [ONE])
    build = write_build(tmp_path / "again", manifest, module)
    assert encode(manifest)
    with pytest.raises(PublishRefusedError, match="not newer"):
        publisher(repository, keys).publish([read_build(build)])


def test_the_corresponding_source_is_published_once(repository: Path, keys: Path, tmp_path: Path) -> None:
    manifest, module = livepatch(2, [ONE, TWO], base=1)
    before = len(list((repository / "files").rglob("*")))
    publisher(repository, keys).publish([read_build(write_build(tmp_path / "two", manifest, module))])
    shared = {sha256_hex(patch_of(ONE)), sha256_hex(b"/* glue */\n")}
    added = {path.name for path in (repository / "files").rglob("*") if path.is_file()} - shared
    assert {file.content.sha256 for file in manifest.source} - shared <= added
    assert len(list((repository / "files").rglob("*"))) <= before + 2 * 4, "manifest, module, series and one patch"
    with open_repository(
        repository.as_uri(), bootstrap=(keys / "root.json").read_bytes(), state=tmp_path / "state"
    ) as opened:
        levels = opened.levels(BUILD_ID)
        assert levels is not None
        assert opened.source(opened.manifest(BUILD_ID, levels.levels[-1])) == source_of([ONE, TWO])


@pytest.mark.parametrize("name", ["series", "glue.c", f"0001-{ONE}.patch"])
def test_source_that_lacks_or_is_not_the_manifests(tmp_path: Path, name: str) -> None:
    folder = write_build(tmp_path / "one", *livepatch(1, [ONE]))
    (folder / "source" / name).write_bytes(b"another")
    with pytest.raises(PublishRefusedError, match="is not the file that manifest"):
        read_build(folder)
    (folder / "source" / name).unlink()
    with pytest.raises(PublishRefusedError, match="is not the whole folder of a livepatch"):
        read_build(folder)


def test_a_manifest_without_source_is_not_published(tmp_path: Path) -> None:
    manifest, module = livepatch(1, [ONE])
    folder = write_build(tmp_path / "one", replace(manifest, source=()), module)
    with pytest.raises(PublishRefusedError, match="does not name its corresponding source"):
        read_build(folder)


def test_levels_of_before_have_their_patches(repository: Path, keys: Path, tmp_path: Path) -> None:
    """A manifest that names no source was published with its patches, under the digests of its fixes."""
    manifest, _ = livepatch(1, [ONE])
    old = replace(manifest, source=())
    url, transport = repository.as_uri(), Transport()
    assert fetch_source(url, old, transport) == {"series": b"0001.patch\n", "0001.patch": patch_of(ONE)}
    (repository / layout.file_path(sha256_hex(patch_of(ONE)))).write_bytes(b"another")
    with pytest.raises(MismatchError):
        fetch_source(url, old, transport)
    with pytest.raises(MismatchError):
        fetch_source(url, manifest, transport)
    transport.close()


def test_a_manifest_of_an_older_factory_is_read() -> None:
    tree = json.loads(encode(livepatch(1, [ONE])[0]))
    del tree["source"]
    assert from_plain(Manifest, tree).source == ()


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 201])
def test_names_of_source_files_are_plain(name: str) -> None:
    with pytest.raises(MalformedError):
        SourceFile(name, FileRecord("0" * 64, 1))
