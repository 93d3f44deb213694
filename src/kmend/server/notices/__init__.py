"""Telling people, away from the server: webhooks and e-mail.

Whoever has something to tell calls `post` inside its own transaction; it goes into the outbox, so that nothing is told that did
not happen, and nothing that happened is left untold. `channels` says who is told of what, `outbox` keeps what is to be sent and
merges what comes in quick succession, `sending` sends, `webhook` and `mail` know how, `guard` keeps webhooks out of this
network.
"""

from kmend.server.notices.events import Event
from kmend.server.notices.outbox import post

__all__ = ["Event", "post"]
