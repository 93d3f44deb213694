"""Sending what is due: claimed first, sent outside any transaction, then settled; what fails is tried again later.

A process that dies in between has counted an attempt and sends again, so a notice may come twice; its number is the same then.
"""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kmend.core import durable
from kmend.core.errors import KmendError
from kmend.server.config import ServerConfig
from kmend.server.notices import guard, mail, outbox, webhook
from kmend.server.notices.channels import Kind
from kmend.server.notices.outbox import Due
from kmend.server.operations import metrics
from kmend.server.store import Store
from kmend.trust.network import Network

AT_ONCE = 8
BATCH = 64
_MAX_PASSWORD = 4096
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends notices.

    Attributes:
        rules: what webhooks may reach.
        attempts: how often one notice is tried.
        seconds: for one attempt.
        network: whose certificates webhooks are believed by; None for the system's authorities.
    """

    mail: mail.MailServer
    rules: guard.Rules
    attempts: int
    seconds: float
    server: str = ""
    network: Network | None = None
    resolve: guard.Resolve | None = None

    @classmethod
    def of(cls, config: ServerConfig) -> Sender:
        """As configured."""
        section = config.mail
        password = ""
        if section.password_file:
            password = durable.read_bounded(Path(section.password_file), max_bytes=_MAX_PASSWORD).decode().strip()
        return cls(
            mail.MailServer(section.host, section.port, section.security, section.sender, section.user, password),
            guard.Rules(config.notices.allow_networks, config.notices.allow_http),
            config.notices.attempts,
            config.notices.seconds,
            config.server.public_url,
        )

    def turn(self, store: Store, now: int) -> int:
        """Send what is due; how many attempts were made."""
        due = store.transact(lambda connection: outbox.claim(connection, now, attempts=self.attempts, limit=BATCH))
        if not due:
            return 0
        with ThreadPoolExecutor(AT_ONCE, "notices") as pool:
            errors = list(pool.map(lambda item: self._attempt(item, now), due))
        outcomes = [(item.number, error) for item, error in zip(due, errors, strict=True)]
        store.transact(lambda connection: outbox.settle(connection, outcomes, now))
        return len(due)

    def _attempt(self, item: Due, now: int) -> str:
        """The error, empty if it was sent."""
        try:
            if item.kind is Kind.WEBHOOK:
                webhook.send(
                    item.target, item.secret, item.number, document(item, self.server), now=now, rules=self.rules,
                    seconds=self.seconds, network=self.network, resolve=self.resolve,
                )  # fmt: skip
            else:
                subject, body = letter(item, self.server)
                mail.send(self.mail, item.target, subject, body, seconds=self.seconds)
        except KmendError as problem:
            last = item.attempt >= self.attempts
            metrics.notices.labels(kind=item.kind.value, outcome="given-up" if last else problem.kind).inc()
            _logger.warning("notice %d, attempt %d: %s", item.number, item.attempt, problem.message)
            return problem.message
        metrics.notices.labels(kind=item.kind.value, outcome="sent").inc()
        return ""


def document(item: Due, server: str) -> bytes:
    """What a webhook gets."""
    tree = {
        "id": item.number,
        "event": item.event.value,
        "server": server,
        "items": [{"subject": one.subject, "body": one.body, "at": one.at} for one in item.digest.items],
        "more": item.digest.more,
    }
    return json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()


def letter(item: Due, server: str) -> tuple[str, str]:
    """Subject and text of an e-mail."""
    items, count = item.digest.items, len(item.digest.items) + item.digest.more
    subject = f"{item.event.value}: {items[0].subject}" + (f" and {count - 1} more" if count > 1 else "")
    lines = [f"{one.subject}\n    {one.body}\n" for one in items]
    if item.digest.more:
        lines.append(f"... and {item.digest.more} more.\n")
    lines.append(f"-- \nkmend-server {server}\n")
    return subject, "\n".join(lines)
