"""What workers of the contract tests claim, and how what a ledger has stored of it is counted."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from channels_admission.core.protocol import KEY_BYTES, Aged, Ask, Fair, Key, Reply, Tried
from channels_admission.core.quotas.shares import Bound, Class

from support.reports import HEARTBEAT, Reporter

SHARES = {"anonymous": 0.8, "member": 0.95, "staff": 1.0}
CLASSES = (Class("", 1.0), *(Class(name, share) for name, share in SHARES.items()), Class("exempt", math.inf))
PLACES = {each.name: place for place, each in enumerate(CLASSES)}
QUOTAS = (Bound("user", 3), Bound("address", 5), Bound("pending", None, 0.2))


def key(name: str) -> Key:
    """A key as long as those of clients."""
    return name.encode().ljust(KEY_BYTES, b".")


def ask(user: str | None = None, address: str | None = None, *, group: str = "", pending: bool = False, **more) -> Ask:
    names = user, address, "pending" if pending else None
    return Ask(tuple(name and key(name) for name in names), PLACES[group], **more)


class Claimant(Reporter):
    """A worker that knows what it holds under each key, and tells what has changed."""

    def __init__(self, ledger, nonce: str, *, quotas: tuple[Bound, ...] = QUOTAS, **options) -> None:
        super().__init__(ledger, nonce, **options)
        self.quotas = quotas
        self.held = 0
        self.claims: Counter[Key] = Counter()
        self.classes: Counter[int] = Counter()
        self.heard = 0
        self.sweep = ""
        self.told: set[Key] = set()

    async def claim(self, *asks: Ask, parts: int = 1, tries: tuple[Tried, ...] = (), **changes) -> Reply:
        """Report, asking for so much; what is granted is held."""
        self.told |= {key for each in asks for key in filter(None, each.claims)}
        fair = Fair(
            classes=tuple(replace(each, held=self.classes[place]) for place, each in enumerate(CLASSES)),
            quotas=self.quotas,
            heard=self.heard,
            parts=parts,
            claims=tuple((key, self.claims[key]) for key in sorted(self.told)),
            asks=asks,
            sweep=self.sweep,
            tries=tries,
            ages=self.aged(sorted(self.told)),
        )
        reply = await self.say(self.held, sum(not each.late for each in asks), fair=fair, **changes)
        self.heard, self.sweep, self.told = self.last.seq, reply.sweep, set()
        self.held += reply.granted
        for each, reason in zip(asks, reply.verdicts, strict=True):
            if not reason:
                self.claims.update(filter(None, each.claims))
                self.classes[each.class_index] += not each.late
        if reply.retell:
            self.told = {*self.claims}
        return reply

    def aged(self, told: Sequence[Key]) -> tuple[Aged, ...]:
        """Since when it holds what it has under those keys; this one keeps no such book."""
        return ()

    def drop(self, each: Ask) -> None:
        """One connection that had asked for this ends."""
        self.held -= 1
        self.classes[each.class_index] -= 1
        self.claims.subtract(filter(None, each.claims))
        self.told |= {*filter(None, each.claims)}


async def settled(ledger, clock, limit: int = 10) -> Claimant:
    """The pool some time after its first report; a worker of it that holds nothing."""
    first = Claimant(ledger, "ffff", limit=limit)
    await first.claim()
    clock.now += 2 * HEARTBEAT
    await first.claim()
    return first
