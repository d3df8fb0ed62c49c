"""The slots of all workers under each key, and since when each is held: for quotas whose oldest connection gives way.

Pure. Workers tell the ages of their own slots (``limiter.elders``). The answer to each is how many of its oldest are to
end. That is a state and no order: what is told twice, or not heard, changes nothing.

``ledger/lua/holders.lua`` has the same rules, and one contract holds both.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from .protocol import Aged, Evicted, Key

MOST_POSTED = 200
"""Keys under which one worker is told to end connections, by one answer."""


class Holders:
    """The slots of all workers under each key of such a quota."""

    def __init__(self) -> None:
        self._since: dict[Key, dict[str, list[float]]] = {}
        self._most: dict[Key, int] = {}
        self._posted: dict[str, dict[Key, None]] = {}
        self._dead: set[str] = set()

    def tell(self, worker: str, told: Iterable[Key], aged: Iterable[Aged], most: Mapping[int, int], now: float) -> None:
        """A worker says since when it holds its slots under the keys ``told``; ``most`` is each quota's maximum."""
        for key in told:
            self._drop(key, worker)
        for each in aged:
            self._most[each.key] = most[each.quota]
            self._since.setdefault(each.key, {})[worker] = [now - age for age in each.ages]

    def forget(self, worker: str) -> None:
        """The worker is gone, and all that it held."""
        self._posted.pop(worker, None)
        self._dead.discard(worker)
        self.give_back(worker, list(self._since))

    def bury(self, worker: str) -> None:
        """The worker is gone, and its slots count until they are given back: nobody ends a connection for them."""
        self._dead.add(worker)

    def give_back(self, worker: str, keys: Iterable[Key]) -> None:
        """The worker holds nothing more under these keys."""
        for key in keys:
            self._drop(key, worker)

    def _drop(self, key: Key, worker: str) -> None:
        if key in self._since and self._since[key].pop(worker, None) is not None and not self._since[key]:
            del self._since[key], self._most[key]

    def grant(self, worker: str, key: Key, most: int, now: float) -> None:
        """One more slot."""
        self._most[key] = most
        self._since.setdefault(key, {}).setdefault(worker, []).append(now)

    def number(self, key: Key) -> int:
        """Slots that are known."""
        return sum(map(len, self._since.get(key, {}).values()))

    def post(self, keys: Iterable[Key], counts: Mapping[Key, int]) -> None:
        """Something may have changed under these keys: the workers that have to end connections are to be told."""
        for key in keys:
            for worker in self._evicted(key, counts):
                posted = self._posted.setdefault(worker, {})
                if len(posted) < MOST_POSTED:
                    posted[key] = None

    def due(self, worker: str, counts: Mapping[Key, int]) -> tuple[Evicted, ...]:
        """How many of its oldest connections a worker is to end, for each key."""
        found = [(key, self._evicted(key, counts)[worker]) for key in self._posted.pop(worker, {})]
        due = tuple(Evicted(key, number) for key, number in found if number)
        if due:
            self._posted[worker] = dict.fromkeys(each.key for each in due)
        return due

    def _evicted(self, key: Key, counts: Mapping[Key, int]) -> Counter[str]:
        """Those beyond the maximum are the oldest ones: how many of each worker."""
        excess = counts.get(key, 0) - self._most.get(key, counts.get(key, 0))
        if excess <= 0 or key not in self._since:
            return Counter()
        held = self._since[key]
        excess -= sum(len(each) for worker, each in held.items() if worker in self._dead)
        living = sorted((since, worker) for worker, each in held.items() if worker not in self._dead for since in each)
        return Counter(worker for _, worker in living[: max(0, excess)])
