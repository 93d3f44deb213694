"""The whole agent behind a network, a repository or a clock that is wrong: the level in force stays, and the next update works.

The client's own answers are tested in `tests/unit/trust`; here the guest reaches a server on the host that lies.
"""

from __future__ import annotations

import datetime
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet
from tests.unit.trust.loopback import CLOSE, RESET, Script, Step, folder, reply
from tests.vm.faulted import SEED, Struck
from tests.vm.relevelled import key_folder

from kmend.trust.signing import keyfiles
from kmend.trust.signing.keyfiles import KeyPlan
from kmend.trust.signing.publishing import Publisher, read_build

NETWORK = "[network]\ntotal = 4\nmin_rate = 1000000000\nattempts = 2\n"
TIMES = "connect = 3\nread = 2\n"
DAY = datetime.timedelta(days=1)
YEAR = 365 * 86_400
PAGE = reply(200, b"<html>please log in</html>" + b" " * 5000, Content_Type="text/html")
NAMES = ("timestamp.json", "snapshot.json", "targets.json", "levels.json", "/files/")
Fault = Callable[[bytes], list[Step]]


def _head(answer: bytes) -> tuple[bytes, bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", body


def cut(answer: bytes) -> list[Step]:
    head, body = _head(answer)
    return [head + body[: len(body) // 2], RESET]


def truncated(answer: bytes) -> list[Step]:
    head, body = _head(answer)
    return [head + body[: len(body) // 2], CLOSE]


def slow(answer: bytes) -> list[Step]:
    steps: list[Step] = []
    for index in range(100):
        steps += [answer[index : index + 1], 0.5]
    return [*steps, CLOSE]


def silent(answer: bytes) -> list[Step]:
    return [8.0, CLOSE]


def corrupt(answer: bytes) -> list[Step]:
    head, body = _head(answer)
    middle = len(body) // 2
    return [head + body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]]


def garbage(answer: bytes) -> list[Step]:
    head, body = _head(answer)
    return [head + random.Random(SEED).randbytes(len(body))]


def redirected(answer: bytes) -> list[Step]:
    return [reply(302, b"", Location="/garbage.html")]


def page(answer: bytes) -> list[Step]:
    return [PAGE]


def gone(answer: bytes) -> list[Step]:
    return [reply(500)]


def refused(answer: bytes) -> list[Step]:
    return [RESET]


FAULTS: tuple[Fault, ...] = (cut, truncated, slow, silent, corrupt, garbage, redirected, page, gone, refused)
CELLS = [(name, fault) for name in NAMES for fault in FAULTS]


def quick() -> list[ParameterSet]:
    """One of them always, the others with the slow tests."""
    chosen = random.Random(f"{SEED} network").choice(CELLS)
    marked = ((cell, [] if cell == chosen else [pytest.mark.slow]) for cell in CELLS)
    return [pytest.param(*cell, marks=marks, id=f"{cell[0]}-{cell[1].__name__}") for cell, marks in marked]


def lying(repository: Path, name: str, fault: Fault) -> Script:
    """A good server, but for files whose names hold `name`."""
    good = folder(repository)

    def script(request: object) -> list[Step]:
        path = getattr(request, "path", "")
        if path == "/garbage.html":
            return [PAGE]
        answer = good(request)  # type: ignore[arg-type]
        assert isinstance(answer, bytes)
        return fault(answer) if name in path else [answer]

    return script


def one_in_force(struck: Struck) -> None:
    """Level 1 is in force, and what the repository's metadata was is forgotten, so that all of it is asked for."""
    struck.kmend("update", "--level", "1")
    struck.vm.sh("childless; rm -rf /var/lib/kmend/repository")
    struck.over_http(TIMES + NETWORK)


def stands(struck: Struck, *, status: int = 1) -> str:
    """An update fails and changes nothing; its error's words."""
    done = struck.kmend("update", status=status)
    told = done.stderr.decode()
    assert "Traceback" not in told
    assert struck.level() == 1
    document = struck.status()
    assert document["livepatch"]["level"] == 1
    assert document["summary"] == "error"
    assert document["last_check"]["kind"]
    return told


def recovers(struck: Struck, repository: Path) -> None:
    """With a good repository behind the same address the update works."""
    struck.front.answer_by(folder(repository))
    struck.kmend("update")
    assert struck.level() == 2


@pytest.mark.parametrize(("name", "fault"), quick())
def test_network(struck: Struck, name: str, fault: Fault) -> None:
    good = struck.published.folder / "repository"
    one_in_force(struck)
    struck.front.answer_by(lying(good, name, fault))
    stands(struck)
    recovers(struck, good)


@pytest.mark.slow
def test_no_server_at_all(struck: Struck) -> None:
    one_in_force(struck)
    struck.vm.sh("ip link set eth0 down")
    try:
        stands(struck)
    finally:
        struck.vm.sh("ip link set eth0 up")
    recovers(struck, struck.published.folder / "repository")


# Repositories


def copied(struck: Struck, target: Path) -> Path:
    shutil.copytree(struck.published.folder / "repository", target)
    return target


def publisher(struck: Struck, repository: Path, *, keys: Path | None = None, ago: int = 0) -> Publisher:
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) - ago * DAY
    return Publisher(repository, key_folder(keys or struck.published.folder / "keys"), now=now)


def rolled_back(struck: Struck, scratch: Path) -> Path:
    """What this host has seen is newer."""
    newer = copied(struck, scratch / "newer")
    publisher(struck, newer).refresh()
    struck.front.answer_by(folder(newer))
    struck.kmend("check")
    return copied(struck, scratch / "older")


def frozen(struck: Struck, scratch: Path) -> Path:
    """Nobody has signed it for more than a week."""
    builds = [read_build(struck.published.folder / f"level-{level}") for level in (1, 2)]
    publisher(struck, scratch / "frozen", ago=8).publish(builds)
    return scratch / "frozen"


def mixed(struck: Struck, scratch: Path) -> Path:
    """The names of one version, the content of another."""
    newer, found = copied(struck, scratch / "newer"), copied(struck, scratch / "mixed")
    publisher(struck, newer).refresh()
    shutil.copy(newer / "metadata/timestamp.json", found / "metadata/timestamp.json")
    old = max((found / "metadata").glob("*.snapshot.json"), key=lambda path: int(path.name.split(".")[0]))
    shutil.copy(old, found / f"metadata/{int(old.name.split('.')[0]) + 1}.snapshot.json")
    return found


def other_keys(struck: Struck, scratch: Path) -> Path:
    """Signed by somebody else's keys, root and all."""
    keys = scratch / "keys"
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    keyfiles.create(keys, KeyPlan(), now=now)
    builds = [read_build(struck.published.folder / f"level-{level}") for level in (1, 2)]
    publisher(struck, scratch / "foreign", keys=keys).publish(builds)
    return scratch / "foreign"


@pytest.mark.slow
@pytest.mark.parametrize("make", [rolled_back, frozen, mixed, other_keys])
def test_repository(struck: Struck, tmp_path: Path, make: Callable[[Struck, Path], Path]) -> None:
    one_in_force(struck)
    found = make(struck, tmp_path)
    struck.front.answer_by(folder(found))
    told = stands(struck)
    words = {"rolled_back": "older", "frozen": "frozen", "mixed": "timestamp.json last", "other_keys": "sign"}
    assert words[make.__name__] in told
    good = copied(struck, tmp_path / "good")
    for _ in range(2):  # newer than all that this host has seen
        publisher(struck, good).refresh()
    recovers(struck, good)


# Clocks


def set_clock(struck: Struck, seconds: int | None) -> None:
    """None is 1970, as near as Linux lets a clock be set: not before the machine was started."""
    struck.vm.sh(f"date -s @{seconds or '$(($(cut -d. -f1 /proc/uptime) + 60))'} >/dev/null")


@pytest.mark.slow
@pytest.mark.parametrize("off", [YEAR, -YEAR, None], ids=["a-year-ahead", "a-year-behind", "1970"])
@pytest.mark.parametrize("over_http", [True, False])
def test_clock(struck: Struck, off: int | None, over_http: bool) -> None:
    """It is told from a repository that is old; a level that soaked here is loaded at boot with any clock."""
    now = int(datetime.datetime.now(datetime.timezone.utc).timestamp())
    one_in_force(struck)
    if not over_http:
        struck.configure()
    struck.front.answer_by(folder(struck.published.folder / "repository"))
    try:
        set_clock(struck, None if off is None else now + off)
        told = stands(struck)
        assert "clock" in told
        struck.kmend("unload")
        assert struck.level() == 0
        struck.kmend("quarantine", "clear")
    finally:
        set_clock(struck, int(datetime.datetime.now(datetime.timezone.utc).timestamp()))
    recovers(struck, struck.published.folder / "repository")
    assert struck.status()["summary"] == "current"


@pytest.mark.slow
def test_soaked_level_comes_with_a_dead_clock(struck: Struck) -> None:
    struck.configure("[timing]\nsoak = 1\nremove_after = 1\n" + '[repository]\nurl = "file:///srv/repository"\n')
    struck.kmend("update", "--level", "1")
    struck.vm.sh("childless; sleep 2")
    struck.kmend("status")
    struck.vm.sh("off")
    try:
        set_clock(struck, None)
        struck.kmend("boot")
        assert struck.level() == 1
    finally:
        set_clock(struck, int(datetime.datetime.now(datetime.timezone.utc).timestamp()))
    struck.goes_on()
