"""What is logged: one JSON object a line on standard error, with the number of the request that it belongs to, and no secret.

Nothing logs a secret on purpose; that a message from below (a driver's, a library's) might quote one is what `without_secrets` is
for. It knows this server's own secrets by their form, and passwords in URLs.
"""

from __future__ import annotations

import contextvars
import datetime
import json
import logging
import re
import sys
import traceback

from kmend.server.config import LogSection

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
"""Of the request that is being answered; empty outside of one."""

_CHATTY = (
    "uvicorn",
    "uvicorn.error",
    "uvicorn.access",
    "alembic",
    "urllib3",
    "sqlalchemy",
    "asyncio",
    "tuf",
    "securesystemslib",
)
"""Libraries whose everyday remarks help nobody here."""
_MAX_MESSAGE = 4000
_SECRETS = re.compile(
    r"kmend_[a-z]{3,12}_[a-z2-7]{16,}"  # tokens, enrolment keys, webhook secrets
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"  # user:password@ in a URL
    r"|(?i:(?<=bearer )[A-Za-z0-9._~+/=-]+)"
    r"|\b[0-9a-f]{128}\b"  # hosts' signatures
)
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_FIELDS = ("method", "path", "status", "seconds", "client", "actor", "problem", "duty")
"""What a record may carry besides its message (`extra`)."""


def without_secrets(text: str) -> str:
    """The text with what looks like a secret taken out."""
    return _SECRETS.sub("***", text)


def set_up(section: LogSection) -> None:
    """Send everything that is logged to standard error, in the form that the configuration wants."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if section.format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[section.level])
    for name in _CHATTY:
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
        logger.setLevel(logging.WARNING)


class JsonFormatter(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        tree: dict[str, object] = {
            "at": datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        if found := request_id.get():
            tree["request"] = found
        tree |= _extra(record)
        if record.exc_info:
            tree["traceback"] = without_secrets("".join(traceback.format_exception(*record.exc_info)))[-_MAX_MESSAGE:]
        return json.dumps(tree, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """For people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        told = "".join(f" {name}={value}" for name, value in _extra(record).items())
        line = f"{record.levelname.lower()}: {_message(record)}{told}"
        if record.exc_info:
            line += "\n" + without_secrets("".join(traceback.format_exception(*record.exc_info)))
        return line


def _message(record: logging.LogRecord) -> str:
    text = without_secrets(record.getMessage())[:_MAX_MESSAGE]
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _extra(record: logging.LogRecord) -> dict[str, object]:
    found = {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
    return {name: without_secrets(value) if isinstance(value, str) else value for name, value in found.items()}
