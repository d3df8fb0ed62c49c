"""The memory there is for a worker, and how much of it is used."""

import mmap
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil

from ..runtime.reserve import reserve
from . import kernel
from .kernel import ROOT

NO_LIMIT = 1 << 60
"""Bytes; a limit of a control group from here on is none (version 1 writes a huge number)."""
READ = 200
"""Bytes; a file of a few numbers is not longer."""


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
        self._process = reserve.lend(psutil.Process)
        self._resident = 0
        self._mapped = reserve.lend(self._of_process)["RssFile"] if limit else 0
        self.last: tuple[tuple[Use, ...], int] = (), 0
        """What the last reading is made of, and the resident memory of this process then."""

    @cached_property
    def _folders(self) -> tuple[tuple[Path, bool], ...]:
        # Found at the first reading, which is not made on an event loop.
        return tuple(kernel.control_groups(self._root, "memory"))

    def read(self) -> float | None:
        resident = self.resident()
        uses = reserve.lend(self.measure)
        self.last = uses, resident
        return max((use.used / use.allowed for use in uses), default=None)

    def resident(self) -> int:
        """Bytes of this process that are in memory, or were when they could last be read: without an open file, say."""
        with suppress(OSError, psutil.Error):
            self._resident = _resident(self._root / "proc/self/statm") or self._process.memory_info().rss
        return self._resident

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
        told = kernel.statistics(self._root / "proc/self/status")
        if "VmRSS" in told and "RssFile" in told:
            return {name: 1024 * told[name] for name in ("VmRSS", "RssFile")}
        return {"VmRSS": self.resident(), "RssFile": 0}

    def _groups(self) -> Iterator[tuple[Path, bool, int]]:
        """Folder, version 2 or not, and allowed bytes of each control group around this process that has a limit."""
        for folder, is_v2 in self._folders:
            allowed = kernel.number(folder / ("memory.max" if is_v2 else "memory.limit_in_bytes"))
            if allowed and allowed < NO_LIMIT:
                yield folder, is_v2, allowed

    def _use_of_group(self, folder: Path, is_v2: bool, allowed: int) -> Use | None:
        """None where it cannot be read; none of it is firm where its parts cannot.

        The lists ``active_file`` and ``inactive_file`` hold neither shared memory and tmpfs, which are on
        those of anonymous memory, nor what is locked, which is unevictable. Their dirty pages have to be
        written first. Version 1 counts the kernel's memory and does not tell which slab is reclaimable.
        """
        held = kernel.number(folder / ("memory.current" if is_v2 else "memory.usage_in_bytes"))
        if held is None:
            return None
        told, total = kernel.statistics(folder / "memory.stat"), "" if is_v2 else "total_"
        files = told.get(f"{total}active_file", 0) + told.get(f"{total}inactive_file", 0)
        names = ("file_dirty", "file_writeback") if is_v2 else ("total_dirty", "total_writeback")
        unwritten = min(files, sum(told.get(name, 0) for name in names))
        slab = told.get("slab_reclaimable", 0)
        unknown = slab if is_v2 else kernel.number(folder / "memory.kmem.usage_in_bytes") or 0
        firm = held - files - unknown if told else 0
        return Use(max(0, held - files + unwritten - slab), allowed, max(0, firm))


def _resident(statm: Path) -> int | None:
    """Read on event loops, so without what else it takes to open a file of text."""
    with suppress(FileNotFoundError), open(statm, "rb", buffering=0) as file:
        return int(file.read(READ).split()[1]) * mmap.PAGESIZE
    return None
