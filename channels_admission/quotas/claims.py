"""A worker's claims: the keys under which its slots are counted, and what the ledger knows of them.

Pure. A key whose count in the ledger may differ is *untold*: reports contain its absolute count until a reply confirms
one. As with slots, the ledger never counts less than is held: a claim is taken only after a grant. While the ledger is
away, reports repeat the ledger's old count, so that no other worker gets slots that may be taken again here.
"""

from collections import Counter
from collections.abc import Iterable

from ..conf import PoolSettings
from ..conf.shares import bounds, classes
from ..core.agreement import numbers_of
from ..core.counters import QUOTA, Reason
from ..core.protocol import Ask, Claimed, Fair, Key, Reply, Tried
from ..core.quotas import shares
from ..core.quotas.shares import Class

TOLD_PER_CALL = 200
"""Most keys in one report, so that no call keeps Redis busy for long."""
SPARE = 8
"""The part of a quota that all workers together may count for clients that have left, so that each may return at once
without a call, until the ledger is told."""
ASKED_PER_CALL = 200
"""Most claims that the asks of one call contain; further asks wait for the next call."""


class Claims:
    """The claims of the slots that one worker holds in one pool."""

    def __init__(self, pool: PoolSettings) -> None:
        self._pool = pool
        self._classes = classes(pool)
        self._quotas = bounds(pool)
        self._by_class: Counter[int] = Counter()
        self._held: Counter[Key] = Counter()
        self._untold: dict[Key, int] = {}
        """The least that the ledger counts, for keys where that may differ from what is held."""
        self._sent: dict[Key, int] = {}
        self.sweep = ""
        """A dead worker whose claims must be removed."""

    @property
    def untold(self) -> bool:
        """Whether the ledger should get a report soon."""
        return bool(self._untold or self.sweep)

    def released(self, key: Key) -> int:
        """Slots that the ledger still counts under the key, and that are no longer held."""
        return max(0, self._untold.get(key, 0) - self._held[key])

    def cover(self, ask: Ask, limit: int, workers: int, settings: str) -> bool:
        """Whether the ledger still counts what ``ask`` wants, for connections that have ended.

        Not where a client's oldest connection gives way: the ledger takes the new one for the old one. A quota that was
        lowered may be exceeded already: by the ``settings`` in force, or as a share of the limit, though not while each
        worker has no more than its part of it.
        """
        return not (any(ask.tries) or self._are_lowered(settings)) and all(
            not bound.oldest
            and self.released(key) > 0
            and (not bound.share or (self._held[key] + 1) * workers <= shares.most(bound, limit))
            for bound, key in zip(self._quotas, ask.claims, strict=False)
            if key
        )

    def _are_lowered(self, settings: str) -> bool:
        """Whether quotas are lower by the settings in force; empty where these are the own ones."""
        in_force = numbers_of(settings) if settings else {}
        return any(
            in_force.get(f"quota%:{each.name}", each.share) < each.share
            if each.most is None
            else in_force.get(f"quota:{each.name}", each.most) < each.most
            for each in (self._quotas if in_force else ())
        )

    def are_few(self, claims: Claimed, limit: int, workers: int) -> bool:
        """Whether so little is released under these keys that the ledger may hear of it later."""
        return all(
            not bound.oldest and self.released(key) * SPARE * workers <= shares.most(bound, limit)
            for bound, key in zip(self._quotas, claims, strict=False)
            if key
        )

    def take(self, claims: Claimed) -> None:
        """Add the claims of a taken slot, or of a granted late ask."""
        for key in filter(None, claims):
            self._mark(key)
            self._held[key] += 1

    def give(self, claims: Claimed) -> None:
        """Remove claims."""
        for key in filter(None, claims):
            self._mark(key)
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]

    def enter(self, class_index: int) -> None:
        self._by_class[class_index] += 1

    def leave(self, class_index: int) -> None:
        self._by_class[class_index] -= 1

    def _mark(self, key: Key) -> None:
        self._untold.setdefault(key, self._held[key])

    def forget(self) -> None:
        """Note that the ledger has lost all claims of this worker."""
        self._untold = dict.fromkeys(self._held, 0)
        self.sweep = ""

    def refusal_alone(self, ask: Ask, limit: int, others: int, held: int) -> str | None:
        """Why ``ask`` is refused while the ledger is away; ``others`` is the last known count of all other workers.

        A quota then limits this worker's own connections; with ``freeze``, to those that the ledger counts.
        """
        share = self._classes[ask.class_index].share
        if ask.bounded and others + held + (not ask.late) > shares.ceiling(share, limit):
            return Reason.SHARE
        for bound, key in zip(self._quotas, ask.claims, strict=False):
            if not key:
                continue
            most = shares.most(bound, limit)
            if self._pool.when_ledger_down == "freeze":
                most = min(most, self._untold.get(key, self._held[key]))
            if self._held[key] >= most:
                return f"{QUOTA}{bound.name}"
        return None

    def say(self, asks: tuple[Ask, ...], *, away: bool, heard: int, parts: int, tries: tuple[Tried, ...] = ()) -> Fair:
        """The part of a report about claims."""
        asked = dict.fromkeys(key for ask in asks for key in filter(None, ask.claims))
        for key in asked:
            self._mark(key)
        others = (key for key in self._untold if key not in asked)
        keys = [*asked, *(key for key, _ in zip(others, range(TOLD_PER_CALL), strict=False))]
        self._sent = {key: self._asserted(key, away=away) for key in keys}
        if not away:
            self._untold.update({key: min(self._untold[key], count) for key, count in self._sent.items()})
        return Fair(
            classes=tuple(
                Class(each.name, each.share, self._by_class[place]) for place, each in enumerate(self._classes)
            ),
            quotas=self._quotas,
            heard=heard,
            parts=parts,
            claims=tuple(self._sent.items()),
            asks=asks,
            sweep=self.sweep,
            tries=tries,
        )

    def _asserted(self, key: Key, *, away: bool) -> int:
        return max(self._held[key], self._untold[key]) if away else self._held[key]

    def settle(self, asks: tuple[Ask, ...], reply: Reply) -> None:
        """Apply the reply to the last report, and take the granted claims."""
        granted = [ask for ask, reason in zip(asks, reply.verdicts, strict=True) if not reason]
        counted = Counter(self._sent)
        for ask in granted:
            for key in filter(None, ask.claims):
                counted[key] += 1
                self._held[key] += 1
        if reply.retell:
            self._untold = dict.fromkeys(self._held, 0)
        for key in self._sent:
            if counted[key] == self._held[key]:
                self._untold.pop(key, None)
            else:
                self._untold[key] = counted[key]
        self._sent = {}
        if not self._untold:
            self._untold = {}  # a dict never shrinks, and a herd may have enlarged it
        self.sweep = reply.sweep


def first_asks(asks: Iterable[Ask]) -> int:
    """How many of ``asks`` fit into one call."""
    number = claims = 0
    for ask in asks:
        claims += max(1, len(ask.claims) - ask.claims.count(None), len(ask.tries) - ask.tries.count(None))
        if claims > ASKED_PER_CALL:
            break
        number += 1
    return number
