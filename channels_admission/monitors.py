"""What a worker feels: the lag of its event loop, and its use of memory, file descriptors and CPU.

Each gives a reading, or None where its source is missing: unknown is never zero. Clocks and
sources are arguments. A reading takes microseconds and opens no file descriptor that is kept.
"""

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil

from .reserve import is_exhausted, reserve

WINDOW = 2.0
"""Seconds over which the lag is read."""
LOST = 5.0
"""Seconds after which a tick that has not come is taken to be lost; the lag is unknown until one comes."""
NO_LIMIT = 1 << 60
"""Bytes; a limit of a control group from here on is none (version 1 writes a huge number)."""

ROOT = Path("/")


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


@dataclass(frozen=True, slots=True)
class Use:
    """Memory in use, in bytes, where a limit of its own holds: a process, a control group, or the machine."""

    used: int
    """Without page cache that can be dropped at once."""
    allowed: int
    firm: int
    """Without any memory that the kernel can take back, be it only after writing to a disk."""
    is_shared: bool = True
    """Whether other processes may use it as well."""


class Memory:
    """The share used of the memory there is: of ``limit`` bytes by this process, and of its container or machine.

    The tightest of them counts. The machine's share counts unless the container has a limit that is
    below the machine's memory. Of a control group, clean page cache and reclaimable slab are not
    counted as used, as the kernel does not count them in ``MemAvailable`` of the machine.
    """

    def __init__(self, limit: int | None = None, root: Path = ROOT) -> None:
        self._limit = limit
        self._root = root
        self._process = psutil.Process()
        self._mapped = reserve.lend(self._of_process)["RssFile"] if limit else 0
        self.uses: tuple[Use, ...] = ()
        """What the last reading is made of."""

    @cached_property
    def _folders(self) -> tuple[tuple[Path, bool], ...]:
        # Found at the first reading, which is not made on an event loop.
        return tuple(_control_groups(self._root, "memory"))

    def read(self) -> float | None:
        self.uses = reserve.lend(self.measure)
        return max((use.used / use.allowed for use in self.uses), default=None)

    def total(self) -> int:
        """The bytes there are: the least of ``limit``, the container's and the machine's."""
        groups = (allowed for *_, allowed in self._groups())
        return min([self._limit or NO_LIMIT, *groups, int(psutil.virtual_memory().total)])

    def measure(self) -> tuple[Use, ...]:
        """Every use that has a limit and can be read."""
        machine, groups = psutil.virtual_memory(), list(self._groups())
        uses = [self._use_of_process(self._limit)] if self._limit else []
        found = (self._use_of_group(*group) for group in groups)
        uses += [use for use in found if use is not None]
        if all(allowed >= machine.total for *_, allowed in groups):
            used = int(machine.total - machine.available)
            uses.append(Use(used, machine.total, used))
        return tuple(uses)

    def _use_of_process(self, limit: int) -> Use:
        """Of what is mapped from files, as much is firm as there was at the start: the program and its libraries."""
        held = self._of_process()
        droppable = max(0, held["RssFile"] - self._mapped)
        return Use(held["VmRSS"], limit, held["VmRSS"] - droppable, is_shared=False)

    def _of_process(self) -> dict[str, int]:
        """``VmRSS`` and ``RssFile`` of this process, in bytes."""
        told = _statistics(self._root / "proc/self/status")
        if "VmRSS" in told and "RssFile" in told:
            return {name: 1024 * told[name] for name in ("VmRSS", "RssFile")}
        return {"VmRSS": self._process.memory_info().rss, "RssFile": 0}

    def _groups(self) -> Iterator[tuple[Path, bool, int]]:
        """Folder, version 2 or not, and allowed bytes of each control group around this process that has a limit."""
        for folder, is_v2 in self._folders:
            allowed = _number(folder / ("memory.max" if is_v2 else "memory.limit_in_bytes"))
            if allowed and allowed < NO_LIMIT:
                yield folder, is_v2, allowed

    def _use_of_group(self, folder: Path, is_v2: bool, allowed: int) -> Use | None:
        """None where it cannot be read; none of it is firm where its parts cannot.

        The lists ``active_file`` and ``inactive_file`` hold neither shared memory and tmpfs, which are on
        those of anonymous memory, nor what is locked, which is unevictable. Their dirty pages have to be
        written first. Version 1 counts the kernel's memory and does not tell which slab is reclaimable.
        """
        held = _number(folder / ("memory.current" if is_v2 else "memory.usage_in_bytes"))
        if held is None:
            return None
        told, total = _statistics(folder / "memory.stat"), "" if is_v2 else "total_"
        files = told.get(f"{total}active_file", 0) + told.get(f"{total}inactive_file", 0)
        names = ("file_dirty", "file_writeback") if is_v2 else ("total_dirty", "total_writeback")
        unwritten = min(files, sum(told.get(name, 0) for name in names))
        slab = told.get("slab_reclaimable", 0)
        kernel = slab if is_v2 else _number(folder / "memory.kmem.usage_in_bytes") or 0
        firm = held - files - kernel if told else 0
        return Use(max(0, held - files + unwritten - slab), allowed, max(0, firm))


class Descriptors:
    """The share of the open files allowed to this process that are open.

    A refused client counts as well until its socket is closed, and so does one that the server has
    accepted and not read from yet. The server accepts all who wait at one turn of the event loop,
    and nobody is asked before: a crowd that has more of them at one turn than are left fits nowhere.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._folder = root / "proc/self/fd"
        self._greatest = root / "proc/sys/fs/nr_open"
        self._process = psutil.Process()

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
        return _number(self._greatest)

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
    for folder, *_ in _control_groups(root, "cpu"):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if not quota:
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):
            yield max(0.001, int(quota) / int(period))


def _control_groups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """The control groups this process is in, from its own outwards: folder, and whether it is of version 2."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / controller
        else:
            continue
        folder = top / path.lstrip("/")
        while True:
            yield folder, not controllers
            if folder == top:
                break
            folder = folder.parent


def _text(path: Path) -> str:
    """What stands in a file, nothing where there is none; :exc:`OSError` only where no file can be opened."""
    try:
        return path.read_text().strip()
    except OSError as error:
        if is_exhausted(error):
            raise
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None


def _statistics(path: Path) -> dict[str, int]:
    """The numbers in a file of the kernel's with a name and a number in each line, a unit left out."""
    fields = (line.split() for line in _text(path).splitlines())
    return {field[0].rstrip(":"): int(field[1]) for field in fields if len(field) > 1 and field[1].isdecimal()}
