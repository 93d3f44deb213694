"""A prepared source tree: the distro's source, configured and with its tools built exactly as the distro did.

A tool that is missing on the build host changes `.config` silently (pahole and `DEBUG_INFO_BTF_MODULES`, for one), and with
it the layout of `struct module`. So versions are compared with those that the distro's `.config` records, the `.config` after
`olddefconfig` must equal the distro's, and so must every generated header that the headers package carries.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kmend.core.durable import write_durably
from kmend.core.errors import KmendError
from kmend.core.process import ProgramFailedError, run
from kmend.factory.kernels.included import resolved
from kmend.factory.kernels.kbuild import by_starting_folder, exported_variables

SECTION_FLAGS = "-ffunction-sections -fdata-sections"
"""The only flags that are added to the distro's: they give every function and object a section of its own."""

_PACKAGES = {"CONFIG_AS_VERSION": "binutils", "CONFIG_LD_VERSION": "binutils", "CONFIG_PAHOLE_VERSION": "pahole"}
"""Where the tools come from whose versions `.config` records; the compiler's package has the compiler's name."""
_OPTION = re.compile(r"(?:# )?(CONFIG_\w+)(?:=(.*)| is not set)")


class EnvironmentDiffersError(KmendError):
    """This machine cannot compile that kernel as its distro did; the message names each difference."""

    kind = "environment-differs"
    exit_status = 4
    default_hint = "build on the distro release that the kernel belongs to (Debian 12 for 6.1), with 'make setup' done"


@dataclass(frozen=True, slots=True)
class SourceTree:
    """A prepared tree and the variables that every `make` in it needs."""

    path: Path
    make_variables: tuple[str, ...]
    compiler: str

    def make(self, *targets: str, timeout: float = 1800.0, lock: int | None = None) -> None:
        """Run `make` with the distro's variables.

        Args:
            lock: the descriptor of a lock on the tree; make inherits it, so that nobody else works there before make has ended.

        Raises:
            ProgramFailedError: a target failed.
        """
        self._run(["-s"], targets, build_environment(), timeout, lock)

    def kbuild(
        self, *targets: str, options: Sequence[str] = (), timeout: float = 1800.0, lock: int | None = None
    ) -> None:
        """Make files of the prepared tree by kbuild's own rules, without what `make` does before it comes to them.

        Args:
            lock: see `make`.

        Raises:
            ProgramFailedError: a target failed; those of other folders were made all the same.
        """
        exported = self._kbuild_environment()
        failed: ProgramFailedError | None = None
        for folder, group in by_starting_folder(self.path, exported, targets).items():
            words = ["-rRs", *options, "-f", "scripts/Makefile.build", f"obj={folder}", "need-builtin=1"]
            try:
                self._run([*words, "need-modorder=1"], [f"./{target}" for target in group], exported, timeout, lock)
            except ProgramFailedError as problem:
                failed = problem
        if failed is not None:
            raise failed

    def _run(
        self,
        options: Sequence[str],
        targets: Sequence[str],
        environment: dict[str, str],
        timeout: float,
        lock: int | None = None,
    ) -> None:
        jobs = f"-j{os.cpu_count() or 1}"
        words = ["make", jobs, *options, *self.make_variables, f"KCFLAGS={SECTION_FLAGS}", *targets]
        keep_open = () if lock is None else (lock,)
        run(words, cwd=self.path, environment=environment, timeout=timeout, keep_open=keep_open)

    def _kbuild_environment(self) -> dict[str, str]:
        """What the top Makefile exports, recorded beside the tree, wherever the tree lies now."""
        kept = self.path.with_name(f"{self.path.name}-kbuild.json")
        try:
            recorded = {str(name): str(value) for name, value in json.loads(kept.read_text()).items()}
            _ = recorded["abs_objtree"]
        except (OSError, ValueError, AttributeError, KeyError):
            recorded = exported_variables(
                lambda rule, goal: self._run(["-s", "--eval", rule], [goal], build_environment(), 600)
            )
            write_durably(kept, json.dumps(recorded).encode())
        there, here = recorded["abs_objtree"], str(self.path)
        return {**{name: value.replace(there, here) for name, value in recorded.items()}, **build_environment()}


