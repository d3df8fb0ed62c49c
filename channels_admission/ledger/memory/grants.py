"""How many slots a report is given, and why not more."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from ...core.attempts import Over, judge
from ...core.counters import Reason
from ...core.protocol import Fair, Key, Report
from ...core.quota import Decision, Part, decide
from ...core.shares import most as most_of
from .claims import Own
from .pool import Pool


@dataclass(slots=True)
class Grant:
    """What one report is given."""

    slots: int
    refused: int
    """Handshakes that get a retry time."""
    shortfall: Reason | None
    classes: dict[str, int] = field(default_factory=dict)
    verdicts: tuple[str, ...] = ()
    waits: tuple[float, ...] = ()


def give(pool: Pool, report: Report, held: int, limit: int) -> Grant:
    """In a pool that is not shared, with ``held`` slots in it."""
    wanted, room = report.wanted, limit - held
    if pool.clock.is_settling:
        room = min(room, report.allowance - report.held)
    room = 0 if pool.controls.paused else max(0, min(wanted, room))
    granted = pool.pace.admit(room, pool.clock.seconds, report.terms, empty=held == 0)
    return Grant(granted, wanted - granted, _shortfall(pool, wanted, room, granted, is_full=held + granted >= limit))


def _shortfall(pool: Pool, wanted: int, room: int, granted: int, *, is_full: bool) -> Reason | None:
    if granted == wanted:
        return None
    if pool.controls.paused:
        return Reason.PAUSED
    if granted < room:
        return Reason.RATE
    return Reason.SETTLING if pool.clock.is_settling and not is_full else Reason.FULL


def give_shared(pool: Pool, report: Report, fair: Fair, held: int, limit: int, own: Own, swept: Iterable[Key]) -> Grant:
    """In a pool that is shared by quotas or classes; the worker's ``own`` claims follow what it says."""
    claims, now = pool.claims, pool.clock.seconds
    claims.count(own, fair.claims)
    told = [key for key, _ in fair.claims]
    most = {place: int(most_of(bound, limit)) for place, bound in enumerate(fair.quotas)}
    claims.holders.tell(report.worker, told, fair.ages, most, now)
    over = judge(pool.attempts, fair, now, report.terms.retry_after[1])
    decided = _decide(pool, report, fair, held, limit, own, over)
    claims.count(own, [(key, own.counts.get(key, 0) + more) for key, more in decided.claims.items()])
    for ask, reason in zip(fair.asks, decided.verdicts, strict=True):
        for place, key in enumerate(ask.claims):
            if key and fair.quotas[place].oldest and not reason:
                claims.holders.grant(report.worker, key, most[place], now)
    claims.holders.post([*told, *swept], claims.sums)
    return Grant(
        decided.given, decided.refused(fair), decided.shortfall, decided.classes(fair), tuple(decided.verdicts),
        tuple(over[place].wait for place in sorted(over)),
    )  # fmt: skip


def _decide(
    pool: Pool, report: Report, fair: Fair, held: int, limit: int, own: Own, over: dict[int, Over]
) -> Decision:  # fmt: skip
    """The verdicts with as many tokens as the rate leaves."""
    part = Part(report.held, report.allowance, fair.parts, own.counts) if pool.clock.is_settling else None
    known = {key: 0 if part else pool.claims.holders.number(key) for key, _ in fair.claims}

    def decided(tokens: float) -> Decision:
        return decide(
            fair, limit, held, pool.claims.sums, tokens,
            paused=pool.controls.paused is not None, over=over, known=known.__getitem__, part=part,
        )  # fmt: skip

    most = decided(math.inf)
    tokens = pool.pace.admit(most.used, pool.clock.seconds, report.terms, empty=held == 0)
    return decided(tokens) if tokens < most.used else most
