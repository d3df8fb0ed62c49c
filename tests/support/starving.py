"""A process that gets a small share of a processor, by SIGSTOP and SIGCONT; Linux only."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TICK = 0.001
MOST = 0.005
"""Seconds of a processor that are saved up at the most, as in a control group."""
LEAST = 0.002
"""Those with which the process goes on."""


def used(pid: int) -> float:
    """Seconds of a processor that the process has used."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@contextmanager
def starved(pid: int, share: float) -> Iterator[None]:
    over = threading.Event()
    thread = threading.Thread(target=_starve, args=(pid, share, over))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _starve(pid: int, share: float, over: threading.Event) -> None:
    credit, at, before, runs = MOST, time.monotonic(), used(pid), True
    try:
        while not over.wait(TICK):
            now, cost = time.monotonic(), used(pid)
            credit = min(MOST, credit + share * (now - at)) - (cost - before)
            at, before = now, cost
            if runs is (credit < (0 if runs else LEAST)):
                runs = not runs
                os.kill(pid, signal.SIGCONT if runs else signal.SIGSTOP)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
