"""What a worker feels: the lag of its event loop, and its use of file descriptors and CPU.

Each gives a reading, or None where its source is missing: unknown is never zero. Clocks and
sources are arguments. A reading takes microseconds and opens no file descriptor that is kept.
"""

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import psutil

from ..runtime.reserve import reserve
from . import kernel
from .kernel import ROOT

WINDOW = 2.0
"""Seconds over which the lag is read."""
LOST = 5.0
"""Seconds after which a tick that has not come is taken to be lost; the lag is unknown until one comes."""


class Lag:
    """The delay, in seconds, that a share of the moments of the last :data:`WINDOW` would have met on the event loop.

    The loop calls :meth:`tick` as it is told: every ``every`` seconds while it is late now and then,
    every ``calm`` seconds while it is not, since each tick wakes an idle worker. A tick that comes late
    shows that the loop was blocked, and whatever had become due at a moment in between waited until
    then. Such a block is known within half of ``every``; the first one after a calm may seem shorter.
    """

    def __init__(self, every: float, calm: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every
        self._calm = calm
        self._clock = clock
        self._due = self._late_at = clock()
        self._blocks: deque[tuple[float, float]] = deque()

    def tick(self) -> float:
        """Note how late it is, and say in how many seconds to tick again."""
        now = self._clock()
        if block := self._block(now):
            self._blocks.append((now, block))
            self._late_at = now
        pause = self._every if now - self._late_at < WINDOW else self._calm
        self._due = now + pause
        return pause

    def read(self) -> float | None:
        """The delay that 99 of 100 moments stayed under; None where it is unknown."""
        return self.percentiles(0.99)[0]

    def percentiles(self, *shares: float) -> tuple[float | None, ...]:
        """The delays that these shares of the moments stayed under; 1.0 gives the longest. None where unknown.

        A block is over when a tick comes. Without one for :data:`LOST` seconds, nothing is known: whoever asks runs on
        the event loop, and so do the ticks, which come before most of what waits for a block to end.
        """
        now = self._clock()
        if now - self._due > LOST:
            return (None,) * len(shares)
        while self._blocks and self._blocks[0][0] <= now - WINDOW:
            self._blocks.popleft()
        blocks = sorted([*(block for _, block in self._blocks), self._block(now)], reverse=True)
        return tuple([_delay_passed_by((1 - share) * WINDOW, blocks) for share in shares])

    def _block(self, now: float) -> float:
        """The length of the block that makes a tick at ``now`` late; 0.0 for none. It began at some time before."""
        late = now - self._due
        return late + self._every / 2 if late > self._every / 2 else 0.0


def _delay_passed_by(moments: float, blocks: list[float]) -> float:
    """The delay that so many seconds' worth of moments exceeded; in a block of ``b`` their delays fill 0 to b."""
    for count, block in enumerate(blocks, 1):
        shorter = blocks[count] if count < len(blocks) else 0.0
        delay = (sum(blocks[:count]) - moments) / count
        if delay >= shorter:
            return max(0.0, min(block, delay))
    return 0.0


class Descriptors:
    """The share of the open files allowed to this process that are open.

    A refused client counts as well until its socket is closed, and so does one that the server has
    accepted and not read from yet. The server accepts all who wait at one turn of the event loop,
    and nobody is asked before: a crowd that has more of them at one turn than are left fits nowhere.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._folder = root / "proc/self/fd"
        self._greatest = root / "proc/sys/fs/nr_open"
        self._process = reserve.lend(psutil.Process)

    def read(self) -> float | None:
        used, allowed = self.used(), self.allowed()
        return None if used is None or not allowed else used / allowed

    def used(self) -> int | None:
        """How many are open; the size of the folder, which Linux has told since 6.2, needs no look at each."""
        try:
            return os.stat(self._folder).st_size or self._process.num_fds()
        except OSError as error:
            return self.allowed() if error.errno == errno.EMFILE else None
        except (AttributeError, psutil.Error):
            return None

    def step(self) -> int:
        """How many more open files raise the reading by a hundredth."""
        return max(1, (self.allowed() or 0) // 100)

    def allowed(self) -> int | None:
        """The soft limit; None where it is unknown, or none."""
        return self._limits()[0]

    def ceiling(self) -> int | None:
        """The hard limit, which the soft one cannot pass; None where it is unknown, or none."""
        return self._limits()[1]

    def greatest(self) -> int | None:
        """What no limit of any process can pass (``fs.nr_open``)."""
        return kernel.number(self._greatest)

    def _limits(self) -> tuple[int | None, int | None]:
        try:
            soft, hard = self._process.rlimit(psutil.RLIMIT_NOFILE)
        except (AttributeError, psutil.Error):
            return None, None
        return (soft if soft > 0 else None), (hard if hard > 0 else None)


class Cpu:
    """CPU time of this process since the last reading, as a share of one core or, if less, of its container's quota.

    One core is all that an event loop can use; threads may take the share above 1. Several workers in
    one container each see their own part of its quota: all of it may be used while each is far below 1.
    """

    def __init__(self, root: Path = ROOT, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._clock = clock
        self._at, self._used = clock(), self._spent()

    @cached_property
    def _cores(self) -> float:
        return reserve.lend(lambda: min([1.0, *_quotas(self._root)]))

    def read(self) -> float | None:
        now, used = self._clock(), self._spent()
        elapsed, spent = now - self._at, used - self._used
        if elapsed <= 0:
            return None
        self._at, self._used = now, used
        return spent / (elapsed * self._cores)

    def _spent(self) -> float:
        return time.process_time()


def _quotas(root: Path) -> Iterator[float]:
    """Cores that each control group around this process may use, where limited."""
    for folder, *_ in kernel.control_groups(root, "cpu"):
        quota, _, period = kernel.text(folder / "cpu.max").partition(" ")
        if not quota:
            quota, period = kernel.text(folder / "cpu.cfs_quota_us"), kernel.text(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):
            yield max(0.001, int(quota) / int(period))
