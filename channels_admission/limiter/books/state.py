"""A worker's own books for one pool: what it holds, what the ledger counts for it, what it may do alone.

No I/O and no clock, so that the same rules run under a limiter and under a simulated network. The rules that keep a
worker's ledger count from ever being below what it holds:

- A slot is taken only while ``held < allowance``, where ``allowance`` is what the ledger counts for this worker at the
  least; only ``share`` and ``open`` go beyond, while the ledger is away.
- Before a smaller ``held`` is sent, the allowance shrinks to it: whether or not the reply arrives, the ledger may count
  no more than that.
- While the ledger is away the reports assert the whole allowance, not what happens to be held: else every probe would
  give back slots that an outage cannot regain.
- Every report sent has a higher number than the one before, repeated ones included.

Where the pool has a connect rate, or is shared by quotas or classes, an admission needs more than a slot that is
counted: each uses up a grant of the ledger, one of its :class:`Reserve` or of the latest ones. While the ledger is away
it is a token of this worker's part. :class:`~.quotas.claims.Claims` is the book of quotas and classes.
"""

from collections import Counter
from dataclasses import replace

from ... import __version__
from ...conf import PoolSettings
from ...conf.quotas import OLDEST
from ...conf.shares import bounds
from ...core import levels
from ...core.counters import ADMITTED, RELEASED, WAITED, WAITS, Calls, Counters, Durations, Reason
from ...core.herd.rate import bounded
from ...core.herd.tickets import Ticket
from ...core.levels import Level
from ...core.protocol import Ask, Claimed, Reply, Report, Shown
from ...core.readings import Told
from ...quotas.ages import SlotAges
from ...quotas.attempts import Attempts
from ...quotas.claims import Claims
from ...runtime.identity import Worker, host_token
from ..connections.slot import Slot
from .alone import Alone
from .in_force import InForce
from .reserve import Reserve


