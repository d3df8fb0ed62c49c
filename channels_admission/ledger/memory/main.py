"""One report that is applied to its pool and answered, in one step, as ``lua/main.lua`` does it."""

from dataclasses import replace

from ...conf import Settings
from ...core import agreement, levels
from ...core.counters import ADMITTED, LOST, RELEASED, Reason
from ...core.herd.rate import Pace, Situation
from ...core.protocol import Key, Reply, Report, RetryTimes, Turn
from ...core.quotas.shares import ceiling
from ..base import SETTLING, Forgotten, OutOfOrder
from . import orders
from .agreement import Said, narrowed
from .claims import Own
from .counters import add, decided, rises, uncounted
from .grants import Grant, Granting
from .pool import Entry, StoredPool
from .tickets import Presented

Times = tuple[tuple[Turn, ...], RetryTimes | None]
"""The answers to shown tickets, and retry times for the others."""


class Call:
    """A report and its pool.

    ``now`` is by the ledger's clock, ``wall`` in Unix time; ``volatile``: whether the pool may have lost its data.
    """

    def __init__(
        self, pool: StoredPool, report: Report, settings: Settings, now: float, wall: float, *, volatile: bool
    ) -> None:  # fmt: skip
        self.pool, self.report, self.asked = pool, report, report
        self.now, self.wall, self.volatile = now, wall, volatile
        self.lease, self.heartbeat = round(1000 * settings.lease), round(1000 * settings.heartbeat)
        self.settings = agreement.text_of(report, settings.lease, settings.heartbeat, settings.site)
        self.entry = pool.entries.get(report.worker)
        self.is_fresh, self.has_lost = pool.clock.is_fresh, False
        self.known = frozenset(pool.entries) if report.heartbeat else frozenset()
        """The workers before this call."""
        self.swept: tuple[Key, ...] = ()
        """Keys under which claims of a dead worker were given back."""

    def apply(self) -> Reply:
        """Raise, having changed nothing, where the report cannot be applied."""
        self._check()
        self._advance()
        self._agree()
        self._continue()
        own, shown, pool, report = self._own(), self._present(), self.pool, self.report
        self.swept = pool.claims.sweep(report.fair.sweep) if report.fair else ()
        reserved = pool.reserve
        if gone := pool.reap(report):
            add(pool.counters, {LOST: len(gone)}, self.wall, gone)
        limit = pool.controls.limit.value if pool.controls.limit else report.limit
        held = report.held + sum(each.held for name, each in pool.entries.items() if name != report.worker)
        self._hold_tokens(reserved)
        grant = self._grant(own, shown, held, limit)
        self._count(grant, own, held + grant.slots, limit)
        times = self._tell_times(grant, shown, self._situation(grant, held + grant.slots, limit))
        most = self._most_in_reserve(grant, held + grant.slots, limit)
        ahead = self._give_ahead(most, held + grant.slots, limit)
        total = held + grant.slots + ahead
        if report.heartbeat and not pool.clock.is_settling:
            self._end_orders(total, limit)
        reply = self._reply(grant, own, times, total, limit)
        return replace(reply, ahead=ahead, most_in_reserve=most, others_reserve=self._others_reserve)

    def _check(self) -> None:
        report, entry = self.report, self.entry
        if entry and report.seq <= entry.report.seq:
            raise OutOfOrder(f"report {report.seq} of {report.worker} comes after report {entry.report.seq}")
        if report.fair and entry is None and report.worker in self.pool.claims.dead:
            raise Forgotten(f"the lease of {report.worker} had run out")

    def _advance(self) -> None:
        """Let time pass, and find out whether the pool has lost what this worker knows."""
        pool, report = self.pool, self.report
        if report.controls.version > pool.controls.version:
            pool.controls = report.controls
        if self.is_fresh:
            pool.version = orders.last(pool.controls)
        self.has_lost = report.version > pool.version
        pool.version = max(pool.version, report.version)
        pool.clock.advance(round(1000 * self.now), 2 * pool.settings.fastest(self.settings))

    def _agree(self) -> None:
        """Go on with the settings that are in force, and settle where counts may be too low from now on."""
        pool, report = self.pool, self.report
        is_last = report.goodbye or report.retired
        said = Said(self.settings, report.settings, is_last=is_last, grace=self._grace() if is_last else 0.0)
        pool.settings.agree(said, pool.clock.time, is_lost=self.is_fresh or self.has_lost)
        is_empty = self.is_fresh and self.volatile
        if self.has_lost or is_empty or (pool.clock.is_settling and pool.settings.is_slower):
            pool.clock.settle(pool.settings.slowest)
        if [*pool.settings.ends] != [self.settings]:
            self.report = narrowed(report, pool.settings.in_force)
        pool.limit = self.report.limit

    def _grace(self) -> float:
        """Heartbeats for which the worker's settings count at most after its last report."""
        if self.volatile:
            return SETTLING
        others = (each for name, each in self.pool.entries.items() if name != self.report.worker)
        stay = (each.settings for each in others if not (each.report.retired or each.report.goodbye))
        return self.lease / self.heartbeat if self.settings in stay else 0.0

    def _continue(self) -> None:
        """Go on with what is stored, or begin anew."""
        pool, report = self.pool, self.report
        if self.is_fresh:
            pool.pace, pool.since = Pace(pool.clock.seconds, report.terms), self.wall
        if self.has_lost:
            pool.pace.empty(pool.clock.seconds, report.terms)
            pool.count_anew(self.wall)
        if (self.is_fresh or self.has_lost) and report.level is not None:
            pool.levels.level = report.level

    def _own(self) -> Own:
        """The worker's claims that count; all claims are lost where the worker knows of a later report."""
        claims, report, own = self.pool.claims, self.report, self.entry.own if self.entry else None
        if report.fair is None:
            return own or Own(claims.epoch, report.seq)
        if self.entry and claims.is_current(own) and self.entry.report.seq < report.fair.heard:
            claims.start_over()
            self.pool.clock.settle(self.pool.settings.slowest)
        return own if own and claims.is_current(own) else Own(claims.epoch, report.seq)

    def _present(self) -> Presented:
        """The tickets that are shown, after the line has gone on."""
        self.pool.pace.line.advance(self.wall)
        return Presented(self.report.shown, self.pool.redeemed, self.pool.pace.line, self.wall)

    def _grant(self, own: Own, shown: Presented, held: int, limit: int) -> Grant:
        is_empty = held == self._others_reserve + self.report.reserve
        granting, fair = Granting(self.pool, self.report, shown, held, limit, is_empty=is_empty), self.report.fair
        return granting.give() if fair is None else granting.give_shared(fair, own, self.swept)

    @property
    def _workers(self) -> int:
        """Workers that do not drain."""
        return sum(not each.report.draining for each in self.pool.entries.values())

    def _hold_tokens(self, held_before: int) -> None:
        """Take the tokens in reserves from the bucket, and return those that the worker had and no handshake has used.

        ``held_before`` is the number in reserves before this call.
        """
        pool, report = self.pool, self.report
        back = min(report.unused, max(0, (self.entry.reserve if self.entry else 0) - report.reserve))
        now, is_settling = pool.clock.seconds, pool.clock.is_settling
        is_earlier = self.entry is None and report.version > 0
        pool.pace.set_aside(now, report.terms, is_settling=is_settling, is_earlier=is_earlier)
        pool.pace.hold(held_before, now, report.terms, is_settling=is_settling)
        pool.pace.take_back(back, report.terms)
        pool.pace.hold(self._others_reserve + report.reserve, now, report.terms, is_settling=is_settling)

    @property
    def _others_reserve(self) -> int:
        return sum(each.reserve for name, each in self.pool.entries.items() if name != self.report.worker)

    def _most_in_reserve(self, grant: Grant, total: int, limit: int) -> int:
        """The most slots that this worker may have in reserve.

        They are a small part of those that are free for each class, and of the tokens. There are none where others come
        first or may not be known yet, or where an empty pool is entered slowly.
        """
        pool, report, own, terms = self.pool, self.report, self.report.reserve, self.report.terms
        if report.fair:
            limit = int(min(limit, *(ceiling(each.share, limit) for each in report.fair.classes)))
        if pool.clock.is_settling or pool.controls.paused or grant.shortfall:
            return 0
        if pool.pace.line.is_expecting or levels.scarce(total, limit):
            return 0
        if terms.rate and terms.slow_start and report.held + grant.slots == own:
            return 0
        workers = max(1, self._workers)
        most = levels.most_in_reserve(limit - total + own, workers)
        tokens = pool.pace.most_in_reserve(own, self._others_reserve, workers, pool.clock.seconds, terms)
        return max(0, int(min(most, tokens)))

    def _give_ahead(self, most: int, total: int, limit: int) -> int:
        """Count slots for the worker's reserve, as far as it wants them."""
        pool, report = self.pool, self.report
        ahead = max(0, min(report.ahead, most - report.reserve, limit - total))
        pool.pace.take(ahead, pool.clock.seconds, report.terms)
        if entry := pool.entries.get(report.worker):
            entry.held, entry.reserve = entry.held + ahead, entry.reserve + ahead
        return ahead

    def _count(self, grant: Grant, own: Own, total: int, limit: int) -> None:
        """Count the worker with what it holds now, and what has happened since its report before."""
        pool, report, worker = self.pool, self.report, self.report.worker
        held = report.held + grant.slots
        pool.entries[worker] = Entry(
            self.asked, held, report.reserve, pool.clock.time + self.lease, self.now, self.settings, own,
            grant.classes,
        )  # fmt: skip
        if report.goodbye and held == 0:
            pool.forget(worker)
        pool.version += 1
        before = self.entry.report.counters if self.entry else report.acknowledged
        risen = rises(report.counters, before)
        add(pool.counters, uncounted(report.counters, risen, report.acknowledged), self.wall)
        is_known = self.entry is not None or not report.version
        elapsed = self.now - self.entry.seen if self.entry else report.age
        pool.past.note(
            self.wall, total - pool.reserve, limit, decided(report.counters, before) if is_known else {}, elapsed
        )
        is_admitting = bool(risen.get(ADMITTED) and pool.controls.paused is None)
        released = pool.counters[RELEASED]
        pool.pace.measure(pool.clock.seconds, released, self.heartbeat / 1000, admitting=is_admitting)

    def _end_orders(self, total: int, limit: int) -> None:
        pool, lease = self.pool, int(self.pool.settings.in_force.get("lease", self.lease))
        is_draining = any(entry.report.draining for entry in pool.entries.values())
        pool.controls = orders.left(
            pool.controls, self.known, pool.clock.time, lease, is_within=total <= limit, is_draining=is_draining
        )

    def _tell_times(self, grant: Grant, shown: Presented, situation: Situation) -> Times:
        """When the refused should come again: those with tickets, and the others."""
        pace, now, report = self.pool.pace, self.pool.clock.seconds, self.report
        (low, longest), number = report.terms.retry_after, grant.refused - shown.keeping(grant.unserved)
        shown.redeem(grant.shown, longest)
        turns = shown.turns(grant.unserved, low, lambda due: pace.turns(now, report.terms, due, situation))
        return turns, pace.retry_times(now, report.terms, number, report.unreserved, situation)

    def _situation(self, grant: Grant, total: int, limit: int) -> Situation:
        pool = self.pool
        why = grant.shortfall or pool.shut(total, limit, self.report.held + grant.slots, self.report.allowance)
        return Situation(
            why=why,
            workers=self._workers,
            speed=sum(each.report.speed for each in pool.entries.values()),
            is_open=pool.controls.paused is None and not levels.scarce(total, limit),
            settles_in=pool.clock.settles_in if why is Reason.SETTLING else 0.0,
        )

    def _reply(self, grant: Grant, own: Own, times: Times, total: int, limit: int) -> Reply:
        pool, report, entries = self.pool, self.report, self.pool.entries
        pool.levels.change(report, total - pool.reserve, limit, is_settling=pool.clock.is_settling)
        return Reply(
            granted=grant.slots,
            total=total,
            limit=limit,
            workers=self._workers,
            version=pool.version,
            settling=pool.clock.is_settling,
            lapsed=self.entry is None and report.version > 0 and not self.is_fresh,
            shortfall=grant.shortfall,
            now=self.wall,
            controls=pool.controls if pool.controls.version > report.controls.version else None,
            level=pool.levels.level,
            edges=pool.levels.tell(report.worker, pool.version, entries),
            neighbours=pool.neighbours(report) if report.heartbeat else (),
            granted_shown=() if report.fair else tuple(sorted(grant.shown)),
            turns=times[0],
            retry_times=times[1],
            has_line=pool.pace.line.is_expecting,
            verdicts=grant.verdicts,
            waits=grant.waits,
            evicted=pool.claims.holders.due(report.worker, pool.claims.sums) if report.fair else (),
            retell=report.fair is not None and 0 < report.fair.heard < own.since,
            sweep=pool.claims.heir if report.fair else "",
            settings=pool.settings.differing(self.settings),
        )
