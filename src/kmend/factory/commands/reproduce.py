"""`kmend-factory reproduce`: build a livepatch again from its source and say whether it is the same."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click

from kmend.core.kernel import KernelRef
from kmend.factory.build import reserved_folder, write_build
from kmend.factory.commands.output import json_option, print_json, say
from kmend.factory.desk import Claim, Reproduction, claim_of_file, claim_of_repository, reproduce
from kmend.factory.desk.companion import keep_companion, write_companion
from kmend.factory.desk.reproducing import cache_of_its_own
from kmend.factory.kernels.prepared import prepare_index

STATUS_NO = 5
"""The command came to its end, and the answer is no."""


@click.command()
@click.argument("manifest", required=False, type=click.Path(path_type=Path))
@click.option("--repository", metavar="URL", help="Take source and module from this repository (URL or folder).")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    help="Its trust root (root.json): the manifest must be the published one.",
)
@click.option("--kernel", "ref", metavar="REF", help="Without MANIFEST: the kernel build, as a ref or a build ID.")
@click.option(
    "--level", type=click.IntRange(min=1), help="Without MANIFEST: the published level, by default the newest."
)
@click.option("--module", type=click.Path(path_type=Path), help="The module to compare with, signed or not.")
@click.option("--fresh", is_flag=True, help="Prepare the kernel anew in a folder of its own (1 GB, removed again).")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Keep what was built, as build does."
)
@json_option
def command(
    manifest: Path | None,
    repository: str | None,
    root: Path | None,
    ref: str | None,
    level: int | None,
    module: Path | None,
    fresh: bool,
    output: Path | None,
    as_json: bool,
) -> int:
    """Build the livepatch of MANIFEST again (a build's folder or its manifest.json), or a published level, and compare.

    The modules are compared bit for bit as they are before signing.

    Exit status: 0 the same, 5 it differs, 2 the fixes are refused or wrong usage, 4 this machine cannot compile that kernel,
    1 failed.
    """
    claim = _claim(manifest, repository, root, ref, level, module)
    trust = "named by the repository's signed metadata" if claim.verified else "not checked against signed metadata"
    say(f"- level {claim.manifest.level} of {claim.manifest.kernel.ref}, from {claim.place}; {trust}")
    with reserved_folder(output) if output is not None else nullcontext():
        with cache_of_its_own() if fresh else nullcontext():
            result = reproduce(claim, progress=lambda message: say(f"- {message}"))
        keep_companion(result.built)
        if output is not None:
            write_build(result.built, output)
            write_companion(result.built, output / "debug")
    for note in result.notes:
        say(f"note: {note}")
    if as_json:
        print_json(_report(claim, result))
    else:
        _tell(claim, result)
    return 0 if result.equal else STATUS_NO


def _claim(
    manifest: Path | None,
    repository: str | None,
    root: Path | None,
    ref: str | None,
    level: int | None,
    module: Path | None,
) -> Claim:
    if root is not None and repository is None:
        raise click.UsageError("--root is a repository's: name that with --repository")
    if manifest is not None:
        if ref is not None or level is not None:
            raise click.UsageError("a manifest says itself which kernel and level it is for")
        return claim_of_file(manifest, module=module, repository=repository, root=root)
    if repository is None or root is None or ref is None:
        raise click.UsageError("give a manifest, or --repository, --root and --kernel")
    if module is not None:
        raise click.UsageError("--module goes with a manifest")
    build_id = prepare_index(KernelRef.parse(ref)).identity.build_id if ":" in ref else ref
    return claim_of_repository(repository, root, build_id, level)


def _report(claim: Claim, result: Reproduction) -> dict[str, object]:
    return {
        "outcome": "equal" if result.equal else "differs",
        "kernel": claim.manifest.kernel,
        "level": claim.manifest.level,
        "module": {"name": claim.manifest.module.name, "claimed": result.claimed, "rebuilt": result.rebuilt},
        "compared": claim.module is not None,
        "signature_removed": claim.signed,
        "verified": claim.verified,
        "differences": result.differences,
        "notes": result.notes,
    }


def _tell(claim: Claim, result: Reproduction) -> None:
    name = claim.manifest.module.name
    if result.equal:
        cut = ", its signature cut off" if claim.signed else ""
        held = f"bit for bit{cut}" if claim.module is not None else "by its digest; the module itself is not at hand"
        click.echo(f"equal: {name} comes out the same, {held} (SHA-256 {result.rebuilt})")
        return
    click.echo(f"differs: {name} does not come out the same (SHA-256 {result.claimed}, rebuilt {result.rebuilt})")
    for difference in result.differences:
        click.echo(f"  {difference.part}: {difference.detail}")
