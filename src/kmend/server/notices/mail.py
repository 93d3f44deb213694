"""Sending by e-mail, through the mail server of the configuration."""

from __future__ import annotations

import email.utils
import smtplib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from email.message import EmailMessage

from kmend.server.notices.errors import DeliveryError


@dataclass(frozen=True, slots=True)
class MailServer:
    """How e-mail is sent.

    Attributes:
        security: `starttls`, `tls` or `none`.
        password: for `user`; empty for no login.
    """

    host: str
    port: int
    security: str
    sender: str
    user: str = ""
    password: str = ""


def is_address(text: str) -> bool:
    """Whether that is one e-mail address, without a name and without anything that a header could be broken with."""
    name, _, domain = text.rpartition("@")
    plain = text.isascii() and text.isprintable() and not set(text) & set(' <>,;:\\"()[]') and len(text) <= 254
    return plain and bool(name) and "." in domain.strip(".") and "@" not in name


def send(
    server: MailServer,
    to: str,
    subject: str,
    body: str,
    *,
    seconds: float,
    context: Callable[[], ssl.SSLContext] = ssl.create_default_context,
) -> None:
    """Send one message.

    Args:
        seconds: limit for each step.

    Raises:
        DeliveryError: the mail server is not configured, not there, or refuses.
    """
    if not server.host or not server.sender:
        raise DeliveryError("no mail server is configured", hint="set [mail] host and sender in the configuration")
    message = EmailMessage()
    message["From"] = server.sender
    message["To"] = to
    message["Subject"] = f"[kmend] {subject}"
    message["Date"] = email.utils.localtime()
    message["Message-ID"] = email.utils.make_msgid("kmend", domain=server.sender.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(body)
    try:
        connection = (
            smtplib.SMTP_SSL(server.host, server.port, timeout=seconds, context=context())
            if server.security == "tls"
            else smtplib.SMTP(server.host, server.port, timeout=seconds)
        )
        with connection:
            if server.security == "starttls":
                connection.starttls(context=context())
            if server.user:
                connection.login(server.user, server.password)
            connection.send_message(message)
    except ssl.SSLError as problem:
        raise DeliveryError(f"the mail server's TLS: {problem.reason or 'not usable'}") from None
    except smtplib.SMTPAuthenticationError as problem:
        # Its text may repeat what was sent.
        raise DeliveryError(f"the mail server refuses the login (SMTP {problem.smtp_code})") from None
    except (smtplib.SMTPException, OSError, ValueError) as problem:
        code = getattr(problem, "smtp_code", None)
        told = f"SMTP {code}" if code else getattr(problem, "strerror", None) or type(problem).__name__
        raise DeliveryError(f"the mail server did not take the message: {told}") from None
