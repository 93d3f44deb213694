"""What scanners and auditors are given: a host's verdicts as OpenVEX, and a level's advisory."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, insert, select, update

from kmend.core.document import decode, encode
from kmend.core.errors import MalformedError
from kmend.core.kernel import KernelRef
from kmend.core.manifest import Manifest, sha256_hex
from kmend.intel.documents import Advisory, Observed, Products, Withdrawal, advisory_name, headers, openvex, purls
from kmend.intel.verdicts import Verdict, Word
from kmend.server.hosts.checkin import ENROLLED
from kmend.server.knowledge.answering import of_host
from kmend.server.knowledge.errors import NotKnownError
from kmend.server.store import Store
from kmend.server.store.tables import (
    applicability,
    applicability_changes,
    cves,
    host_documents,
    hosts,
    kernel_builds,
    kernel_facts,
    level_cves,
    level_fixes,
    levels,
    recalls,
)

SILENT_SECONDS = 86_400
"""A host that has said nothing for longer may have restarted: that it is live-patched is not believed any more."""
MAX_MANIFEST = 64 * 1024 * 1024
_RESTING = ("cna", "debian")
"""Feeds on which `not affected` rests."""
_DEBIAN = {"5.10": "11", "6.1": "12", "6.12": "13"}
_BACKPORT = re.compile(r"~bpo([0-9]{1,3})\+")
_IN_VERSION = re.compile(r"\bDebian ([0-9][A-Za-z0-9.+~:-]*)")
_FIX = "https://git.kernel.org/stable/c/"


def openvex_of_host(store: Store, host: str, *, place: str, author: str, now: int) -> dict[str, object]:
    """A host's document. One that says something else than the last has the next version; else it is the last, to the byte.

    Args:
        place: its IRI.

    Raises:
        NotKnownError: there is no such host, or its kernel's facts are not there, or no CVE is known of it.
    """
    with store.read() as connection:
        verdicts, stale = _verdicts(connection, host, now)
        row = connection.execute(select(hosts).where(hosts.c.id == host)).one()
        verdicts = _of_module(connection, row, verdicts)
        products = _products(connection, row)
        observed = _observed(connection, row, now)
        last = connection.execute(select(host_documents).where(host_documents.c.host == host)).first()

    def made(version: int, issued: int, at: int) -> dict[str, object]:
        return openvex(place, author, version, products, replace(observed, at=at), verdicts, issued=issued, stale=stale)

    # When the host was seen is no news by itself; when it was seen last, before it fell silent, is.
    digest = sha256_hex(encode(made(0, 0, observed.at if observed.silent else 0)))
    if last is None or last.digest != digest:
        last = store.transact(lambda connection: _issue(connection, host, digest, observed.at, now))
    return made(last.version, last.issued_at, last.observed_at)


def advisory_of_level(connection: Connection, build_id: str, level: int) -> Advisory:
    """What is to be said of a level.

    Raises:
        NotKnownError: there is no such level.
    """
    joined = select(levels, kernel_builds.c.release, kernel_builds.c.version, kernel_builds.c.architecture).join(
        kernel_builds, kernel_builds.c.build_id == levels.c.build_id
    )
    row = connection.execute(joined.where(levels.c.build_id == build_id, levels.c.level == level)).first()
    if row is None:
        raise NotKnownError(f"there is no level {level} of kernel build {build_id[:64]!r}", hint="kmend-server levels")
    manifest = decode(Manifest, bytes(row.manifest), max_bytes=MAX_MANIFEST)
    package = _package(connection, manifest)
    here = (level_cves.c.build_id == build_id) & (level_cves.c.level == level)
    known = connection.execute(
        select(cves.c.cve, cves.c.title, cves.c.commits, cves.c.changed_at)
        .join_from(level_cves, cves, cves.c.cve == level_cves.c.cve)
        .where(here)
    ).all()
    fixes = {item.cve: tuple(_FIX + commit for commit in json.loads(item.commits)) for item in known}
    withdrawn, changes = _recalls(connection, build_id, level, frozenset(manifest.clears))
    learned = {item.changed_at for item in known} | _judged_anew(connection, build_id, level)
    changes += tuple((at, "What is known of its CVEs has changed.") for at in learned if at > row.published)
    return Advisory(
        name=advisory_name(row.release, build_id, level),
        published=row.published,
        level=level,
        before=row.base or 0,
        cves=manifest.cves,
        package=package,
        release=row.release,
        build_id=build_id,
        module=row.module,
        module_sha256=row.module_sha256,
        functions=tuple(f"{item.name}:{function.name}" for item in manifest.objects for function in item.functions),
        references=tuple(dict.fromkeys(url for cve in manifest.cves for url in fixes.get(cve, ()))),
        ecosystem=ecosystem(package),
        version=row.version,
        architecture=row.architecture,
        titles={item.cve: item.title for item in known if item.title},
        fixes=fixes,
        unaffected=_unaffected(connection, build_id, level),
        withdrawn=withdrawn,
        changes=tuple(sorted(changes)),
    )


def ecosystem(package: str) -> str:
    """OSV's name of the distribution that a version of `linux` belongs to; `Debian` where the version does not tell."""
    backport = _BACKPORT.search(package)
    release = backport[1] if backport is not None else _DEBIAN.get(".".join(package.split(".")[:2]))
    return f"Debian:{release}" if release else "Debian"


