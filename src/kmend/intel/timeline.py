"""Since when a verdict holds: the changes of verdicts on one host, made anew of what they rested on.

Nobody keeps a verdict's history. What is kept is small: how the host stood (`Period`), what was said of the CVE for its kernel
build (`Answer`), when levels were published, let go and recalled (`LevelStory`), when the distro had it mended. At each of these
moments the same rules as for the present say what was true (`kmend.intel.verdicts`).

An answer that nothing has replaced counts from the beginning: a kernel had the bug before anybody told. One that replaces another
counts from then on, since that is when it was said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kmend.intel.applicability import Applicability
from kmend.intel.clocks import Change, Clocks, clocks
from kmend.intel.verdicts import CLOSED, HostKernel, Level, verdict


@dataclass(frozen=True, slots=True)
class Period:
    """How a host stood, until its next period.

    Attributes:
        at: seconds since 1970-01-01 UTC, by the server's clock.
        held: level in force, 0 for none; `kernel.level` is the one on its way, if there is one.
        refuses: levels that it does not load by itself.
        gone: it is not of the fleet any more; nothing is said of it from then on.
    """

    at: int
    build_id: str
    ring: str
    kernel: HostKernel
    held: int = 0
    refuses: frozenset[int] = frozenset()
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Recalled:
    """A level's recall; `until` is None while it stands."""

    at: int
    until: int | None
    why: str