def build_environment() -> dict[str, str]:
    """The whole environment of compilers and make: nothing of the caller's leaks in, except where programs are found."""
    return {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "LC_ALL": "C",
        "HOME": os.environ.get("HOME", "/root"),
        "TZ": "UTC",
    }


def read_config(text: str) -> dict[str, str]:
    """`.config` as option -> value; an option that is not set has the value `n`."""
    options = {}
    for line in text.splitlines():
        match = _OPTION.fullmatch(line)
        if match:
            options[match[1]] = "n" if match[2] is None else match[2]
    return options


def check_toolchain(config: Mapping[str, str]) -> str:
    """Compare this machine's tools with those that the distro's `.config` names; returns the compiler's command.

    Raises:
        EnvironmentDiffersError: a tool is missing or has another version.
    """
    wanted = config.get("CONFIG_CC_VERSION_TEXT", "").strip('"')
    compiler = wanted.split(" ", 1)[0]
    if not re.fullmatch(r"gcc(-\d+)?", compiler):
        raise EnvironmentDiffersError(f"the kernel was compiled with {wanted!r}; only gcc is supported")
    found = {
        "CONFIG_CC_VERSION_TEXT": f'"{_first_line([compiler, "--version"])}"',
        "CONFIG_AS_VERSION": _binutils_version("as"),
        "CONFIG_LD_VERSION": _binutils_version("ld"),
        "CONFIG_PAHOLE_VERSION": _first_line(["pahole", "--version"]).lstrip("v").replace(".", ""),
    }
    wrong = [name for name, value in found.items() if name in config and config[name] != value]
    if wrong:
        differences = [
            f"{name}: the distro's kernel has {config[name]}, this machine {found[name] or 'nothing'}" for name in wrong
        ]
        needed = dict.fromkeys(_PACKAGES.get(name, compiler) for name in wrong)
        raise EnvironmentDiffersError(
            "the tools differ from those that compiled this kernel:\n  " + "\n  ".join(differences),
            hint=f"install the packages {', '.join(needed)} of the distro release that the kernel belongs to "
            "(Debian 12 for 6.1), or build on a machine that has them",
        )
    return compiler


def _first_line(command: list[str]) -> str:
    try:
        return run(command, environment=build_environment(), timeout=30).text.partition("\n")[0].strip()
    except KmendError:
        return ""


def _binutils_version(tool: str) -> str:
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?$", _first_line([tool, "--version"]))
    if match is None:
        return ""
    major, minor, patch = (int(part or 0) for part in match.groups())
    return f"{major}{minor:02}{patch if patch < 100 else 0:02}"