class State(InForce):
    """The limiter's half of the ledger contract; all numbers are slots unless said otherwise."""

    def __init__(self, pool: PoolSettings, worker: Worker, server: str = "") -> None:
        super().__init__(pool)
        self.worker = worker
        self.server = server
        self.held = 0
        self.allowance = 0
        """What the ledger counts for this worker, at the least."""
        self.away = False
        """Whether the last exchange failed: decisions are then this state's alone."""
        self.retired = False
        """Whether a limiter with later settings has taken the place of this one."""
        self.counters: Counter[str] = Counter()
        self._withdrawn = 0
        """Slots given back at the entrance, each of which was counted as admitted: the next one is not."""
        self.entrance_speed = 0.0
        """Connections a second that the entrance has lately let in while others had to wait; 0.0 where unknown."""
        self.calls = Calls()
        self.waits = Durations(WAITS, WAITED)
        """How long the handshakes waited that were admitted."""
        self._acknowledged: Counters = {}
        self.claims = Claims(pool) if pool.is_shared else None
        evicts = any(quota.full == OLDEST for quota in pool.quotas)
        self.slot_ages: SlotAges[Slot] | None = SlotAges(pool) if evicts else None
        """Its slots by their age, where a quota's oldest connection gives way."""
        self.attempts = Attempts(pool) if any(quota.rate for quota in pool.quotas) else None
        self._begin()

    def _begin(self) -> None:
        self._seq = self._heard = self._version = 0
        self._met_settled = False
        self._alone: Alone | None = None
        self._others = 0
        self.scarce = levels.scarce(0, self.limit)
        """Whether slots that this worker frees may be missed elsewhere."""
        self.level: Level | None = None
        """The pool's level as last heard."""
        self.has_line = False
        """Whether slots that become free belong to clients that return with tickets, as last heard."""
        self._is_over = False
        """Whether more is held than a lowered limit allows, as last heard: slots that become free are given up."""
        self.workers = self.pool.expected_workers
        """Workers that share the pool, as far as is known."""
        self._share = self._first_share
        self.reserve = Reserve(is_needed=not bounds(self.pool))

    @property
    def _first_share(self) -> int:
        """The part of a worker that has not yet met a ledger with settled counts."""
        return self.limit // self.pool.expected_workers

    @property
    def has_room(self) -> bool:
        """Whether one more handshake may be admitted on what the ledger has granted."""
        if self.held >= self.allowance or self._is_over:
            return False
        return self.reserve.grants > 0 or not (self.needs_grants or self.has_line)

    @property
    def ready(self) -> int:
        """Slots for handshakes that need not wait for the ledger."""
        spare = self.allowance - self.held
        return min(spare, self.reserve.grants) if self.needs_grants else spare

    def may_enter(self, ask: Ask | None) -> bool:
        """Whether a handshake may be admitted without asking the ledger, which counts all that it asks for already."""
        has_room = bool(self.has_room and (self.held or not self.starts_slowly))
        if not has_room or ask is None or ask.is_plain:
            return has_room
        return self.claims is not None and self.claims.cover(ask, self.limit, self.workers, self.settings)

    @property
    def alone(self) -> Alone | None:
        """This worker's line while the ledger is away."""
        return self._alone if self.away else None

    def refusal_alone(self, now: float, ask: Ask | None = None, ticket: Ticket | None = None) -> str | None:
        """Why one more handshake may not be admitted without the ledger's word; else it has its token."""
        if self.pool.when_ledger_down == "open":
            return None
        slots = self._slots_alone
        if slots > 0 and (reason := self.claim_alone(ask)):
            return reason
        if self._alone is not None:
            return self._alone.refusal(now, slots, ticket)
        return None if slots > 0 else Reason.LEDGER

    def claim_alone(self, ask: Ask | None) -> str | None:
        """Why what is asked for beside a slot may not be granted without the ledger's word."""
        if ask is None or self.claims is None or self.pool.when_ledger_down == "open":
            return None
        return self.claims.refusal_alone(ask, self.limit, self._others, self.held)

    @property
    def _slots_alone(self) -> int:
        """Slots that may be taken by ``WHEN_LEDGER_DOWN``, unless it is ``open``; none above a lowered limit."""
        spare = self.allowance - self.held - max(0, self._others + self.allowance - self.limit)
        return {"closed": 0, "freeze": spare}.get(self.pool.when_ledger_down, spare + self._share)

    @property
    def is_low(self) -> bool:
        """Whether most of the reserve is used."""
        return self.ready < self.reserve.least and not self.away

    @property
    def unreported(self) -> int:
        """Slots that the ledger counts beyond the reserve, if many, or claims that are still to be reported."""
        spare = self.allowance - self.held
        beyond = spare - self.reserve.size if spare > self.reserve.most else 0
        return beyond or int(self.claims is not None and self.claims.untold)

    def admit(self, ask: Ask | None = None) -> None:
        """Take a slot; the caller has seen that there is room, and taken the claims."""
        if self._withdrawn:
            self._withdrawn -= 1
        else:
            self.counters[ADMITTED] += 1
        if ask is not None and self.claims is not None:
            self.claims.enter(ask.class_index)
        if ask is None or ask.is_plain:
            self.reserve.came += 1
        self.held += 1
        self.reserve.grants -= 1

    def release(self, claims: Claimed = (), class_index: int = 0, *, is_unused: bool = False) -> None:
        """Take back a slot. One that ``is_unused`` is of a handshake refused after all, and counts as that alone."""
        self.held -= 1
        if is_unused:
            self._withdrawn += 1
        else:
            self.counters[RELEASED] += 1
        if self.claims is not None:
            self.claims.give(claims)
            self.claims.leave(class_index)

    def begin_report(
        self,
        wanted: int = 0,
        *,
        asks: tuple[Ask, ...] = (),
        shown: tuple[Shown, ...] = (),
        told: Told = Told(),
        unreserved: int = 0,
        gone: tuple[str, ...] = (),
        heartbeat: bool = False,
        goodbye: bool = False,
        now: float = 0.0,
    ) -> Report:
        """The next report, to be sent or counted as failed; ``now`` by the clock of the ages of slots.

        From here on no more is assumed of the ledger than that it counts what the report asserts.
        """
        self._seq += 1
        self.reserve.renew(heartbeat=heartbeat)
        reserve = ahead = unused = 0
        if self.away and not goodbye:
            held = max(self.held, self.allowance)
            reserve = 0 if self.needs_grants else held - self.held
        else:
            is_none = goodbye or self.retired or self.closed or (self.starts_slowly and not self.held)
            size = 0 if is_none else self.reserve.size
            reserve = 0 if asks else max(0, min(self.ready, size))  # asks come first
            held, ahead = self.held + reserve, size - reserve
            self.allowance = min(self.allowance, held)
            unused = self.reserve.keep(reserve)
        parts = 0 if self._met_settled else self.pool.expected_workers
        fair = None
        if self.claims is not None:
            tries = () if self.attempts is None else self.attempts.tell()
            fair = self.claims.say(asks, away=self.away and not goodbye, heard=self._heard, parts=parts, tries=tries)
            if self.slot_ages is not None:
                fair = replace(fair, ages=self.slot_ages.ages((key for key, _ in fair.claims), now))
        return Report(
            worker=self.worker.id,
            seq=self._seq,
            held=held,
            wanted=wanted,
            limit=self.pool.max_connections,
            version=self._version,
            allowance=held if self._met_settled else max(held, self._first_share),
            age=self.worker.age(),
            born=self.worker.born,
            host=host_token(self.worker.locks),
            server=self.server,
            release=__version__,
            counters={**self.counters, **self.calls.counters, **self.waits.counters},
            acknowledged=self._acknowledged,
            gone=gone,
            load=told.load,
            footprint=told.footprint,
            work=told.work,
            terms=self.own_terms,
            unreserved=unreserved,
            speed=bounded(self.entrance_speed) if self.entrance_speed else 0.0,
            controls=self.controls,
            draining=self.draining,
            warn_at=self.pool.warn_at,
            level=self.level,
            settings=self.settings,
            heartbeat=heartbeat,
            goodbye=goodbye,
            retired=self.retired,
            shown=shown,
            reserve=reserve,
            ahead=ahead,
            unused=unused if self.terms.rate else 0,
            fair=fair,
        )

    def settle(self, report: Report, reply: Reply) -> None:
        """The ledger answered ``report``, the last one sent."""
        # What may go wrong comes first: either all of it is settled, or none.
        granted = max(0, min(reply.granted, report.wanted))
        ahead = max(0, min(reply.ahead, report.ahead))
        share = levels.share_of_free(reply.total, reply.limit, reply.workers)
        if report.fair is not None and self.claims is not None:
            self.claims.settle(report.fair.asks, reply)
        self.away = False
        self.allowance = report.held + granted + ahead
        is_usable = not reply.has_line and bool(self.held or granted or not self.starts_slowly)
        self.reserve.settle(granted, ahead, is_usable=is_usable)
        self._heard = report.seq
        self._version = max(self._version, reply.version)
        self._met_settled = self._met_settled or not reply.settling
        self._acknowledged = report.counters
        self._others = reply.total - self.allowance
        self.workers, self._share = reply.workers, share
        self.level = reply.level
        self.has_line = reply.has_line
        self.controls = reply.controls or self.controls
        had_rate, is_changed = self.terms.rate, reply.settings != self.settings
        if is_changed:
            self.adopt(reply.settings)
        if reply.lapsed or (is_changed and not had_rate):  # what was kept has no token
            self.reserve.drop(granted)
        self.scarce = levels.scarce(reply.total, self.limit)
        self._is_over = reply.total > self.limit
        self.reserve.allow(0 if self.closed or self.retired else reply.most_in_reserve)

    def fail(self, now: float) -> None:
        """An exchange failed; whether the ledger applied the report is unknown. ``now`` is as in a ticket."""
        was_away, self.away = self.away, True
        self.reserve.drop()
        if not was_away:
            self._alone = Alone(self.terms, self.workers, now)
        if self.claims is not None:
            self.claims.sweep = ""

    def rename(self) -> None:
        """Another worker answers to our name: go on under a new one, as one the ledger has never met."""
        self.worker = self.worker.renamed()
        self.allowance = 0
        if self.claims is not None:
            self.claims.forget()
        self._begin()
