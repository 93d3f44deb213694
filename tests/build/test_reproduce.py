"""`kmend-factory reproduce`: the same module from the published source alone, or where it differs."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.build.conftest import PROGRAM
from tests.fixmaker import Edit, FixMaker

from kmend.core import document
from kmend.core.errors import KmendError
from kmend.core.manifest import sha256_hex
from kmend.factory.build import Built, build, write_build
from kmend.factory.desk import reproducing
from kmend.factory.elf import read_object
from kmend.factory.fixes import Fix, parse_fix
from kmend.factory.kernels.prepared import Kernel
from kmend.factory.kernels.tree import EnvironmentDiffersError
from kmend.factory.main import cli
from kmend.trust import module_signature
from kmend.trust.signing import keyfiles
from kmend.trust.signing.keyfiles import KeyFolder, KeyPlan
from kmend.trust.signing.publishing import Publisher, read_build

FIX = (
    Edit("fs/proc/loadavg.c", "%u/%d %d\\n", "%u/%d %d mended\\n"),
    Edit("fs/filesystems.c", '"" : "nodev"', '"" : "virtual"'),
)


@pytest.fixture(scope="module")
def built(prepared: Kernel, maker: FixMaker) -> Built:
    return build(prepared, [parse_fix(maker.patch(FIX).encode(), "an author's own name.patch")])


@pytest.fixture(scope="module", autouse=True)
def one_rebuild_each(built: Built) -> Iterator[None]:
    """The same series is built again once, not by every test; `built` itself is never used for it."""
    rebuilt: dict[tuple[str, ...], Built] = {}

    def remembered(kernel: Kernel, fixes: Sequence[Fix], **options: Any) -> Built:
        key = (str(options["level"]), *(fix.digest for fix in fixes))
        if key not in rebuilt:
            rebuilt[key] = build(kernel, fixes, **options)
        return rebuilt[key]

    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(reproducing, "build", remembered)
        yield


@pytest.fixture
def folder(built: Built, tmp_path: Path) -> Path:
    write_build(built, tmp_path / "build")
    return tmp_path / "build"


def reproduce(*words: str | Path) -> tuple[int, dict[str, object]]:
    """Status and JSON document of the command."""
    result = CliRunner().invoke(cli, ["reproduce", "--json", *map(str, words)], standalone_mode=False)
    if isinstance(result.exception, KmendError):
        raise result.exception
    assert result.exception is None, result.output
    return int(result.return_value or 0), json.loads(result.stdout)


def parts(report: dict[str, object]) -> list[str]:
    differences = report["differences"]
    assert isinstance(differences, list)
    return [difference["part"] for difference in differences]


def test_the_same_bytes_also_from_a_signed_module(folder: Path, built: Built, tmp_path: Path) -> None:
    signed = tmp_path / "signed.ko"
    signed.write_bytes(module_signature.join(built.module, b"\x30\x82 a signature"))
    status, report = reproduce(folder / "manifest.json", "--module", signed)
    assert status == 0
    assert (report["outcome"], report["signature_removed"], report["compared"]) == ("equal", True, True)
    assert report["module"] == {
        "name": built.manifest.module.name,
        "claimed": built.manifest.module.sha256,
        "rebuilt": built.manifest.module.sha256,
    }


def test_a_changed_byte_is_found_in_its_function(folder: Path, built: Built) -> None:
    image = read_object(built.module)
    function = image.symbol("loadavg_proc_show")
    assert function is not None
    assert function.section is not None
    code = function.section.content
    assert built.module.count(code) == 1
    changed = built.module.replace(code, code[:7] + bytes([code[7] ^ 1]) + code[8:])
    path = folder / f"{built.manifest.module.name}.ko"
    path.write_bytes(changed)
    status, report = reproduce(folder)
    assert (status, report["outcome"]) == (5, "differs")
    assert parts(report) == ["section", "file"]
    first = report["differences"][0]  # type: ignore[index]
    assert (first["symbol"], first["section"], first["offset"]) == ("loadavg_proc_show", function.section.name, 7)


def test_another_fix_under_the_same_manifest(folder: Path, built: Built, maker: FixMaker) -> None:
    """Who hands on another source than the one he built from is found out by the module."""
    other = maker.patch([replace(FIX[0], new="%u/%d %d healed\\n"), FIX[1]]).encode()
    (name,) = (name for name in built.source if name.endswith(".patch"))
    (folder / "source" / name).write_bytes(other)
    with pytest.raises(KmendError, match="is not the file that the manifest names"):
        reproduce(folder)
    record = replace(built.manifest.fixes[0], digest=sha256_hex(other))
    source = tuple(
        replace(file, content=replace(file.content, sha256=sha256_hex(other), size=len(other)))
        if file.name == name
        else file
        for file in built.manifest.source
    )
    lie = replace(built.manifest, fixes=(record,), source=source)
    (folder / "manifest.json").write_bytes(document.encode(lie))
    status, report = reproduce(folder)
    assert status == 5
    assert parts(report) == ["section", "manifest", "manifest"]
    first = report["differences"][0]  # type: ignore[index]
    assert first["section"] == ".rodata.str.kmend"


def test_a_manifest_that_says_too_much(folder: Path, built: Built) -> None:
    fixes = (replace(built.manifest.fixes[0], cves=("CVE-2026-1111",)),)
    (folder / "manifest.json").write_bytes(document.encode(replace(built.manifest, fixes=fixes)))
    status, report = reproduce(folder)
    assert (status, parts(report)) == (5, ["manifest"])


def test_other_packages_and_other_kernels(folder: Path, built: Built) -> None:
    manifest = built.manifest
    name = next(iter(manifest.built.inputs))
    other = replace(manifest.built, inputs={**manifest.built.inputs, name: "0" * 64})
    (folder / "manifest.json").write_bytes(document.encode(replace(manifest, built=other)))
    with pytest.raises(EnvironmentDiffersError, match="from other packages") as caught:
        reproduce(folder)
    assert caught.value.exit_status == 4
    kernel = replace(manifest.kernel, build_id="0" * 40)
    (folder / "manifest.json").write_bytes(document.encode(replace(manifest, kernel=kernel)))
    with pytest.raises(EnvironmentDiffersError, match="is kernel build"):
        reproduce(folder)


def test_a_published_level_from_its_trust_root_on(folder: Path, built: Built, tmp_path: Path) -> None:
    keys, repository = tmp_path / "keys", tmp_path / "repository"
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    keyfiles.create(keys, KeyPlan(bin_bits=1, module_key_bits=2048), now=now)
    Publisher(repository, KeyFolder(keys, lambda path: b""), now=now).publish([read_build(folder)])
    published = ("--repository", repository, "--root", keys / "root.json")
    status, report = reproduce(*published, "--kernel", built.manifest.kernel.ref)
    assert (status, report["outcome"], report["verified"], report["level"]) == (0, "equal", True, 1)

    with pytest.raises(KmendError, match="has no level 7") as caught:
        reproduce(*published, "--kernel", built.manifest.kernel.build_id, "--level", "7")
    assert caught.value.hint == "published for it: 1"
    other = tmp_path / "other.json"
    other.write_bytes(document.encode(replace(built.manifest, pinned=("a reason",))))
    with pytest.raises(KmendError, match=r"names [0-9a-f]{64} for it"):
        reproduce(other, *published)
    keyfiles.create(tmp_path / "stranger", KeyPlan(bin_bits=1, module_key_bits=2048), now=now)
    with pytest.raises(KmendError, match="not signed by the keys"):
        reproduce(folder, "--repository", repository, "--root", tmp_path / "stranger/root.json")

    stored = repository / "files" / sha256_hex(document.encode(built.manifest))[:2]
    (manifest,) = (path for path in stored.iterdir() if path.name == sha256_hex(document.encode(built.manifest)))
    source = (
        repository / "files" / built.manifest.source[0].content.sha256[:2] / built.manifest.source[0].content.sha256
    )
    source.write_bytes(b"another")
    with pytest.raises(KmendError, match="arrived with other content"):
        reproduce(manifest)


def test_a_level_published_before_manifests_named_their_source(folder: Path, built: Built) -> None:
    old = replace(built.manifest, source=())
    (folder / "manifest.json").write_bytes(document.encode(old))
    (folder / "source" / "glue.c").unlink()
    assert reproduce(folder)[0] == 0
    for patch in (folder / "source").glob("*.patch"):
        patch.unlink()
    with pytest.raises(KmendError, match="lacks the patch of"):
        reproduce(folder)


def test_in_another_world(folder: Path, prepared: Kernel, tmp_path: Path) -> None:
    """Another user's view: folder, home, time zone, language, umask, order of hashes, one processor."""
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "temporary"),
        "KMEND_CACHE": str(prepared.folder.parents[1]),
        "TZ": "Asia/Tokyo",
        "LC_ALL": "tr_TR.UTF-8",
        "USER": "someone",
        "PYTHONHASHSEED": "77",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "SOURCE_DATE_EPOCH": "1",
    }
    words: list[str | Path] = [
        "taskset",
        "-c",
        "0",
        "sh",
        "-c",
        'umask 077; exec "$@"',
        "sh",
        PROGRAM,
        "reproduce",
        folder,
    ]
    done = subprocess.run(words, env=environment, cwd="/", capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("equal: ")
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.slow
def test_with_a_kernel_prepared_elsewhere(folder: Path, prepared: Kernel, tmp_path: Path) -> None:
    """Nothing of the first build's cache has a say: the tree, the index and the compiled originals are made anew."""
    words: list[str | Path] = [PROGRAM, "reproduce", "--fresh", "--json", folder]
    if os.geteuid() == 0:
        words = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$@"', "sh", *words]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "TZ": "Asia/Tokyo", "KBUILD_BUILD_HOST": "elsewhere"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    assert f"in {tmp_path}/kmend-rebuild." in done.stderr
    assert str(prepared.folder) not in done.stderr
    assert not list(tmp_path.glob("kmend-rebuild*"))


def test_words_that_make_no_sense(folder: Path) -> None:
    for words in ([], [folder, "--root", folder], [folder, "--level", "1"], ["--repository", folder]):
        result = CliRunner().invoke(cli, ["reproduce", *map(str, words)])
        assert result.exit_code == 2
        assert "Error: " in result.output


@pytest.mark.parametrize("content", [b"", b"{}", b"\x7fELF", b"[1]"])
def test_what_is_no_manifest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(KmendError):
        reproduce(tmp_path)


def test_a_manifest_alone_needs_a_repository(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    shutil.copy(folder / "manifest.json", tmp_path / "alone/manifest.json")
    with pytest.raises(KmendError, match="no corresponding source") as caught:
        reproduce(tmp_path / "alone" / "manifest.json")
    assert "--repository" in caught.value.hint