def prepare_tree(source: Path, headers: Path, release: str, package: str) -> SourceTree:
    """Configure `source` (the unpacked sources) and build its tools.

    Args:
        source: the tree, changed in place.
        headers: the flavour's folder of the unpacked headers package.
        release: `uname -r` of the kernel.
        package: its package version.

    Raises:
        EnvironmentDiffersError: the configuration, the tools or a generated header come out differently from the distro's.
    """
    distro_config = (headers / ".config").read_text()
    config = read_config(distro_config)
    compiler = check_toolchain(config)
    compile_h = (headers / "include/generated/compile.h").read_text()
    package_h = (headers / "include/generated/package.h").read_text()
    tree = SourceTree(
        path=source,
        make_variables=(
            "ARCH=x86",
            f"CC={compiler}",
            f"KERNELRELEASE={release}",
            *_distribution(package_h, package),
            f"KBUILD_BUILD_USER={_defined(compile_h, 'LINUX_COMPILE_BY')}",
            f"KBUILD_BUILD_HOST={_defined(compile_h, 'LINUX_COMPILE_HOST')}",
            # The tools run for milliseconds; optimizing them would take seconds.
            "HOSTCFLAGS=-O0",
        ),
        compiler=config["CONFIG_CC_VERSION_TEXT"].strip('"'),
    )
    (source / ".config").write_text(distro_config)
    try:
        try:
            # What the module of a livepatch needs. `prepare` would also build programs that only vmlinux needs (resolve_btfids).
            tree.make("prepare0", "tools/objtool")
        except ProgramFailedError:
            # The likely reason is a configuration that comes out differently; then that is what to tell of.
            tree.make("olddefconfig")
            _compare_config(config, read_config((source / ".config").read_text()))
            raise
        _compare_config(config, read_config((source / ".config").read_text()))
        tree.kbuild("scripts/module.lds")
    except ProgramFailedError as problem:
        raise EnvironmentDiffersError(
            f"the source tree cannot be prepared: {problem.message}",
            hint="run 'make setup'; a build tool may be missing",
        ) from problem
    shutil.copyfile(headers / "include/generated/utsversion.h", source / "include/generated/utsversion.h")
    shutil.copyfile(headers / "Module.symvers", source / "Module.symvers")
    _compare_generated(source, headers)
    return tree


def _distribution(package_h: str, package: str) -> tuple[str, ...]:
    match = re.search(r'LINUX_PACKAGE_ID " (\S+) (\S+)"', package_h)
    if match is None or match[2] != package:
        raise EnvironmentDiffersError(f"the headers package is not of version {package}: {package_h.strip()}")
    return ("DISTRIBUTION_OFFICIAL_BUILD=1", f"DISTRIBUTOR={match[1]}", f"DISTRIBUTION_VERSION={match[2]}")


def _defined(text: str, name: str) -> str:
    match = re.search(rf'#define {name}\s+"([^"]*)"', text)
    if match is None:
        raise EnvironmentDiffersError(f"the headers package does not define {name}")
    return match[1]


def _compare_config(distro: Mapping[str, str], ours: Mapping[str, str]) -> None:
    differences = [
        f"{name}: {distro.get(name, 'absent')} in the distro's, {ours.get(name, 'absent')} here"
        for name in sorted(distro.keys() | ours.keys())
        if distro.get(name) != ours.get(name)
    ]
    if differences:
        more = f"\n  and {len(differences) - 20} more" if len(differences) > 20 else ""
        raise EnvironmentDiffersError(
            "the kernel's configuration changes on this machine:\n  " + "\n  ".join(differences[:20]) + more,
            hint="a tool that the configuration looks for is missing or has another version; run 'make setup'",
        )


def _compare_generated(source: Path, headers: Path) -> None:
    different = []
    for root in ("include/generated", "arch/x86/include/generated"):
        for path in sorted((headers / root).rglob("*")):
            relative = path.relative_to(headers)
            if path.is_file():
                ours = source / relative
                if not ours.is_file() or ours.read_bytes() != path.read_bytes():
                    different.append(str(relative))
    if different:
        raise EnvironmentDiffersError(
            "generated headers differ from the distro's: " + ", ".join(different[:20]),
            hint="compare them with the headers package",
        )


def included_sources(tree: Path) -> dict[str, list[str]]:
    """Every `.c` file of the tree that another file includes -> the files that do so, by the text of their `#include` lines."""
    lines = run(
        [
            "grep",
            "-rE",
            "--include=*.c",
            "--include=*.h",
            r'^[[:space:]]*#[[:space:]]*include[[:space:]]+["<][^">]+\.c[">]',
            ".",
        ],
        cwd=tree,
        environment=build_environment(),
        check=False,
    ).text
    named = []
    for line in lines.splitlines():
        holder, _, text = line.partition(":")
        match = re.search(r'["<]([^">]+)[">]', text)
        if match is not None:
            named.append((posixpath.normpath(holder), match[1]))
    return resolved(named, lambda file: (tree / file).is_file())
