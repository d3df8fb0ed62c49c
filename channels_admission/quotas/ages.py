"""The ages of one worker's slots under each key, for quotas that evict the oldest connection (``'full': 'oldest'``).

Pure. Reports contain these ages beside the number of slots. The ledger keeps the ages of all workers
(:mod:`.core.quotas.holders`), and its reply says how many of the oldest connections must close.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Generic, Protocol, TypeVar

from ..conf import PoolSettings
from ..conf.quotas import OLDEST
from ..core.protocol import Aged, Claimed, Evicted, Key


class Claiming(Protocol):
    """A slot."""

    claims: Claimed


Slot = TypeVar("Slot", bound=Claiming)


class SlotAges(Generic[Slot]):
    """The slots of one worker under each key of such a quota, the oldest first."""

    def __init__(self, pool: PoolSettings) -> None:
        self._quotas = {place: quota.max or 0 for place, quota in enumerate(pool.quotas) if quota.full == OLDEST}
        self._since: dict[Key, dict[Slot, float]] = {}
        self._places: dict[Key, int] = {}
        self.spared: set[Slot] = set()
        """Slots that a dry run has counted instead of closing their connections."""

    def note(self, slot: Slot, now: float) -> None:
        """Add a new slot, or further keys of a slot."""
        for place, key in self._keys(slot.claims):
            self._places[key] = place
            self._since.setdefault(key, {}).setdefault(slot, now)

    def forget(self, slot: Slot) -> None:
        """Remove a released slot."""
        self.spared.discard(slot)
        for _, key in self._keys(slot.claims):
            slots = self._since.get(key, {})
            slots.pop(slot, None)
            if not slots and key in self._since:
                del self._since[key], self._places[key]

    def ages(self, keys: Iterable[Key], now: float) -> tuple[Aged, ...]:
        """The ages of the slots under ``keys``, in seconds; keys without slots are left out."""
        return tuple(self._aged(key, now) for key in keys if key in self._since)

    def _aged(self, key: Key, now: float) -> Aged:
        place = self._places[key]
        oldest = islice(self._since[key].values(), 2 * self._quotas[place])
        return Aged(place, key, tuple(max(0.0, now - since) for since in oldest))

    def doomed(self, evicted: Iterable[Evicted], released: Callable[[Key], int]) -> set[Slot]:
        """The slots whose connections must close, those that are closing already included.

        Slots ``released`` since the ledger counted them are among the ``evicted``; no other slot replaces them.
        """
        return {
            slot
            for each in evicted
            for slot in islice(self._since.get(each.key, ()), max(0, each.number - released(each.key)))
        }

    def _keys(self, claims: Claimed) -> list[tuple[int, Key]]:
        return [(place, key) for place, key in enumerate(claims) if key and place in self._quotas]
