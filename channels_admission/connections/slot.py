"""What an admitted connection holds: a slot of a pool, and where it has several, one of each."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..core.protocol import Claimed


class Slot:
    """The right to hold one open connection in a pool, given back once by :meth:`release`."""

    __slots__ = ("claims", "group", "is_authenticated", "limiter")

    def __init__(self, limiter: Any, claims: Claimed = (), group: int = 0) -> None:
        self.limiter = limiter
        """The :class:`~.limiter.limiter.Limiter` it came from, or None after the release."""
        self.claims = claims
        """What it is counted under, in a pool that has quotas."""
        self.group = group
        """The place of its class."""
        self.is_authenticated = False
        """Whether its client is known, as far as anybody has said."""

    @property
    def pool(self) -> str | None:
        """The name of the pool, or None after the release."""
        return self.limiter.pool.name if self.limiter else None

    def release(self) -> None:
        """Give the slot back. Synchronous, repeatable, and cannot fail; the ledger hears of it shortly."""
        limiter, self.limiter = self.limiter, None
        if limiter is not None:
            limiter.take_back(self)

    def authenticated(self) -> None:
        """Count its connection no longer among those who have yet to authenticate. Synchronous and repeatable."""
        self.is_authenticated = True
        if self.limiter is not None:
            self.limiter.acquaint(self)


class Held(Mapping[str, Slot]):
    """The slots that one connection holds, by the names of their pools, in less memory than a dict takes.

    Those that were released are among them no more.
    """

    __slots__ = ("_first", "_others")

    def __init__(self, slot: Slot, others: Iterable[Slot] = ()) -> None:
        self._first = slot
        self._others = tuple(others)

    def __getitem__(self, pool: str) -> Slot:
        for slot in (self._first, *self._others):
            if slot.pool == pool:
                return slot
        raise KeyError(pool)

    def __iter__(self) -> Iterator[str]:
        return (slot.pool for slot in (self._first, *self._others) if slot.pool is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)
