"""The configuration's files: every problem with its file and line, and what `kmend config` shows of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.unit.agent.conftest import Machine

from kmend.agent.configfiles import MAX_DROP_INS, load_config, read_config
from kmend.agent.errors import ConfigError
from kmend.core.tomllines import lines_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def written(folder: Path, **files: str) -> Path:
    """`main` is agent.toml, every other name a drop-in."""
    (folder / "agent.toml.d").mkdir()
    for name, text in files.items():
        path = folder / "agent.toml" if name == "main" else folder / "agent.toml.d" / f"{name}.toml"
        path.write_text(text)
    return folder


def told(folder: Path) -> list[str]:
    return [str(problem) for problem in load_config(folder).problems]


def test_lines_of_members_between_strings_arrays_and_comments() -> None:
    text = """# [a]
top = 1
[a]  # [b]
one = \"\"\"
[b]
two = 2
\\\"\"\" ""\"\"\"
"q.x" = 'it'
two = [
  "]", # ]
  { x = 1 },
]
[ a . "b c" ]
'three' = '''
four = 4'''
[d]
five.six = 5
[[e]]
seven = {eight = 8}
"""
    tomllib.loads(text)
    assert lines_of(text, tomllib.loads) == {
        ("top",): 2,
        ("a",): 3,
        ("a", "one"): 4,
        ("a", "q.x"): 8,
        ("a", "two"): 9,
        ("a", "b c"): 13,
        ("a", "b c", "three"): 14,
        ("d",): 16,
        ("d", "five"): 17,
        ("d", "five", "six"): 17,
        ("e",): 18,
        ("e", "seven"): 19,
    }


def test_every_problem_is_told_at_once_with_file_and_line(tmp_path: Path) -> None:
    folder = written(
        tmp_path,
        main='[timing]\nsoak = 9\nsoack = 3\n\n[polici]\n\n[network]\nattempts = "four"\nca_file = "ca.pem"\n',
        a10='# a comment\n\n[repository]\nurl = "ftp://x"\nroot = "/r"\n',
        a20="[timing]\nread = 1\nconnect = \n",
        a30='[policy]\nsoak = 3\n[hooks]\non_failure = "panic"\n',
    )
    assert told(folder) == [
        "agent.toml line 3: [timing] has no member soack",
        "agent.toml line 5: there is no section [polici]",
        "agent.toml line 8: attempts: int is expected, not str",
        "agent.toml line 9: ca_file must be an absolute path",
        "agent.toml.d/a10.toml line 4: url has the scheme 'ftp'; https, http and file can be read",
        "agent.toml.d/a20.toml line 3: it is not valid TOML: Invalid value",
        "agent.toml.d/a30.toml line 2: [policy] has no member soak",
        "agent.toml.d/a30.toml line 4: on_failure must be report or revert",
    ]
    hints = {problem.origin.line: problem.hint for problem in load_config(folder).problems[:2]}
    assert hints == {3: "did you mean soak?", 5: "did you mean policy?"}
    assert load_config(folder).problems[6].hint == "it belongs into [timing]"
    with pytest.raises(ConfigError) as caught:
        read_config(folder)
    assert all(line in caught.value.message for line in told(folder))


def test_a_wrong_value_that_a_later_file_sets_right_is_no_problem(tmp_path: Path) -> None:
    folder = written(tmp_path, main="[timing]\nsoak = -1\n", a10="[timing]\nsoak = 5\n")
    assert load_config(folder).problems == ()
    assert read_config(folder).timing.soak == 5


def test_members_that_need_each_other_may_stand_in_any_order(tmp_path: Path) -> None:
    folder = written(tmp_path, main='[network]\nsystem_ca = false\nca_file = "/ca.pem"\n')
    assert not read_config(folder).network.system_ca
    (folder / "agent.toml").write_text("[network]\ntotal = 3\nsystem_ca = false\n")
    assert told(folder) == ["agent.toml line 3: without system_ca there must be a ca_file"]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[timing]\nsoak = 1\nsoak = 2\n", 3, "not valid TOML"),
        ("[timing]\n\nsoak", 3, "not valid TOML"),
        ("timing = 3\n", 1, "timing must be a section"),
        ("\nsoak = 3\n", 2, "soak stands in no section"),
        ("[[timing]]\nsoak = 3\n", 1, "timing must be a section"),
        ("\ntiming = { soak = -3 }\n", 2, "soak must be"),
        ("\ntiming.soak = -3\n", 2, "soak must be"),
        ("[timing]\n'a\\u0007\nb' = 3\n", 2, "not valid TOML"),
        ('[timing]\n"a\\u0007b" = 3\n', 2, "no member a?b"),
    ],
)
def test_odd_forms(tmp_path: Path, text: str, line: int, words: str) -> None:
    (problem,) = load_config(written(tmp_path, main=text)).problems
    assert (problem.origin.file, problem.origin.line) == ("agent.toml", line)
    assert words in problem.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    folder = written(tmp_path, a10="[timing]\nsoak = 4\n")
    (folder / "agent.toml").write_bytes(b"[timing]\n# \xff\n")
    (folder / "agent.toml.d/a20.toml").mkdir()
    (folder / "agent.toml.d/a30.toml").symlink_to("nothing")
    files = [problem.origin.file for problem in load_config(folder).problems]
    assert files == ["agent.toml", "agent.toml.d/a20.toml", "agent.toml.d/a30.toml"]
    assert told(folder)[0] == "agent.toml line 2: it is not valid TOML: this is not UTF-8"
    for number in range(MAX_DROP_INS):
        (folder / f"agent.toml.d/b{number}.toml").write_text("")
    assert any("at most 100 are read" in line for line in told(folder))


def test_config_show_tells_where_each_value_comes_from_and_no_login(machine: Machine) -> None:
    machine.configure(
        '[repository]\nurl = "https://user:SECRET@patches.example/kmend?token=SECRET"\n'
        '[hooks]\nafter = ["tell https://u:SECRET@h/x"]\n'
    )
    (machine.paths.config / "agent.toml.d").mkdir()
    machine.configure('[network]\n\nproxy = "http://u:SECRET@proxy.example:3128"\n', "agent.toml.d/10-proxy.toml")
    text = machine.must("config", "show")
    assert "SECRET" not in text
    lines = [row for row in text.splitlines() if " = " in row]
    rows = {row.split(" = ")[0]: row.split("# ")[-1] for row in reversed(lines)}  # the first of two sections counts
    assert rows["url"] == "agent.toml line 2"
    assert rows["proxy"] == "agent.toml.d/10-proxy.toml line 3"
    assert rows["soak"] == "default"
    shown = tomllib.loads(text)
    assert shown["repository"]["url"] == "https://patches.example/kmend"
    assert shown["hooks"]["after"] == ["tell https://h/x"]
    document = machine.json("config", "show")
    assert document["format"] == "kmend-config/1"
    (proxy,) = [item for item in document["settings"] if item["member"] == "proxy"]
    assert proxy == {
        "section": "network",
        "member": "proxy",
        "value": "http://proxy.example:3128",
        "file": "agent.toml.d/10-proxy.toml",
        "line": 3,
    }


def test_config_check(machine: Machine) -> None:
    assert "agent.toml" in machine.must("config", "check")
    assert machine.json("config", "check")["usable"] is True
    machine.configure("[timing]\nsoack = 3\n")
    assert machine.run("config", "check") == 78
    assert machine.out == "agent.toml line 2: [timing] has no member soack (did you mean soak?)\n"
    document = machine.json("config", "check")
    assert (machine.status, document["usable"]) == (78, False)
    assert document["problems"] == [
        {"file": "agent.toml", "line": 2, "message": "[timing] has no member soack", "hint": "did you mean soak?"}
    ]
    assert machine.run("config", "show") == 78
    assert "agent.toml line 2" in machine.err
    assert machine.run("update") == 78
    assert "agent.toml line 2: [timing] has no member soack" in machine.err
    assert machine.kernel.active() == []


def test_config_needs_no_state_and_no_lock(machine: Machine) -> None:
    """Also on a host whose state is too new, or whose disk is full, its configuration can be looked at."""
    machine.must("config", "check")
    assert not machine.paths.state.exists()
    assert not (machine.paths.run / "lock").exists()
