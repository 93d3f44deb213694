"""Who includes a header is found through other headers, by the places where the compiler looks."""

from __future__ import annotations

from pathlib import Path

from kmend.factory.build.includes import include_lines, includers

FILES = {
    "include/linux/a.h": "",
    "include/linux/b.h": "#include <linux/a.h>\n",
    "include/linux/kconfig.h": "",
    "net/trace.h": "#include TRACE_INCLUDE(x)\n",
    "net/one.c": '  #  include <linux/b.h>\n#include "trace.h"\n',
    "fs/trace.h": "",
    "fs/two.c": '#include "trace.h"\n/* a.h */\n',
    "fs/deep/three.c": '#include "../two.c"\n#include <odd/place.h>\n',
    "drivers/x/odd/place.h": "",
}


def lines(tree: Path) -> dict[str, frozenset[str]]:
    for path, text in FILES.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    return include_lines(tree, list(FILES))


def test_includers_are_followed_through_headers(tmp_path: Path) -> None:
    assert includers(lines(tmp_path), ["include/linux/a.h"]) == frozenset(
        {"include/linux/a.h", "include/linux/b.h", "net/one.c"}
    )


def test_the_header_beside_the_file_is_meant(tmp_path: Path) -> None:
    assert includers(lines(tmp_path), ["net/trace.h"]) == frozenset({"net/trace.h", "net/one.c"})
    assert includers(lines(tmp_path), ["fs/trace.h"]) == frozenset({"fs/trace.h", "fs/two.c", "fs/deep/three.c"})


def test_a_header_in_a_folder_that_only_a_makefile_knows_is_found_by_its_end(tmp_path: Path) -> None:
    assert includers(lines(tmp_path), ["drivers/x/odd/place.h"]) == frozenset(
        {"drivers/x/odd/place.h", "fs/deep/three.c"}
    )


def test_what_kbuild_gives_to_every_file_is_included_by_all(tmp_path: Path) -> None:
    assert includers(lines(tmp_path), ["include/linux/kconfig.h"]) is None
