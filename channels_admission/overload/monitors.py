"""Built-in monitors: the lag of the event loop, and the use of file descriptors and CPU.

Each returns a reading, or None if its source is missing. A reading takes microseconds and keeps no descriptor.
"""

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import psutil

from ..runtime.descriptors import spares
from . import kernel
from .kernel import ROOT

WINDOW = 2.0
"""Seconds over which the lag is measured."""
CLOSER = 0.04
"""Seconds of a block that is worth a closer look."""
LOST = 5.0
"""Seconds after which a late tick is taken to be lost; the lag is then unknown until the next tick."""


class Lag:
    """Percentiles of the delay, in seconds, of callbacks that became due on the event loop in the last :data:`WINDOW`.

    The loop calls :meth:`tick` in the interval that it returns: ``every`` seconds while ticks have recently been late,
    otherwise what the caller bears, since each tick wakes an idle worker. A late tick shows that the loop was blocked,
    and that every callback due meanwhile waited until the end of the block. The length of a block is exact within half
    of ``every``; the first block after a calm time may seem shorter.
    """

    def __init__(self, every: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every
        self._clock = clock
        self._due = self._late_at = clock()
        self._blocks: deque[tuple[float, float]] = deque()

    def tick(self, calm: float) -> float:
        """Note how late this tick is, and return the seconds until the next one: ``calm`` while none is late."""
        now = self._clock()
        if block := self._block(now):
            self._blocks.append((now, block))
            if block >= CLOSER:
                self._late_at = now
        pause = self._every if now - self._late_at < WINDOW else calm
        self._due = now + pause
        return pause

    def read(self) -> float | None:
        """The 99th percentile of the delay; None if unknown."""
        return self.percentiles(0.99)[0]

    def percentiles(self, *shares: float) -> tuple[float | None, ...]:
        """The delays at these shares of the window; 1.0 gives the longest. None if unknown.

        A block ends with a tick. Without a tick for :data:`LOST` seconds the delays are unknown: the event loop is not
        blocked then, since it runs this method.
        """
        now = self._clock()
        if now - self._due > LOST:
            return (None,) * len(shares)
        while self._blocks and self._blocks[0][0] <= now - WINDOW:
            self._blocks.popleft()
        blocks = sorted([*(block for _, block in self._blocks), self._block(now)], reverse=True)
        return tuple([_delay_exceeded_for((1 - share) * WINDOW, blocks) for share in shares])

    def _block(self, now: float) -> float:
        """The estimated length of the block that makes a tick at ``now`` late; 0.0 for none."""
        late = now - self._due
        return late + self._every / 2 if late > self._every / 2 else 0.0


def _delay_exceeded_for(seconds: float, blocks: list[float]) -> float:
    """The delay that was exceeded for ``seconds`` of the window; in a block of ``b`` seconds, delays go from 0 to b."""
    for count, block in enumerate(blocks, 1):
        shorter = blocks[count] if count < len(blocks) else 0.0
        delay = (sum(blocks[:count]) - seconds) / count
        if delay >= shorter:
            return max(0.0, min(block, delay))
    return 0.0


class Descriptors:
    """The share of this process's allowed open files that are open.

    Sockets count from the server's accept until they are closed, refused ones included. The server accepts all waiting
    sockets in one turn of the event loop, before any handshake reaches the package. More of them than descriptors left
    cannot be prevented.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._folder = root / "proc/self/fd"
        self._greatest = root / "proc/sys/fs/nr_open"
        self._process = spares.lend(psutil.Process)

    def read(self) -> float | None:
        used, allowed = self.used(), self.allowed()
        return None if used is None or not allowed else used / allowed

    def used(self) -> int | None:
        """Open files; since Linux 6.2 the size of the folder tells it, without a listing."""
        try:
            return os.stat(self._folder).st_size or self._process.num_fds()
        except OSError as error:
            return self.allowed() if error.errno == errno.EMFILE else None
        except (AttributeError, psutil.Error):
            return None

    def step(self) -> int:
        """Open files that raise the reading by 0.01."""
        return max(1, (self.allowed() or 0) // 100)

    def allowed(self) -> int | None:
        """The soft limit; None if unknown or unlimited."""
        return self._limits()[0]

    def ceiling(self) -> int | None:
        """The hard limit, up to which the soft one can be raised; None if unknown or unlimited."""
        return self._limits()[1]

    def greatest(self) -> int | None:
        """The greatest limit that the system allows (``fs.nr_open``)."""
        return kernel.number(self._greatest)

    def _limits(self) -> tuple[int | None, int | None]:
        try:
            soft, hard = self._process.rlimit(psutil.RLIMIT_NOFILE)
        except (AttributeError, psutil.Error):
            return None, None
        return (soft if soft > 0 else None), (hard if hard > 0 else None)


class Cpu:
    """CPU time of this process since the last reading, as a share of one core or, if less, of its container's quota.

    An event loop uses at most one core; threads may raise the share above 1. Each worker of a container measures only
    itself: together they may use up the quota while each is far below 1.
    """

    def __init__(self, root: Path = ROOT, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._clock = clock
        self._at, self._used = clock(), self._spent()

    @cached_property
    def _cores(self) -> float:
        return spares.lend(lambda: min([1.0, *_quotas(self._root)]))

    def read(self) -> float | None:
        share = self.of_a_core()
        return None if share is None else share / self._cores

    def of_a_core(self) -> float | None:
        """The same as a share of one core whatever the quota is, for which no file is read."""
        now, used = self._clock(), self._spent()
        elapsed, spent = now - self._at, used - self._used
        if elapsed <= 0:
            return None
        self._at, self._used = now, used
        return spent / elapsed

    def _spent(self) -> float:
        return time.process_time()


def _quotas(root: Path) -> Iterator[float]:
    """The limits of this process's control groups, in cores."""
    for folder, *_ in kernel.control_groups(root, "cpu"):
        quota, _, period = kernel.text(folder / "cpu.max").partition(" ")
        if not quota:
            quota, period = kernel.text(folder / "cpu.cfs_quota_us"), kernel.text(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):
            yield max(0.001, int(quota) / int(period))
