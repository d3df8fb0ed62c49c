"""The slots of one worker under each key, and since when each is held: for quotas whose oldest connection gives way.

Pure. The worker tells the ages of these slots whenever it tells how many they are. The ledger keeps the same of all
workers (:mod:`.holders`), and answers how many of the oldest are to end. That is a state and no order: what is told
twice, or not heard, changes nothing.
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
    """The slots of one worker, under each key of such a quota, from the oldest to the youngest."""

    def __init__(self, pool: PoolSettings) -> None:
        self._quotas = {place: quota.max or 0 for place, quota in enumerate(pool.quotas) if quota.full == OLDEST}
        self._since: dict[Key, dict[Slot, float]] = {}
        self._places: dict[Key, int] = {}
        self.spared: set[Slot] = set()
        """Those that a dry run has counted instead of ending them."""

    def note(self, slot: Slot, now: float) -> None:
        """The slot was given, or is counted under more keys than before."""
        for place, key in self._keys(slot.claims):
            self._places[key] = place
            self._since.setdefault(key, {}).setdefault(slot, now)

    def forget(self, slot: Slot) -> None:
        """The slot was released."""
        self.spared.discard(slot)
        for _, key in self._keys(slot.claims):
            slots = self._since.get(key, {})
            slots.pop(slot, None)
            if not slots and key in self._since:
                del self._since[key], self._places[key]

    def ages(self, keys: Iterable[Key], now: float) -> tuple[Aged, ...]:
        """Of those ``keys`` under which slots are held, for how many seconds each has been."""
        return tuple(self._aged(key, now) for key in keys if key in self._since)

    def _aged(self, key: Key, now: float) -> Aged:
        place = self._places[key]
        oldest = islice(self._since[key].values(), 2 * self._quotas[place])
        return Aged(place, key, tuple(max(0.0, now - since) for since in oldest))

    def doomed(self, evicted: Iterable[Evicted], released: Callable[[Key], int]) -> set[Slot]:
        """Those that are to end, whether or not they are about to.

        Slots ``released`` since they were counted are among the ``evicted``: none ends in their place.
        """
        return {
            slot
            for each in evicted
            for slot in islice(self._since.get(each.key, ()), max(0, each.number - released(each.key)))
        }

    def _keys(self, claims: Claimed) -> list[tuple[int, Key]]:
        return [(place, key) for place, key in enumerate(claims) if key and place in self._quotas]
