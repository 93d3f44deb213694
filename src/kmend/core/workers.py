"""Processes that work through a list of jobs, and end with the process that started them, however it ends."""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress

from kmend.core import interruption

_PR_SET_PDEATHSIG = 1
"""`include/uapi/linux/prctl.h`"""
_PATIENCE = 10.0


@contextmanager
def worker_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes. If it is left by an exception, waiting jobs are dropped and running ones are interrupted."""
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        yield pool
    except BaseException:
        workers = multiprocessing.active_children()
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(_PATIENCE)
            if worker.is_alive():
                worker.kill()
        raise
    pool.shutdown()


def _begin() -> None:
    """In each process: the terminal's Ctrl-C is the starting process's affair, which tells us by SIGTERM; so does its death."""
    interruption.watch(at_last=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
