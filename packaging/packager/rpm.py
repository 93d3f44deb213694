"""The rpm: a spec file made from the same layout, built by rpmbuild with everything off that would look at this machine."""

from __future__ import annotations

from pathlib import Path

from packager.staging import LaidOut
from packager.tools import run_tool

SCRIPTS = ("pre", "post", "preun", "postun")
OWNED = ("etc/kmend", "usr/lib/kmend", "usr/share/doc/kmend", "var/lib/kmend")
"""Folders that are the package's own, with all below them; others belong to the system."""
MACROS = {
    "__os_install_post": "%{nil}",
    "__brp_compress": "%{nil}",
    "_build_id_links": "none",
    "_buildhost": "localhost",
    "_binary_payload": "w6.xzdio",
    "use_source_date_epoch_as_buildtime": "1",
    "clamp_mtime_to_source_date_epoch": "1",
    "_rpmfilename": "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm",
}


def build(laid_out: LaidOut, scratch: Path, output: Path) -> Path:
    """Make the rpm in `output`; `scratch` must not exist yet.

    Raises:
        PackagingError: rpmbuild is missing or fails.
    """
    definition = laid_out.definition
    scratch.mkdir()
    spec = scratch / f"{definition.name}.spec"
    spec.write_text(_spec(laid_out), encoding="utf-8")
    defines = {**MACROS, "_topdir": str(scratch), "_rpmdir": str(scratch / "done"), "laid_out": str(laid_out.root)}
    words = [word for name, value in defines.items() for word in ("--define", f"{name} {value}")]
    run_tool(
        ["rpmbuild", "-bb", "--quiet", "--nodeps", *words, f"--buildroot={scratch / 'buildroot'}", spec],
        epoch=definition.epoch,
        package="rpm",
    )
    (made,) = (scratch / "done").glob("*.rpm")
    target = output / made.name
    target.write_bytes(made.read_bytes())
    return target


def _spec(laid_out: LaidOut) -> str:
    definition = laid_out.definition
    tags = [
        ("Name", definition.name),
        ("Version", definition.version),
        ("Release", "1"),
        ("Summary", definition.summary),
        ("License", definition.licence),
        ("URL", definition.homepage),
        ("Vendor", definition.maintainer.partition(" <")[0]),
        ("BuildArch", definition.rpm.architecture),
        ("AutoReqProv", "no"),
        ("Requires", ", ".join(definition.rpm.needs)),
        ("Recommends", ", ".join(definition.rpm.recommends)),
    ]
    lines = [f"{name}: {value}" for name, value in tags if value]
    lines += ["", "%description", *definition.description]
    lines += ["", "%install", "mkdir -p %{buildroot}", "cp -a %{laid_out}/. %{buildroot}/"]
    for name in SCRIPTS:
        # A % of the shell's would be taken for a macro.
        lines += ["", f"%{name}", laid_out.script(f"rpm.{name}").replace("%", "%%").replace("#!/bin/sh\n", "", 1)]
    lines += ["", "%files", "%defattr(-,root,root,-)"]
    return "\n".join([*lines, *_files(laid_out)]) + "\n"


def _files(laid_out: LaidOut) -> list[str]:
    rows = []
    for path in sorted(laid_out.root.rglob("*")):
        name = path.relative_to(laid_out.root)
        if path.is_dir() and not path.is_symlink():
            if any(name.is_relative_to(owned) for owned in OWNED):
                rows.append(f'%dir "/{name}"')
        elif f"/{name}" in laid_out.configs:
            rows.append(f'%config(noreplace) "/{name}"')
        else:
            rows.append(f'{"%doc " if name.is_relative_to("usr/share/doc") else ""}"/{name}"')
    return rows
