"""`kmend patches` and `kmend cves`: the levels that this host knows, and what each CVE that they name is on this host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kmend.agent import checking
from kmend.agent.choice import Choice
from kmend.agent.livekernel import View, level_of
from kmend.agent.quarantine import Entry
from kmend.agent.session import Session
from kmend.core.manifest import Manifest

MAX_ASKED = 1000


@dataclass(frozen=True, slots=True)
class FunctionSummary:
    """A function that a level replaces."""

    object: str
    name: str
    source: str


@dataclass(frozen=True, slots=True)
class PatchSummary:
    """One level.

    Attributes:
        state: `in-force`, `coming`, `leaving`, `resident` (its module is still in memory), `kept` (on this host), or `published`.
        kept: module and manifest are on this host.
        soaked: it has come through its soak here.
        held: why it is not loaded by itself, empty if nothing holds it.
        published: when, in seconds since 1970-01-01 UTC; 0 if that is not known.
        pinned: why its module stays in memory until the next boot.
    """

    level: int
    module: str
    state: str
    kept: bool
    soaked: bool
    held: str
    published: int
    base: int | None
    pinned: tuple[str, ...]
    titles: tuple[str, ...]
    cves: tuple[str, ...]
    functions: tuple[FunctionSummary, ...]


@dataclass(frozen=True, slots=True)
class Patches:
    """`kmend patches --json`; only ever gains members.

    Attributes:
        loaded: module of ours that is loaded, empty for none.
        levels: newest first.
        unseen: levels that are published and whose manifests this host has not looked at.
        others: livepatches that are not kmend's.
    """

    build_id: str
    release: str
    loaded: str
    levels: tuple[PatchSummary, ...]
    unseen: tuple[int, ...]
    others: tuple[str, ...]
    format: str = "kmend-patches/1"


@dataclass(frozen=True, slots=True)
class CveAnswer:
    """One CVE on this host.

    Attributes:
        verdict: `live-patched`, `pending`, `available`, `withheld`, `blocked`, or `unknown`.
        level: that closes it: the one loaded, else the newest known one that does; 0 for none.
        titles: of the fixes.
        reason: for people, empty if there is nothing to say.
        until: when the policy lets the level go, in seconds since 1970-01-01 UTC; None if there is no such time.
    """

    cve: str
    verdict: str
    level: int
    titles: tuple[str, ...]
    reason: str = ""
    until: int | None = None


@dataclass(frozen=True, slots=True)
class Cves:
    """`kmend cves --json`; only ever gains members."""

    build_id: str
    release: str
    cves: tuple[CveAnswer, ...]
    format: str = "kmend-cves/1"


@dataclass(frozen=True, slots=True)
class Known:
    """What a host knows of levels, and what would be done with them now."""

    view: View
    manifests: tuple[Manifest, ...]
    answer: Choice
    last: checking.LastCheck | None


def known(session: Session) -> Known:
    """Everything that this host knows without a network; manifests newest first."""
    view = session.kernel.view()
    last = checking.last_check(session)
    found = {item.module.name: item for item in (last.newer if last is not None else ())}
    found.update({item.module.name: item for item in session.store.manifests(session.running.build_id)})
    manifests = sorted(found.values(), key=lambda item: item.level, reverse=True)
    return Known(view, tuple(manifests), checking.outlook(session, view, last), last)


def patches(session: Session) -> Patches:
    """The levels that this host knows."""
    facts = known(session)
    current = facts.view.current
    soaked = {item.module for item in session.soaked_levels()}
    held = {item.level: item.reason for item in facts.answer.obstacles}
    held |= {entry.level: f"in quarantine ({entry.cause.value}): {entry.message}" for entry in _entries(session)}
    publications = {item.level: item.published for item in (facts.last.publications if facts.last is not None else ())}
    kept = {item.module.name for item in session.store.manifests(session.running.build_id)}
    levels = tuple(
        PatchSummary(
            level=item.level,
            module=item.module.name,
            state=_state(facts.view, item.module.name, kept=item.module.name in kept),
            kept=item.module.name in kept,
            soaked=item.module.name in soaked,
            held=held.get(item.level, ""),
            published=publications.get(item.level, 0),
            base=item.base,
            pinned=item.pinned,
            titles=tuple(fix.title for fix in item.fixes),
            cves=item.cves,
            functions=tuple(
                FunctionSummary(target.name, function.name, function.source)
                for target in item.objects
                for function in target.functions
            ),
        )
        for item in facts.manifests
    )
    numbers = {item.level for item in levels}
    return Patches(
        build_id=session.running.build_id,
        release=session.running.release,
        loaded=current.name if current is not None else "",
        levels=levels,
        unseen=tuple(
            level for level in (facts.last.published if facts.last is not None else ()) if level not in numbers
        ),
        others=facts.view.foreign,
    )


def cves(session: Session, asked: Sequence[str] = ()) -> Cves:
    """What each CVE is on this host: all that known levels name, or those that are asked for."""
    facts = known(session)
    names = asked or sorted({cve for item in facts.manifests for cve in item.cves}, key=_by_number)
    quarantined = {entry.module for entry in _entries(session)}
    answers = tuple(judge(name, facts, quarantined) for name in dict.fromkeys(names))
    return Cves(session.running.build_id, session.running.release, answers)


def judge(cve: str, facts: Known, quarantined: set[str] | frozenset[str] = frozenset()) -> CveAnswer:
    """The verdict on one CVE, from what is loaded and what would be loaded. Pure."""
    closing = [item for item in facts.manifests if cve in item.cves]
    current = facts.view.current
    loaded = next((item for item in closing if current is not None and item.module.name == current.name), None)
    if loaded is not None and current is not None:
        titles = _titles(loaded, cve)
        if current.enabled and not current.transition:
            left_out = sorted(current.unapplied & set(loaded.objects_of(cve)))
            if left_out:
                reason = (
                    f"level {loaded.level} is in force, and the kernel has not patched {', '.join(left_out)} with it"
                )
                return CveAnswer(cve, "blocked", loaded.level, titles, reason)
            return CveAnswer(cve, "live-patched", loaded.level, titles)
        way = "coming into force" if current.enabled else "being taken off"
        return CveAnswer(cve, "pending", loaded.level, titles, f"level {loaded.level} is {way}")
    if not closing:
        reason = "no level that this host knows names it; the kernel may have it, may be fixed, or may not be affected"
        return CveAnswer(cve, "unknown", 0, (), reason)
    chosen = facts.answer.manifest
    if chosen is not None and cve in chosen.cves:
        return CveAnswer(cve, "available", chosen.level, _titles(chosen, cve), "kmend update")
    by_level = {item.level: item for item in closing}
    for obstacle in facts.answer.obstacles:
        if obstacle.level in by_level:
            verdict = "withheld" if obstacle.rules else "blocked"
            titles = _titles(by_level[obstacle.level], cve)
            return CveAnswer(cve, verdict, obstacle.level, titles, obstacle.reason, obstacle.until)
    newest = closing[0]
    if newest.module.name in quarantined:
        return CveAnswer(cve, "blocked", newest.level, _titles(newest, cve), f"level {newest.level} is in quarantine")
    reason = "the last check does not say whether it may be loaded: kmend check"
    return CveAnswer(cve, "unknown", newest.level, _titles(newest, cve), reason)


def patches_text(document: Patches, level: int | None) -> str:
    """A row a level; the functions too of the loaded one, or of the one that is asked for."""
    rows = []
    for item in document.levels:
        marks = [item.state, *(["soaked"] if item.soaked else []), *(["pinned"] if item.pinned else [])]
        rows.append(f"level {item.level}  {item.module}  {', '.join(marks)}")
        if item.held:
            rows.append(f"    held back: {item.held}")
        rows.append(f"    {len(item.functions)} functions; {', '.join(item.cves) or 'no CVE'}")
        if item.level == level or (level is None and item.module == document.loaded):
            rows += [f"      {part.object}: {part.name} ({part.source})" for part in item.functions]
    if document.loaded and document.loaded not in {item.module for item in document.levels}:
        rows.append(f"level {level_of(document.loaded)}  {document.loaded}  loaded; its manifest is not on this host")
    if document.unseen and level is None:
        shown = ", ".join(str(number) for number in document.unseen[-20:])
        rows.append(f"published too: {len(document.unseen)} levels that were not looked at ({shown})")
    if document.others:
        rows.append(f"not kmend's: {', '.join(document.others)}")
    return "\n".join(rows) or "no level is known for this kernel build (kmend check)"


def cves_text(document: Cves) -> str:
    """A row a CVE."""
    rows = []
    for item in document.cves:
        level = f"level {item.level}" if item.level else "-"
        rows.append(
            f"{item.cve:<18} {item.verdict:<13} {level:<10} {'; '.join((*item.titles, item.reason)).strip('; ')}"
        )
    return "\n".join(rows) or "no level is known for this kernel build (kmend check)"


def _state(view: View, module: str, *, kept: bool) -> str:
    patch = view.patch(module)
    if patch is not None:
        if not patch.enabled:
            return "leaving"
        return "coming" if patch.transition else "in-force"
    if view.module(module) is not None:
        return "resident"
    return "kept" if kept else "published"


def _titles(manifest: Manifest, cve: str) -> tuple[str, ...]:
    return tuple(fix.title for fix in manifest.fixes if cve in fix.cves)


def _entries(session: Session) -> tuple[Entry, ...]:
    return tuple(entry for entry in session.quarantine.entries() if entry.build_id == session.running.build_id)


def _by_number(cve: str) -> tuple[int, ...]:
    return tuple(int(part) for part in cve.split("-") if part.isdigit())
