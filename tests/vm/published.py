"""What tests of the agent put into guests: two levels derived and built from the distro's own packages, and the agent."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from demo.scenario import FIXES, Scenario, choose
from tests.fixmaker import Edit, FixMaker

from kmend import lab
from kmend.core.document import decode
from kmend.core.manifest import Manifest
from kmend.core.process import run
from kmend.factory.kernels.packages import fetch_package, kernel_packages

ROOT = Path(__file__).parents[2]
FACTORY = str(Path(sys.executable).parent / "kmend-factory")


@dataclass(frozen=True)
class Published:
    """What the guests get."""

    kernel: lab.UnpackedKernel
    folder: Path
    levels: tuple[Manifest, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The modules' names."""
        return tuple(manifest.module.name for manifest in self.levels)


def publish(folder: Path) -> Published:
    """Derive, build and publish both levels, and make the agent; a minute, mostly the compiler's."""
    scenario = choose()
    assert scenario.kernel.package is not None
    image = fetch_package(kernel_packages(scenario.kernel).image, scenario.kernel.package).path
    run([FACTORY, "keys", "init", folder / "keys"])
    patches: list[Path] = []
    levels = []
    for number, fix in enumerate(FIXES, start=1):
        patches.append(_derive(scenario, folder, number))
        target = folder / f"level-{number}"
        base = ["--base", str(number - 1)] if number > 1 else []
        words = ["build", "--kernel", str(scenario.kernel), "--level", str(number), *base]
        run([FACTORY, *words, "-o", target, *patches], timeout=900)
        run([FACTORY, "publish", "--keys", folder / "keys", "--repository", folder / "repository", target])
        levels.append(decode(Manifest, (target / "manifest.json").read_bytes()))
        assert fix.cve in levels[-1].cves
    run([ROOT / "scripts/agent-tree", folder / "agent"])
    return Published(lab.unpack(image), folder, tuple(levels))


def _derive(scenario: Scenario, folder: Path, number: int) -> Path:
    fix = FIXES[number - 1]
    patch = folder / f"{number}.patch"
    words = ["derive", "--from", scenario.kernel.package or "", "--to", scenario.fixed_in, "--file", fix.file]
    run([FACTORY, *words, "--function", fix.function, "--cve", fix.cve, "-o", patch], timeout=900)
    return patch


def publish_third(published: Published, maker: FixMaker, folder: Path, edit: Edit) -> Path:
    """A copy of the repository, in `folder`, with a level 3, whose fix `edit` is; the build is beside it, in `level-3`."""
    shutil.copytree(published.folder / "repository", folder / "repository")
    patch = folder / "3.patch"
    header = f"Description: {folder.name}\nOrigin: vendor\nCVE: CVE-2026-9903\n---\n"
    patch.write_text(maker.patch([edit], header))
    patches = [published.folder / "1.patch", published.folder / "2.patch", patch]
    line = ["build", "--kernel", str(choose().kernel), "--level", "3", "--base", "2"]
    run([FACTORY, *line, "-o", folder / "level-3", *patches], timeout=900)
    keys = published.folder / "keys"
    run([FACTORY, "publish", "--keys", keys, "--repository", folder / "repository", folder / "level-3"])
    return folder / "repository"
