"""What a fleet has done so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

BUCKETS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000)
"""Upper bounds of the latency histogram, in milliseconds."""


@dataclass(slots=True)
class Histogram:
    """Latencies by bucket; the last counts what is above all bounds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_MS) + 1))

    def add(self, seconds: float) -> None:
        """Count one."""
        place = next((number for number, bound in enumerate(BUCKETS_MS) if seconds * 1000 <= bound), len(BUCKETS_MS))
        self.counts[place] += 1

    def quantile(self, share: float) -> float:
        """Milliseconds below which this share lies, as far as the buckets tell; 0 of nothing."""
        wanted, seen = share * sum(self.counts), 0
        for bound, count in zip((*BUCKETS_MS, float("inf")), self.counts, strict=True):
            seen += count
            if count and seen >= wanted:
                return float(bound)
        return 0.0


@dataclass(slots=True)
class Counters:
    """Of a fleet; `Snapshot` is what is printed.

    Attributes:
        requests: sent, by path.
        answered: check-ins that were acknowledged.
        errors: by kind: the problem's word, the HTTP status, or what became of the connection.
        told: hosts that were woken by news.
        latency: of check-ins, from the first byte sent to the last received.
    """

    requests: Counter[str] = field(default_factory=Counter)
    enrolled: int = 0
    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    told: int = 0
    latency: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counters at one moment, as one line of JSON.

    Attributes:
        seconds: since the fleet began to run.
        levels: level in force (as text, 0 for none) -> hosts that are up.
        states: the agent's word -> hosts; `off` for those that are down.
        failures: cause of quarantine -> entries.
        waiting: requests for news that are held now.
    """

    seconds: float
    hosts: int
    enrolled: int
    requests: dict[str, int]
    answered: int
    errors: dict[str, int]
    told: int
    waiting: int
    p50_ms: float
    p99_ms: float
    levels: dict[str, int]
    states: dict[str, int]
    failures: dict[str, int]
    cpu_seconds: float
    format: str = "kmend-fleet/1"


def tally(words: Iterable[object]) -> dict[str, int]:
    """How often each word occurs, in the words' order."""
    found = Counter(str(word) for word in words)
    return {word: found[word] for word in sorted(found)}
