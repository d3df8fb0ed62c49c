"""What the connections of a worker use: the record of its footprint. Pure."""

from ..core.readings import Footprint, Usage
from .memory import Use

FEW = 32
"""Connections up to which a worker has few: those after which its first work has loaded all code."""
NEAR = 0.9
"""The share of the most connections so far from which there are about as many.

Memory that a connection takes later, as with its messages, counts then. After connections have left it does not: the
allocator keeps what they have freed.
"""


class Record:
    """The usage of a process with its first few connections, and with the most."""

    def __init__(self) -> None:
        self._now = self._low = self._high = Usage(0, 0, 0)

    def note(self, connections: int, memory: int, files: int) -> None:
        """Note one look at the process; memory in bytes."""
        self._now = Usage(connections, memory, files)
        if connections >= NEAR * self._high.connections:
            self._high = Usage(*map(max, self._high, self._now))
            if connections <= FEW or not self._low.memory:
                self._low = self._high

    def footprint(self, uses: tuple[Use, ...], files_limit: int, implementation: str) -> Footprint | None:
        """The footprint within the nearest of the limits that others share; None while it is unknown."""
        shared = [use for use in uses if use.is_shared]
        if not self._now.memory or not shared:
            return None
        nearest = max(shared, key=lambda use: use.used / use.allowed)
        return Footprint(self._now, self._low, self._high, nearest.allowed, nearest.used, files_limit, implementation)
