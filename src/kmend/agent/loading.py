"""The loader: does what the service asks for and what is due, and ends. It has the privileges, and no network.

It believes nothing of what the service says or has fetched: it reads the mirror as a repository, verifies it from the trust root
on, and decides for itself. It stays while a transition, a soak or a module's removal is under way.
"""

from __future__ import annotations

import dataclasses
import logging

from kmend.agent import handover, status
from kmend.agent.configfiles import read_config
from kmend.agent.errors import BusyError, TerminatedError
from kmend.agent.handover import Handled, Request
from kmend.agent.lock import held
from kmend.agent.recalling import update_obeying
from kmend.agent.sentback import go_back
from kmend.agent.session import Host, Session, prepare_folders
from kmend.agent.states import UNDER_WAY, State
from kmend.agent.tending import tend
from kmend.core.errors import KmendError

MAX_SECONDS = 86_400.0
"""It never lives longer; the service asks again while an intent is open."""
PACE_SECONDS = 3.0
"""Between two requests, without the lock: a service that asks without end must not keep an administrator's command out."""
_STEP_SECONDS = 15.0
_NAP_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_logger = logging.getLogger(__name__)


def serve(host: Host) -> None:
    """Deal with requests until there is none and nothing is due.

    Raises:
        SystemProblemError: there is no place for its state.
        TerminatedError: it was asked to stop.
    """
    prepare_folders(host.paths)
    host = dataclasses.replace(host, source=(host.paths.fetched / "mirror").as_uri())
    handled = handover.read_handled(host.paths)
    seen = handled.number if handled is not None else None
    end = host.clock.uptime() + MAX_SECONDS
    earliest = 0.0
    while True:
        request = handover.read_request(host.paths)
        asked = request is not None and request.number != seen
        if asked and host.clock.uptime() < earliest:
            host.clock.sleep(earliest - host.clock.uptime())
            continue
        try:
            problem, due = _step(host, request if asked else None)
        except BusyError as busy:
            problem, due = busy, host.clock.uptime() + _RETRY_SECONDS
        else:
            if asked and request is not None:
                seen = request.number
                earliest = host.clock.uptime() + PACE_SECONDS
                _note(host, seen, problem)
        if due is None or host.clock.uptime() >= end:
            if not _newer(host, seen):
                return
            continue
        # What is overdue cannot be done yet (a module in use, a transition): no hurry then.
        left = due - host.clock.uptime()
        wake = host.clock.uptime() + (min(left, _STEP_SECONDS) if left > 0 else _STEP_SECONDS)
        while host.clock.uptime() < wake and not (_newer(host, seen) and not isinstance(problem, BusyError)):
            host.clock.sleep(min(_NAP_SECONDS, max(0.01, wake - host.clock.uptime())))


def _newer(host: Host, seen: int | None) -> bool:
    request = handover.read_request(host.paths)
    return request is not None and request.number != seen


def _step(host: Host, request: Request | None) -> tuple[KmendError | None, float | None]:
    """Do what is due, and what is asked for; what went wrong, and the uptime of what is due next."""
    try:
        config = read_config(host.paths.config)
        with held(host.paths.run / "lock", "service", host.clock):
            session = Session(host, config, _say)
            session.announce = lambda: status.announce(session)
            problem: KmendError | None = None
            try:
                session.recover()
                _tend(session)
                if request is not None and request.back:
                    problem = _go_back(session, request.back)
                if request is not None and request.update:
                    problem = _update(session) or problem
            finally:
                if session.journal.state in UNDER_WAY:
                    session.journal.come_to_rest(State.IDLE)
                _publish(session)
            return problem, session.next_deadline()
    except (BusyError, TerminatedError):
        raise
    except KmendError as caught:
        _logger.warning("%s", caught.diagnosis())
        return caught, None


def _tend(session: Session) -> None:
    try:
        tend(session)
    except TerminatedError:
        raise
    except KmendError as problem:
        _logger.warning("%s", problem.diagnosis())


def _update(session: Session) -> KmendError | None:
    try:
        result = update_obeying(session, None)
    except TerminatedError:
        raise
    except KmendError as problem:
        _logger.warning("%s", problem.diagnosis())
        return problem
    if result.applied is not None or result.recalled:
        _say(result.message)
    return None


def _go_back(session: Session, level: int) -> KmendError | None:
    try:
        _say(go_back(session, level))
    except TerminatedError:
        raise
    except KmendError as problem:
        _logger.warning("%s", problem.diagnosis())
        return problem
    return None


def _publish(session: Session) -> None:
    try:
        status.publish(session, status.describe(session, repository=session.config.repository.url))
    except KmendError as problem:
        _logger.warning("cannot publish the state: %s", problem.message)


def _note(host: Host, number: int, problem: KmendError | None) -> None:
    try:
        handover.write_handled(
            host.paths,
            Handled(number, problem.kind, problem.message[: handover.MAX_TEXT]) if problem else Handled(number),
        )
    except KmendError as failure:
        _logger.warning("%s", failure.message)


def _say(message: str) -> None:
    _logger.warning("%s", message)
