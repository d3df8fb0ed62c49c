"""Memory available to a worker, and how much of it is used."""

import math
import mmap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil

from ..runtime.descriptors import spares
from . import kernel
from .kernel import ROOT

NO_LIMIT = 1 << 60
"""Bytes from which the limit of a control group stands for none (version 1 writes a huge number)."""
LIMITS_LAST = 10.0
"""Seconds for which the limits of control groups are taken to be as they were read, since that takes long."""
READ = 200
"""Most bytes of a file of a few numbers."""


@dataclass(frozen=True, slots=True)
class Use:
    """Memory of a process, a control group or the machine, in bytes, with its limit."""

    used: int
    """Used memory, without page cache that can be dropped at once."""
    allowed: int
    firm: int
    """Used memory, without any that the kernel can reclaim, even by writing to a disk."""
    is_shared: bool = True
    """Whether other processes use it as well."""


class Memory:
    """The share of memory used: of ``limit`` by this process, or of its container or the machine if that is greater.

    The machine counts unless the container has a limit below the machine's memory. Clean page cache and reclaimable
    slab of a control group do not count as used, as in the machine's ``MemAvailable``.
    """

    def __init__(
        self, limit: int | None = None, root: Path = ROOT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._root = root
        self._statm = root / "proc/self/statm"
        self._clock = clock
        self._groups: tuple[tuple[Path, bool, int], ...] = ()
        """Each control group of this process with a limit: folder, whether it is version 2, and allowed bytes."""
        self._limits_until = -math.inf
        self._process = spares.lend(psutil.Process)
        self._resident = 0
        self._mapped = spares.lend(self._of_process)["RssFile"] if limit else 0
        self.last: tuple[tuple[Use, ...], int] = (), 0
        """The uses behind the last reading, and the resident memory of this process at that time."""

    @cached_property
    def _folders(self) -> tuple[tuple[Path, bool], ...]:
        return tuple(kernel.control_groups(self._root, "memory"))

    def read(self) -> float | None:
        resident = self.resident()
        uses = spares.lend(self.measure)
        self.last = uses, resident
        return max((use.used / use.allowed for use in uses), default=None)

    def resident(self) -> int:
        """Resident bytes of this process; if they cannot be read, for want of a descriptor say, the last known."""
        with suppress(OSError, psutil.Error):
            self._resident = _resident(self._statm) or self._process.memory_info().rss
        return self._resident

    def total(self) -> int:
        """Bytes available: the least of ``limit``, the container's limit and the machine's memory."""
        groups = (allowed for *_, allowed in self._limited())
        return min([self._limit or NO_LIMIT, *groups, int(psutil.virtual_memory().total)])

    def measure(self) -> tuple[Use, ...]:
        """Every readable use with a limit."""
        machine, groups = psutil.virtual_memory(), self._limited()
        uses = [self._use_of_process(self._limit)] if self._limit else []
        found = (self._use_of_group(*group) for group in groups)
        uses += [use for use in found if use is not None]
        if all(allowed >= machine.total for *_, allowed in groups):
            used = int(machine.total - machine.available)
            uses.append(Use(used, machine.total, used))
        return tuple(uses)

    def _use_of_process(self, limit: int) -> Use:
        """Of memory mapped from files, as much is firm as was mapped at the start: the program and its libraries."""
        held = self._of_process()
        droppable = max(0, held["RssFile"] - self._mapped)
        return Use(held["VmRSS"], limit, held["VmRSS"] - droppable, is_shared=False)

    def _of_process(self) -> dict[str, int]:
        """``VmRSS`` and ``RssFile`` of this process, in bytes."""
        found = kernel.statistics(self._root / "proc/self/status")
        if "VmRSS" in found and "RssFile" in found:
            return {name: 1024 * found[name] for name in ("VmRSS", "RssFile")}
        return {"VmRSS": self.resident(), "RssFile": 0}

    def _limited(self) -> tuple[tuple[Path, bool, int], ...]:
        """The control groups with a limit."""
        now = self._clock()
        if now >= self._limits_until:
            self._groups, self._limits_until = tuple(self._read_limits()), now + LIMITS_LAST
        return self._groups

    def _read_limits(self) -> Iterator[tuple[Path, bool, int]]:
        for folder, is_v2 in self._folders:
            allowed = kernel.number(folder / ("memory.max" if is_v2 else "memory.limit_in_bytes"))
            if allowed and allowed < NO_LIMIT:
                yield folder, is_v2, allowed

    def _use_of_group(self, folder: Path, is_v2: bool, allowed: int) -> Use | None:
        """None if the group cannot be read; nothing is firm if its ``memory.stat`` cannot.

        ``active_file`` and ``inactive_file`` contain neither shared memory and tmpfs, which are anonymous, nor locked
        pages, which are unevictable. Their dirty pages must be written before they can be dropped. Version 1 includes
        the kernel's memory, and does not tell which slab is reclaimable.
        """
        held = kernel.number(folder / ("memory.current" if is_v2 else "memory.usage_in_bytes"))
        if held is None:
            return None
        stat, total = kernel.statistics(folder / "memory.stat"), "" if is_v2 else "total_"
        files = stat.get(f"{total}active_file", 0) + stat.get(f"{total}inactive_file", 0)
        names = ("file_dirty", "file_writeback") if is_v2 else ("total_dirty", "total_writeback")
        unwritten = min(files, sum(stat.get(name, 0) for name in names))
        slab = stat.get("slab_reclaimable", 0)
        unknown = slab if is_v2 else kernel.number(folder / "memory.kmem.usage_in_bytes") or 0
        firm = held - files - unknown if stat else 0
        return Use(max(0, held - files + unwritten - slab), allowed, max(0, firm))


def _resident(statm: Path) -> int | None:
    """Resident bytes from ``statm``. Unbuffered, since it is read on event loops."""
    with suppress(FileNotFoundError), open(statm, "rb", buffering=0) as file:
        return int(file.read(READ).split()[1]) * mmap.PAGESIZE
    return None
