"""What bars a module: modprobe's configuration, read as kmod reads it, and the kernel's command line."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.agent import modprobe
from kmend.agent.modprobe import MAX_LINES, MAX_PATTERNS, Install, barred, files, installs, normalised, refused


def bars(text: str, *names: str) -> tuple[str, ...]:
    return barred(installs([text]), frozenset(), names)


@pytest.mark.parametrize(
    "command",
    ["/bin/false", "/bin/true", "/usr/bin/false", "/usr/bin/true", "true", "false", ":", "/bin/true  # CIS 1.1"],
)
def test_a_command_that_loads_nothing_bars(command: str) -> None:
    assert bars(f"install dccp {command}\n") == ("dccp",)
    assert bars(f" \tinstall\tdccp \t {command} \n") == ("dccp",)


@pytest.mark.parametrize(
    "line",
    [
        "blacklist dccp",
        "alias dccp off",
        "options dccp x=1",
        "# install dccp /bin/true",
        "#install dccp /bin/true",
        "install dccp",
        "install dccp ",
        "install",
        "remove dccp /bin/true",
        "installs dccp /bin/true",
        "install dccp /bin/true; modprobe --ignore-install dccp",
        "install dccp modprobe --ignore-install dccp",
        "install dccp /bin/echo no",
        "install dccp /opt/bin/true",
        "install dccp truest",
        "install dccp true#",
        "# a comment that goes on \\\ninstall dccp /bin/true",
        "# a comment with another line's end \u2028install dccp /bin/true",
        "# and another \x0cinstall dccp /bin/true",
        "# and \rinstall dccp /bin/true",
        "install dccp\\\n/bin/true",
    ],
)
def test_what_bars_nothing(line: str) -> None:
    assert bars(line + "\n", "dccp") == ()


def test_lines_that_go_on() -> None:
    assert bars("install dccp \\\n  /bin/false\n") == ("dccp",)
    assert bars("install dc\\\ncp /bin/fal\\\nse") == ("dccp",)
    # The first backslash is what the second one ends.
    assert bars("# a comment \\\\\ninstall dccp /bin/false\n") == ("dccp",)


def test_names_are_the_kernels() -> None:
    assert bars("install usb-storage /bin/true\n", "usb_storage") == ("usb_storage",)
    assert normalised("a-b[a-c]-d") == "a_b[a-c]_d"
    assert normalised("a[^x]b") == "a[!x]b"


def test_patterns_count_for_what_is_on_the_disk() -> None:
    assert bars("install dccp* /bin/true\n", "dccp", "dccp_ipv4", "sctp") == ("dccp", "dccp_ipv4")
    assert bars("install [^ds]ccp /bin/true\n", "dccp", "sccp", "tccp") == ("tccp",)
    assert bars("install dccp* /bin/true\n") == ()


def test_the_first_line_that_fits_counts() -> None:
    assert bars("install dccp modprobe x\ninstall dccp /bin/true\n", "dccp") == ()
    assert bars("install dccp /bin/true\ninstall dccp modprobe x\n", "dccp") == ("dccp",)
    assert bars("install d* modprobe x\ninstall dccp /bin/true\n", "dccp") == ()
    assert bars("install dccp /bin/true\ninstall d* modprobe x\n", "dccp") == ("dccp",)
    assert barred(installs(["install dccp modprobe x\n", "install dccp /bin/true\n"]), frozenset(), ["dccp"]) == ()


lines = st.builds(Install, st.sampled_from(["dccp", "sctp", "d*", "*", "[ds]ctp", "?ccp"]), st.booleans())


@given(st.lists(lines, max_size=8))
def test_it_is_the_rule_written_plainly(found: list[Install]) -> None:
    names = ["dccp", "sctp", "exfat"]
    expected = []
    for name in names:
        fits = [line for line in found if fnmatch.fnmatchcase(name, line.pattern)]
        expected += [name] if fits and fits[0].bars else []
    assert barred(found, frozenset(), names) == tuple(sorted(expected))


def test_more_than_anybody_writes_bars_nothing_but_what_the_kernel_refuses() -> None:
    many = [Install(f"m{number}", True) for number in range(MAX_LINES + 1)]
    assert barred(many, frozenset({"dccp"}), []) == ("dccp",)
    assert len(barred(many[:-1], frozenset(), [])) == MAX_LINES
    patterns = [Install(f"m{number}*", True) for number in range(MAX_PATTERNS + 1)]
    assert barred(patterns, frozenset(), ["m0"]) == ()
    assert barred(patterns[:-1], frozenset(), ["m0"]) == ("m0",)


def test_a_file_takes_the_place_of_its_namesakes_in_weaker_folders() -> None:
    folders = [
        {"b.conf": "/etc/b.conf", "note.txt": "/etc/note.txt", ".hidden.conf": "/etc/.hidden.conf"},
        {"a.conf": "/run/a.conf", "b.conf": "/run/b.conf", "c.alias": "/run/c.alias", "x.conf~": "/run/x.conf~"},
    ]
    assert files(folders) == ("/run/a.conf", "/etc/b.conf", "/run/c.alias")
    assert modprobe.FOLDERS[0] == "etc/modprobe.d"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", set()),
        ("root=/dev/vda1 quiet", set()),
        ("module_blacklist=dccp,sctp quiet", {"dccp", "sctp"}),
        ("module-blacklist=dccp", {"dccp"}),
        ('module_blacklist="dccp,sctp"', {"dccp", "sctp"}),
        ('"module_blacklist=dccp"', {"dccp"}),
        ("module_blacklist=dccp module_blacklist=sctp", {"sctp"}),
        ("module_blacklist=dccp module_blacklist=", set()),
        ("module_blacklist=,dccp,,", {"dccp"}),
        ("module_blacklist=usb-storage", {"usb-storage"}),
        ("quiet -- module_blacklist=dccp", set()),
        ("modprobe.blacklist=dccp", set()),
        ("x.module_blacklist=dccp", set()),
        ('a="b module_blacklist=dccp c"', set()),
        ('a="b module_blacklist=dccp', set()),
        ("a='b module_blacklist=dccp c'", {"dccp"}),
        ("module_blacklist", set()),
    ],
)
def test_what_the_kernel_was_told_to_refuse(line: str, expected: set[str]) -> None:
    assert refused(line) == expected


@given(st.text(alphabet='module_blacklist=-,"\\ \n\tinstall#[]*^/btrue:é²', max_size=200))
def test_nothing_from_outside_is_too_odd(text: str) -> None:
    refused(text)
    barred(installs([text]), refused(text), ["dccp"])
