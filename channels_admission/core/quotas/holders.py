"""The ages of all slots under each key, for quotas that evict the oldest connection (``'full': 'oldest'``).

Pure. Workers report the ages of their slots (``quotas.ages``). The reply says how many of its oldest connections a
worker must close. This is a state, not a command: a repeated or lost reply does no harm.

``ledger/lua/holders.lua`` has the same rules; the contract tests cover both.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from ..protocol import Aged, Evicted, Key

MOST_POSTED = 200
"""Most keys in one reply under which a worker must close connections."""


class Holders:
    """The start times of slots, by key and worker."""

    def __init__(self) -> None:
        self._since: dict[Key, dict[str, list[float]]] = {}
        self._most: dict[Key, int] = {}
        self._posted: dict[str, dict[Key, None]] = {}
        self._dead: set[str] = set()

    def tell(self, worker: str, told: Iterable[Key], aged: Iterable[Aged], most: Mapping[int, int], now: float) -> None:
        """Replace what is known of a worker's slots under the keys ``told``; ``most`` is each quota's maximum."""
        for key in told:
            self._drop(key, worker)
        for each in aged:
            self._most[each.key] = most[each.quota]
            self._since.setdefault(each.key, {})[worker] = [round(now - age, 3) for age in each.ages]

    def forget(self, worker: str) -> None:
        """Forget a worker and its slots."""
        self._posted.pop(worker, None)
        self._dead.discard(worker)
        self.give_back(worker, list(self._since))

    def bury(self, worker: str) -> None:
        """Mark a worker as dead: its slots count until they are given back, and cannot be closed."""
        self._dead.add(worker)

    def give_back(self, worker: str, keys: Iterable[Key]) -> None:
        """Forget a worker's slots under these keys."""
        for key in keys:
            self._drop(key, worker)

    def _drop(self, key: Key, worker: str) -> None:
        if key in self._since and self._since[key].pop(worker, None) is not None and not self._since[key]:
            del self._since[key], self._most[key]

    def grant(self, worker: str, key: Key, most: int, now: float) -> None:
        """Add one slot."""
        self._most[key] = most
        self._since.setdefault(key, {}).setdefault(worker, []).append(now)

    def number(self, key: Key) -> int:
        """Known slots under a key."""
        return sum(map(len, self._since.get(key, {}).values()))

    def post(self, keys: Iterable[Key], counts: Mapping[Key, int]) -> None:
        """Prepare evictions for the workers that must close connections under these keys."""
        for key in keys:
            for worker in self._evicted(key, counts):
                posted = self._posted.setdefault(worker, {})
                if len(posted) < MOST_POSTED:
                    posted[key] = None

    def due(self, worker: str, counts: Mapping[Key, int]) -> tuple[Evicted, ...]:
        """How many of its oldest connections a worker must close, by key."""
        found = [(key, self._evicted(key, counts)[worker]) for key in self._posted.pop(worker, {})]
        due = tuple(Evicted(key, number) for key, number in found if number)
        if due:
            self._posted[worker] = dict.fromkeys(each.key for each in due)
        return due

    def _evicted(self, key: Key, counts: Mapping[Key, int]) -> Counter[str]:
        """How many of the oldest slots are above the maximum, by worker."""
        excess = counts.get(key, 0) - self._most.get(key, counts.get(key, 0))
        if excess <= 0 or key not in self._since:
            return Counter()
        held = self._since[key]
        excess -= sum(len(each) for worker, each in held.items() if worker in self._dead)
        living = sorted((since, worker) for worker, each in held.items() if worker not in self._dead for since in each)
        return Counter(worker for _, worker in living[: max(0, excess)])
