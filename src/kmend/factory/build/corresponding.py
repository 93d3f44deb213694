"""The corresponding source of a livepatch: what the GPL asks to be handed on with it, and what a rebuild starts from.

Nothing in it depends on where, when or by whom the livepatch was built, for the manifest pins every file's digest.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kmend import __version__
from kmend.core import document
from kmend.core.kernel import KernelIdentity
from kmend.factory.build.compile import CompiledUnit
from kmend.factory.build.glue import glue_commands
from kmend.factory.build.link import link_command
from kmend.factory.fixes import Fix
from kmend.factory.kernels.prepared import Kernel
from kmend.factory.kernels.tree import SECTION_FLAGS

INPUTS_FORMAT = "kmend-inputs/1"
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]")
_TOOLS = {
    "compiler": "CONFIG_CC_VERSION_TEXT",
    "assembler": "CONFIG_AS_VERSION",
    "linker": "CONFIG_LD_VERSION",
    "pahole": "CONFIG_PAHOLE_VERSION",
}
"""The kernel's own record of the tools that made it; the factory refuses to build with others (`check_toolchain`)."""

_README = """\
Corresponding source of {name}, a livepatch for {ref}
(build ID {build_id}). The code is under the GNU General Public License, version 2, as the kernel is.

  series        the names of the patches, in the order in which they are applied to the kernel's source
  *.patch       the patches
  glue.c        the C code around the replaced functions
  commands      how the compiler, objtool and the linker are called, in the top folder of the configured source
  inputs.json   the distribution's packages, by SHA-256, and the tools, by version

The kernel's source is that of the packages in inputs.json: the source package as it comes, configured with the
.config of the headers package. The patched files are compiled with #line directives in them, by which every line that no patch
touches keeps its number.

To build it again, on a machine with these tools and kmend-factory {version}:

  kmend-factory reproduce MANIFEST

says whether the module comes out bit for bit the same (before signing); MANIFEST is the livepatch's manifest.json. By hand:

  kmend-factory build --kernel {ref} --level {level}{base} -o OUT \\
{patches}

What kmend-factory does between compiling and linking (taking the changed functions out of the objects) is its own
published source.
"""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a livepatch is built from beside its fixes, as `inputs.json`.

    Attributes:
        tool: name and version of the factory.
        packages: file name of each distro package -> its SHA-256.
        tools: what each tool calls itself, as the kernel's configuration records it.
        make_variables: given to every `make` in the tree.
        added_flags: compiler flags that the distro does not use.
    """

    kernel: KernelIdentity
    level: int
    base: int | None
    tool: str
    packages: dict[str, str]
    tools: dict[str, str]
    make_variables: tuple[str, ...]
    added_flags: str
    format: str = field(default=INPUTS_FORMAT)


def corresponding_source(
    kernel: Kernel,
    fixes: Sequence[Fix],
    compiled: Sequence[CompiledUnit],
    glue: str,
    name: str,
    level: int,
    base: int | None,
) -> Mapping[str, bytes]:
    """The files of the corresponding source, by their plain names.

    Args:
        compiled: the translation units of the fixes, with the commands that compile them.
        name: the module's.
    """
    patches = {f"{number:04}-{_file_name(fix.name)}": fix.content for number, fix in enumerate(fixes, start=1)}
    inputs = Inputs(
        kernel=kernel.identity,
        level=level,
        base=base,
        tool=f"kmend-factory {__version__}",
        packages=dict(kernel.record.inputs),
        tools={tool: kernel.config.get(option, "").strip('"') for tool, option in _TOOLS.items()},
        make_variables=kernel.record.make_variables,
        added_flags=SECTION_FLAGS,
    )
    readme = _README.format(
        name=name,
        ref=kernel.identity.ref,
        build_id=kernel.identity.build_id,
        version=__version__,
        level=level,
        base=f" --base {base}" if base is not None else "",
        patches=" \\\n".join(f"    {shlex.quote(patch)}" for patch in patches),
    )
    return {
        "README": readme.encode(),
        "series": "".join(f"{patch}\n" for patch in patches).encode(),
        **patches,
        "glue.c": glue.encode(),
        "commands": "\n".join(_commands(kernel, compiled, name)).encode(),
        "inputs.json": (document.pretty(inputs) + "\n").encode(),
    }


def _commands(kernel: Kernel, compiled: Sequence[CompiledUnit], name: str) -> list[str]:
    compiler, checker = glue_commands(kernel, name, Path("glue.c"), Path("glue.o"))
    return [
        *(line for unit in compiled for line in (f"# {unit.source}", unit.command)),
        "# the glue",
        f"{shlex.join(compiler)} ; {shlex.join(checker)}",
        "# the module, of the functions taken out of the objects (code.o) and the glue",
        shlex.join(link_command(Path("joined.o"), [Path("code.o"), Path("glue.o")])),
        "",
    ]


def _file_name(name: str) -> str:
    """A fix's own file name, as far as it can be one in a repository."""
    return _UNSAFE.sub("_", Path(name).name)[:120] or "fix.patch"
