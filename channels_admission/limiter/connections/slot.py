"""The slots of an admitted connection, one for each of its pools."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from ...conf import PoolSettings
from ...core.protocol import Claimed, Refusal
from ...quotas.requests import Rules
from .asgi import Receive, Scope, Send

if TYPE_CHECKING:
    from .connection import Connection

KEY = "admission"
"""The key of a connection's slots in its scope, a :class:`Held`."""


class Owner(Protocol):
    """The part of a limiter that its slots and connections use."""

    pool: PoolSettings
    rules: Rules | None

    def take_back(self, slot: "Slot") -> None:
        """Count a slot as released."""

    def acquaint(self, slot: "Slot") -> None:
        """Count the slot's connection as authenticated."""

    async def claim(self, slot: "Slot", scope: Scope) -> Refusal | None:
        """Count the slot under the keys and the class that the scope has now, or refuse it."""

    async def refuse(self, refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a refusal to the client."""

    def forget(self, connection: "Connection") -> None:
        """Release the connection's slot."""

    def end_outlived(self, connection: "Connection") -> None:
        """End a connection whose application has run for too long after its client has left."""

    def report_soon(self) -> None:
        """Make the next report due soon."""

    def report_when_quiet(self) -> None:
        """Make the next report due once no more handshakes and releases come."""


class Slot:
    """The right to hold one open connection in a pool, given back once by :meth:`release`."""

    __slots__ = ("claims", "class_index", "is_authenticated", "limiter")

    def __init__(self, limiter: Owner, claims: Claimed = (), class_index: int = 0) -> None:
        self.limiter: Owner | None = limiter
        """The :class:`~.limiter.limiter.Limiter` of the slot, or None after the release."""
        self.claims = claims
        """The keys under which the slot is counted, in a pool with quotas."""
        self.class_index = class_index
        """The index of the connection's class."""
        self.is_authenticated = False
        """Whether :meth:`authenticated` was called, or the scope said so."""

    @property
    def pool(self) -> str | None:
        """The name of the pool, or None after the release."""
        return self.limiter.pool.name if self.limiter else None

    def release(self) -> None:
        """Give the slot back. Synchronous and idempotent, and never fails; the ledger gets a report shortly after."""
        limiter, self.limiter = self.limiter, None
        if limiter is not None:
            limiter.take_back(self)

    def authenticated(self) -> None:
        """Count the connection as authenticated from now on. Synchronous and idempotent."""
        self.is_authenticated = True
        if self.limiter is not None:
            self.limiter.acquaint(self)


class Held(Mapping[str, Slot]):
    """The unreleased slots of one connection by the names of their pools, in less memory than a dict."""

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


class HeldWithTicket(Held):
    """The same, with a ticket for another pool further in, which few connections have."""

    __slots__ = ("ticket",)

    def __init__(self, slot: Slot, others: Iterable[Slot], ticket: str) -> None:
        super().__init__(slot, others)
        self.ticket = ticket
