"""What Prometheus is told; every name begins with `kmend_server_`. Labels have few values, and none names a host.

With several processes each counts its own, as the label `process` of the target does in a scrape configuration; numbers that are
read from the database are the same for all.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

disable_created_metrics()  # type: ignore[no-untyped-call]

registry = CollectorRegistry(auto_describe=True)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

requests = Counter("kmend_server_requests_total", "Answered requests.", ["area", "method", "status"], registry=registry)
request_seconds = Histogram(
    "kmend_server_request_seconds", "Time until the answer, held requests aside.", ["area"], buckets=_SECONDS,
    registry=registry,
)  # fmt: skip
refusals = Counter(
    "kmend_server_refusals_total", "Requests that were refused, by the word of the problem.", ["area", "problem"],
    registry=registry,
)  # fmt: skip
bytes_sent = Counter("kmend_server_sent_bytes_total", "Bytes of bodies sent.", ["area"], registry=registry)
held = Gauge("kmend_server_held_requests", "Hosts that wait for news in this process.", registry=registry)
connections = Gauge("kmend_server_active_requests", "Requests under way in this process.", registry=registry)
repository_imports = Counter(
    "kmend_server_repository_imports_total", "Looks at the repository that led to an import, by outcome.", ["outcome"],
    registry=registry,
)  # fmt: skip
repository_version = Gauge(
    "kmend_server_repository_version", "Version of the repository's timestamp.", registry=registry
)
repository_expires = Gauge(
    "kmend_server_repository_expires_seconds", "When that timestamp expires, in seconds since 1970.", registry=registry
)
notices = Counter(
    "kmend_server_notices_total", "Attempts to send a notice, by kind of channel and outcome.", ["kind", "outcome"],
    registry=registry,
)  # fmt: skip
duties = Counter(
    "kmend_server_duties_total", "Turns of the clockwork, by duty and outcome.", ["duty", "outcome"], registry=registry
)
duty_seconds = Histogram(
    "kmend_server_duty_seconds", "How long they took.", ["duty"], buckets=_SECONDS, registry=registry
)
leader = Gauge("kmend_server_leads", "Whether this process holds the lease of a duty.", ["duty"], registry=registry)
hosts = Gauge("kmend_server_hosts", "Hosts by state.", ["state"], registry=registry)
hosts_silent = Gauge("kmend_server_hosts_overdue", "Enrolled hosts whose check-in is overdue.", registry=registry)
rollouts = Gauge("kmend_server_rollouts", "Rollouts by state.", ["state"], registry=registry)
feed_fetches = Counter(
    "kmend_server_feed_fetches_total", "Looks at a feed's source, by outcome: new, same, failed.", ["feed", "outcome"],
    registry=registry,
)  # fmt: skip
feed_age = Gauge("kmend_server_feed_age_seconds", "How old what a feed says is.", ["feed"], registry=registry)
feed_failures = Gauge(
    "kmend_server_feed_failures",
    "Failed looks at a feed's source since the last good one.",
    ["feed"],
    registry=registry,
)
feed_aside = Gauge(
    "kmend_server_feed_set_aside", "Records of a feed that could not be read.", ["feed"], registry=registry
)
outbox = Gauge("kmend_server_outbox", "Notices that wait to be sent.", registry=registry)


def text() -> bytes:
    """Everything in the text format."""
    return generate_latest(registry)