@dataclass(frozen=True, slots=True)
class LevelStory:
    """What became of a level.

    Attributes:
        freed: ring -> since when every host there may have it.
        recalls: the one that is told first comes first.
    """

    level: int
    published: int
    freed: Mapping[str, int] = field(default_factory=dict)
    recalls: tuple[Recalled, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said of a CVE for a kernel build; `until` is None for what is said now."""

    until: int | None
    found: Applicability


@dataclass(frozen=True, slots=True)
class Story:
    """One CVE on one kernel build. CVEs of which all of this is alike share a story, whatever their names are.

    Attributes:
        answers: in their order, the present one last; their `found.cve` is the same for all.
        closing: levels that close it.
        fixed_in: the distro's first package that has it mended; empty if there is none.
        fixed_at: since when there is that package.
        objects: of each of `closing`, those that it patches for the CVE; nothing at all where no verdict turns on that.
    """

    answers: tuple[Answer, ...]
    closing: tuple[int, ...] = ()
    fixed_in: str = ""
    fixed_at: int = 0
    objects: tuple[tuple[str, ...], ...] = ()


class History:
    """A host's history, of which many CVEs are asked.

    Args:
        periods: in any order; of several at one moment the last counts.
        levels: kernel build -> its levels.
        now: nothing is later.
    """

    def __init__(self, periods: Iterable[Period], levels: Mapping[str, Sequence[LevelStory]], now: int) -> None:
        ordered = sorted(periods, key=lambda period: period.at)
        gone = next((place for place, period in enumerate(ordered) if period.gone), None)
        self.end = now if gone is None else min(now, ordered[gone].at)
        """Until when something is said of the host."""
        ordered = ordered[:gone]
        spans: dict[str, list[_Span]] = {}
        for place, period in enumerate(ordered):
            begin = min(period.at, self.end)
            end = min(ordered[place + 1].at, self.end) if place + 1 < len(ordered) else None
            if end is None or begin < end:
                spans.setdefault(period.build_id, []).append(_Span(begin, end, period))
        self._courses = {
            build_id: _Course(found, levels.get(build_id, ()), self.end) for build_id, found in spans.items()
        }

    @property
    def builds(self) -> tuple[str, ...]:
        """Kernel builds that the host has run; each needs a story."""
        return tuple(self._courses)

    def changes(self, stories: Mapping[str, Story]) -> tuple[Change, ...]:
        """When a verdict on one CVE became another one, or the same for another cause.

        Args:
            stories: kernel build -> the CVE's story on it.
        """
        found = [change for build_id, course in self._courses.items() for change in course.changes(stories[build_id])]
        if len(self._courses) > 1:
            found.sort(key=lambda change: change.at)
        return _merged(found)

    def clocks(
        self, stories: Mapping[str, Story], published: int = 0, changes: tuple[Change, ...] | None = None
    ) -> Clocks:
        """Both clocks of one CVE.

        Args:
            published: when the CVE was.
            changes: of these stories, if they are known already.
        """
        found = self.changes(stories) if changes is None else changes
        offers = [
            at
            for build_id, course in self._courses.items()
            for at in (course.first_fix(stories[build_id]),)
            if at is not None
        ]
        return clocks(found, self.end, published=published, fix_published=min(offers, default=None))


@dataclass(frozen=True, slots=True)
class _Span:
    begin: int
    end: int | None
    period: Period


class _Course:
    """What became of stories while the host ran one kernel build. Each is told once."""

    def __init__(self, spans: Sequence[_Span], levels: Sequence[LevelStory], now: int) -> None:
        self._spans = spans
        self._levels = {story.level: story for story in levels}
        self._now = now
        self._told: dict[Story, tuple[Change, ...]] = {}
        self._fixes: dict[Story, int | None] = {}
        self._made: dict[tuple[int, int, int, str, tuple[str, ...]], Level | None] = {}

    def changes(self, story: Story) -> tuple[Change, ...]:
        found = self._told.get(story)
        if found is None:
            found = self._told[story] = tuple(self._changes(story))
        return found

    def first_fix(self, story: Story) -> int | None:
        """When something that closes it was first there; None if nothing is, or there is nothing to close."""
        if story not in self._fixes:
            found = [self._levels[number].published for number in story.closing if number in self._levels]
            there = [at for at in [*found, *([story.fixed_at] if story.fixed_in else [])] if at <= self._now]
            opened = any(change.word not in CLOSED for change in self.changes(story))
            self._fixes[story] = min(there, default=None) if opened else None
        return self._fixes[story]

    def _changes(self, story: Story) -> list[Change]:
        moments = sorted(self._moments(story))
        found: list[Change] = []
        before: _Span | None = None
        for place, span in enumerate(self._spans):
            end = self._now + 1 if span.end is None else span.end
            for at in (span.begin, *(moment for moment in moments if span.begin < moment < end)):
                answer = next(item for item in story.answers if item.until is None or item.until > at)
                patched = story.objects or ((),) * len(story.closing)
                levels = [
                    self._level(place, number, at, answer.found.cve, objects)
                    for number, objects in zip(story.closing, patched, strict=True)
                ]
                fixed_in = story.fixed_in if story.fixed_at <= at else ""
                there = [level for level in levels if level is not None]
                said = verdict(answer.found, span.period.kernel, there, fixed_in=fixed_in)
                change = Change(at, said.word, said.detail)
                # Where the host ran another kernel in between, what is alike has to be said again.
                away = at == span.begin and (before is None or before.end != span.begin)
                if away or (found[-1].word, found[-1].detail) != (change.word, change.detail):
                    found.append(change)
            before = span
        return found

    def _moments(self, story: Story) -> set[int]:
        """When something that the story rests on became otherwise, the host's periods aside."""
        found = {answer.until for answer in story.answers if answer.until is not None}
        if story.fixed_in:
            found.add(story.fixed_at)
        for number in story.closing:
            level = self._levels.get(number)
            if level is not None:
                found.add(level.published)
                found.update(level.freed.values())
                found.update(item.at for item in level.recalls)
                found.update(item.until for item in level.recalls if item.until is not None)
        return found

    def _level(self, place: int, number: int, at: int, cve: str, objects: tuple[str, ...]) -> Level | None:
        """How a level stood to the host at a moment; None if it was not there yet."""
        key = (place, at, number, cve, objects)
        if key not in self._made:
            self._made[key] = self._make(self._spans[place].period, number, at, cve, objects)
        return self._made[key]

    def _make(self, period: Period, number: int, at: int, cve: str, objects: tuple[str, ...]) -> Level | None:
        story, own = self._levels.get(number), number == period.kernel.level
        if story is None or (story.published > at and not own):
            return None
        # What is let go is let go for good; a higher level that is, or that the host has, lets the lower ones go too.
        free = number <= period.held or any(
            level.level >= number and level.freed.get(period.ring, at + 1) <= at for level in self._levels.values()
        )
        rules = (*(("the host",) if number in period.refuses else ()), *(() if free else ("rollout",)))
        recall = next((item for item in story.recalls if item.at <= at < (item.until or at + 1)), None)
        blocked = recall.why if recall is not None else ""
        return Level(number, frozenset({cve}), {cve: objects}, withheld=rules, blocked=blocked)


def _merged(changes: Iterable[Change]) -> tuple[Change, ...]:
    found: list[Change] = []
    for change in changes:
        if found and found[-1].at == change.at:
            found.pop()
        if not found or (found[-1].word, found[-1].detail) != (change.word, change.detail):
            found.append(change)
    return tuple(found)
