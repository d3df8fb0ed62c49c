"""Verdicts on the asks of one report, in order. Pure: counts in, reasons out.

``ledger/lua/grants.lua`` has the same rules; the contract tests cover both.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from ..counters import QUOTA, Reason
from ..protocol import Ask, Fair, Key
from .attempts import Over
from .shares import ceiling, most

MENDED_BY_TIME = (Reason.FULL, Reason.SHARE, Reason.RATE, Reason.SETTLING, Reason.PAUSED)


@dataclass(frozen=True, slots=True)
class Part:
    """What one worker may hold while the ledger settles."""

    held: int
    allowance: int
    """Slots, those that are held included."""
    parts: int
    """Each key may have one ``parts``-th of its quota on this worker; 0 for no more slots."""
    claims: Mapping[Key, int]
    """Slots held by key."""

    def covers(self, key: Key, granted: int, most: float) -> bool:
        """Whether one more slot may be held under a key with ``granted`` ones in this report, of ``most`` in all."""
        return self.claims.get(key, 0) + granted < (most // self.parts if self.parts else 0)


class Allowed(NamedTuple):
    """The slots that may be granted."""

    tickets: float
    """To asks whose ticket is due; what these cannot use is for the others."""
    others: float
    lacking: Reason = Reason.RATE
    """The reason of a refusal beyond them."""


@dataclass(slots=True)
class Decision:
    """The verdicts on the asks of one report."""

    verdicts: list[str] = field(default_factory=list)
    """For each ask the reason of its refusal; empty if granted."""
    tickets: int = 0
    """Slots granted to asks whose ticket is due."""
    used: int = 0
    """Tokens used, those for tickets included."""
    given: int = 0
    """Slots granted."""
    claims: Counter[Key] = field(default_factory=Counter)

    @property
    def shortfall(self) -> Reason | None:
        """Why less was granted than asked for; refusals by quotas, which no waiting mends, are ignored."""
        if Reason.PAUSED in self.verdicts:
            return Reason.PAUSED
        if {Reason.FULL, Reason.SHARE} & set(self.verdicts):
            return Reason.FULL
        return next((reason for reason in (Reason.RATE, Reason.SETTLING) if reason in self.verdicts), None)

    def refused(self, fair: Fair) -> int:
        """Refused handshakes that get a retry time from the pool's schedule."""
        return sum(
            reason in MENDED_BY_TIME and not ask.late for ask, reason in zip(fair.asks, self.verdicts, strict=True)
        )

    def classes(self, fair: Fair) -> dict[str, int]:
        """Slots that the worker holds now, by class; the nameless class is left out."""
        held = Counter({each.name: each.held for each in fair.classes})
        for ask, reason in zip(fair.asks, self.verdicts, strict=True):
            held[fair.classes[ask.class_index].name] += not reason and not ask.late
        return {name: count for name, count in held.items() if name and count}


def decide(
    fair: Fair, limit: int, total: int, counts: Mapping[Key, int], allowed: Allowed, due: Sequence[int] = (), *,
    paused: bool = False, over: Mapping[int, Over] = MappingProxyType({}), known: Callable[[Key], int] = lambda key: 0,
    part: Part | None = None,
) -> Decision:  # fmt: skip
    """Decide all asks of a report, with ``total`` slots held and ``counts`` of them by key.

    The asks at ``due`` come first, in this order, since their tickets are due.
    ``over`` has the refused attempts by the index of their ask; they are refused first. A ``paused`` pool grants no
    slot, not even to the exempt class. A quota that evicts its oldest connection may be exceeded by the slots that are
    ``known`` under the key, and by at most its maximum. While the ledger settles, ``part`` is what the worker may hold.
    """
    done = Decision([""] * len(fair.asks))
    tickets = set(due)
    for place in (*due, *(place for place in range(len(fair.asks)) if place not in tickets)):
        ask = fair.asks[place]
        share, slot = fair.classes[ask.class_index].share, not ask.late
        reason = over[place].reason if place in over else str(Reason.PAUSED) if paused and slot else ""
        if not reason and not math.isinf(share):
            held = total + done.given + slot
            if ask.bounded and held > ceiling(share, limit):
                reason = Reason.FULL if held > limit else Reason.SHARE
            elif part and slot and part.held + done.given >= part.allowance:
                reason = Reason.SETTLING
            else:
                reason = _exceeded(fair, ask, limit, counts, done, known, part)
            if not reason and slot:
                ends = allowed.tickets if place in tickets else allowed.tickets + allowed.others
                reason = "" if done.used < ends else allowed.lacking
                done.used += not reason
                done.tickets += not reason and place in tickets
        if not reason:
            done.given += slot
            done.claims.update(filter(None, ask.claims))
        done.verdicts[place] = str(reason)
    return done


def _exceeded(
    fair: Fair, ask: Ask, limit: int, counts: Mapping[Key, int], done: Decision, known: Callable[[Key], int],
    part: Part | None,
) -> str:  # fmt: skip
    """Why the claims of an ask cannot be granted; empty if they can."""
    for quota, key in zip(fair.quotas, ask.claims, strict=False):
        if key:
            granted, bound = done.claims[key], most(quota, limit)
            excess = counts.get(key, 0) + granted + 1 - bound
            if excess > (min(known(key), bound) if quota.oldest else 0):
                return f"{QUOTA}{quota.name}"
            if part and not part.covers(key, granted, bound):
                return Reason.SETTLING
    return ""