def _verdicts(connection: Connection, host: str, now: int) -> tuple[tuple[Verdict, ...], tuple[str, ...]]:
    found = of_host(connection, host, now)
    if not found:
        raise NotKnownError(
            "nothing is known of this host's kernel that a document could say", hint="kmend-server feeds import cna"
        )
    stale = tuple(name for name in found[0].stale if name in _RESTING)
    return tuple(item.verdict for item in found), stale


def _of_module(connection: Connection, row: Any, verdicts: tuple[Verdict, ...]) -> tuple[Verdict, ...]:
    """Without what a level closes where the host's module of that number is another one, as after a change of repositories."""
    here = (levels.c.build_id == row.build_id) & (levels.c.level == row.level)
    known = connection.execute(select(levels.c.module).where(here)).scalar()
    if known is None or not row.module or row.module == known:
        return verdicts
    told = f"the host runs {row.module}; level {row.level} is {known} here, and what the other one closes is not known"
    return tuple(
        Verdict(item.cve, Word.UNKNOWN, told, (told,)) if item.word is Word.LIVE_PATCHED else item for item in verdicts
    )


def _products(connection: Connection, row: Any) -> Products:
    package = connection.execute(
        select(kernel_facts.c.package).where(kernel_facts.c.build_id == row.build_id)
    ).scalar_one()
    query = select(cves.c.cve, cves.c.files).join_from(applicability, cves, cves.c.cve == applicability.c.cve)
    named = connection.execute(query.where(applicability.c.build_id == row.build_id))
    files: Mapping[str, tuple[str, ...]] = {item.cve: tuple(json.loads(item.files)) for item in named}
    return Products(purls(row.release, package, row.architecture), headers(row.release, package), files)


def _observed(connection: Connection, row: Any, now: int) -> Observed:
    here = (levels.c.build_id == row.build_id) & (levels.c.level == row.level)
    digest = connection.execute(select(levels.c.module_sha256).where(here)).scalar() or ""
    # Of one that is let go of, nothing will be heard again, whatever it does.
    silent = row.state != ENROLLED or now - row.last_seen > SILENT_SECONDS
    return Observed(row.id, row.boot_id, row.last_seen, row.module, digest, silent)


def _issue(connection: Connection, host: str, digest: str, seen: int, now: int) -> Any:
    """Take the next version for a document, unless another process has just done so for the same."""
    # Whoever issues for this host waits here.
    connection.execute(select(hosts.c.id).where(hosts.c.id == host).with_for_update())
    here = select(host_documents).where(host_documents.c.host == host)
    last = connection.execute(here).first()
    if last is None:
        connection.execute(
            insert(host_documents).values(host=host, version=1, digest=digest, issued_at=now, observed_at=seen)
        )
    elif last.digest != digest:
        connection.execute(
            update(host_documents)
            .where(host_documents.c.host == host)
            .values(version=last.version + 1, digest=digest, issued_at=now, observed_at=seen)
        )
    return connection.execute(here).one()


def _package(connection: Connection, manifest: Manifest) -> str:
    """Version of the package: as the signed kernel ref has it, as the facts have it, or as Debian writes it into `uname -v`."""
    kernel = manifest.kernel
    try:
        stated = KernelRef.parse(kernel.ref).package
    except MalformedError:
        stated = None
    if stated:
        return stated
    query = select(kernel_facts.c.package).where(kernel_facts.c.build_id == kernel.build_id)
    known: str | None = connection.execute(query).scalar()
    match = _IN_VERSION.search(kernel.version)
    return known or (match[1] if match is not None else kernel.release)


def _unaffected(connection: Connection, build_id: str, level: int) -> dict[str, str]:
    query = select(applicability.c.cve, applicability.c.reason).join_from(
        level_cves, applicability,
        (applicability.c.build_id == level_cves.c.build_id) & (applicability.c.cve == level_cves.c.cve),
    )  # fmt: skip
    here = (level_cves.c.build_id == build_id, level_cves.c.level == level)
    return {row.cve: row.reason for row in connection.execute(query.where(*here, applicability.c.affected.is_(False)))}


def _judged_anew(connection: Connection, build_id: str, level: int) -> set[int]:
    """When what a level's CVEs mean for the build was found to be otherwise."""
    query = select(applicability_changes.c.until).join_from(
        level_cves, applicability_changes,
        (applicability_changes.c.build_id == level_cves.c.build_id) & (applicability_changes.c.cve == level_cves.c.cve),
    )  # fmt: skip
    return set(
        connection.execute(query.where(level_cves.c.build_id == build_id, level_cves.c.level == level)).scalars()
    )


def _recalls(
    connection: Connection, build_id: str, level: int, clears: frozenset[str]
) -> tuple[Withdrawal | None, tuple[tuple[int, str], ...]]:
    """The recalls that concern a level (`kmend.core.recall.Recall.concerns`): what is in force, and what was."""
    fixes = select(level_fixes.c.fix).where(level_fixes.c.build_id == build_id, level_fixes.c.level == level)
    whole = (recalls.c.build_id == build_id) & (recalls.c.level == level)
    query = select(recalls).where(whole | recalls.c.fix.in_(fixes)).order_by(recalls.c.number)
    found = [row for row in connection.execute(query) if row.fix not in clears]
    changes: list[tuple[int, str]] = []
    for row in found:
        if row.withdrawn_at is not None:
            changes += [(row.at, f"Recalled: {row.reason}."), (row.withdrawn_at, "The recall was taken back.")]
    going = [row for row in found if row.withdrawn_at is None]
    withdrawn = Withdrawal(min(row.at for row in going), "; ".join(row.reason for row in going)) if going else None
    return withdrawn, tuple(changes)
