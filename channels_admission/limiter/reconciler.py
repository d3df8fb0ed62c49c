"""The reconciler of one limiter with its ledger: one call at a time, and what each answer brings about."""

import asyncio
import logging
import math

from ..conf import Settings
from ..core.agreement import numbers_of, said, text_of
from ..core.counters import HEALED
from ..core.protocol import Report, View
from ..core.rate import RetrySchedule
from ..core.readings import Load
from ..events.dispatch import Events
from ..exceptions import LedgerError, LedgerUnavailable
from ..ledger.base import Forgotten, Ledger, OutOfOrder
from ..overload.manager import OverloadManager
from ..runtime.faults import Faults
from ..runtime.identity import is_gone
from .closer import Closer
from .patience import Patience
from .queue import Batch, Queue
from .state import State
from .timetable import Timetable

logger = logging.getLogger("channels_admission")

DAMAGE_TOLD_EVERY = 5.0
"""Seconds from one log line of damaged counts to the next, at the least."""
EXCHANGE = "the exchange with the ledger"


class Reconciler:
    """Asks ``ledger`` what waits in ``queue``, and keeps to what it says. Belongs to one event loop."""

    def __init__(
        self, ledger: Ledger, settings: Settings, state: State, pressure: OverloadManager | None, queue: Queue,
        schedule: RetrySchedule, drains: Closer, timetable: Timetable, patience: Patience, events: Events,
        faults: Faults,
    ) -> None:  # fmt: skip
        self._ledger = ledger
        self._settings = settings
        self._state = state
        self._pressure = pressure
        self._queue = queue
        self._schedule = schedule
        self._drains = drains
        self._timetable = timetable
        self._patience = patience
        self._events = events
        self._faults = faults
        self._spare = faults.spare
        self._loop = timetable.loop
        self._asking: asyncio.Task[View] | None = None
        self._overdue = 0
        self._gone: tuple[str, ...] = ()
        """Neighbours whose process has ended, to be told."""
        self._refused_for_good = False
        self._told_of_damage = -math.inf
        patience.watch(self._look)

    def is_awaited(self) -> bool:
        """Whether the next call should not wait for the beat."""
        return bool(self._queue.waiting or self._gone)

    async def exchange(self) -> None:
        """One call, its answer to the waiting, and a second try where only the connection broke.

        Whatever goes wrong in it is one failed call.
        """
        try:
            await self._attempt()
        except Exception as error:
            self._faults.note(EXCHANGE, error)
            self.lose(LedgerUnavailable(f"an unexpected {type(error).__name__}"))
        else:
            if not self._state.away:
                self._faults.recover(EXCHANGE)

    async def _attempt(self) -> None:
        try:
            try:
                await self._call()
            except LedgerUnavailable as error:
                if not error.reset or self._state.away:
                    raise
                await self._call()
        except Forgotten:
            self._warn_of_lapse(self._state.held)
            self._begin_anew()
        except OutOfOrder as error:
            logger.warning(
                "Another worker reports as %s (%s); going on under a new name.", self._state.worker.id, error
            )
            self._begin_anew()
        except LedgerError as error:
            self.lose(error)

    async def _call(self) -> None:
        state, queue, timetable, started = self._state, self._queue, self._timetable, self._loop.time()
        is_beat, batch = timetable.is_beat(started), self._batch()
        report = state.report(
            batch.wanted,
            asks=batch.asks or (),
            load=self._load(),
            owed=self._schedule.owed,
            gone=self._gone,
            beat=is_beat,
            now=started,
        )
        timetable.begin()
        with state.calls.timing(self._loop.time):
            view = await self._ask(report)
        was_away = state.away
        state.settle(report, view)
        self._gone = ()
        if is_beat or was_away:
            timetable.await_beat(started)
            if is_beat and self._pressure is not None:
                self._pressure.meet(state.pool.name, len(view.neighbours))
        if batch.wanted > 1 and (batch.asks is None or len(batch.asks) == len(queue.waiting)):
            timetable.rest(started, batch.wanted)
        if was_away:
            with self._spare("the news of a regained ledger"):
                self._regain()
        self._schedule.owed -= report.owed
        if view.offer or view.shortfall:
            with self._spare("the hints"):
                self._schedule.renew(view.offer, batch.refused(view), self._loop.time())
        if is_beat or was_away:
            with self._spare("the look for neighbours that are gone"):
                self._look_for_gone(view)
        if view.lapsed and not view.settling:  # else the ledger lost its data, and no lease ran out
            self._warn_of_lapse(report.held)
        if report.settings != view.settings:
            self._tell_of_settings(report, view)
        self._obey(view, is_beat)
        self._answer(batch, view, started)
        if state.unreported or state.draining != report.draining:
            timetable.report_soon()

    def _batch(self) -> Batch:
        with self._spare("the queue of handshakes"):
            return self._queue.batch()
        return Batch([], None if self._state.claims is None else ())  # the report matters more

    def _load(self) -> tuple[Load, ...]:
        with self._spare("the readings"):
            return self._pressure.load if self._pressure else ()
        return ()

    def _answer(self, batch: Batch, view: View, started: float) -> None:
        try:
            self._queue.answer(batch, view, started)
        except Exception as error:
            self._faults.note("the answer to handshakes", error)
            self._queue.take_back(batch, view)
        else:
            self._faults.recover("the answer to handshakes")

    async def _ask(self, report: Report) -> View:
        """The ledger's answer, or :exc:`LedgerUnavailable` after ``LEDGER_TIMEOUT``."""
        self._asking = call = self._loop.create_task(self._ledger.reconcile(self._state.pool.name, report))
        try:
            self._overdue = self._patience.begin()
            # Shielded, since a call may answer its own cancellation with another error, and ours would be lost.
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            call.cancel()
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                await asyncio.wait([call], timeout=self._settings.ledger_timeout)
                raise
            raise LedgerUnavailable(f"no answer within {self._settings.ledger_timeout:g} s") from None
        except Exception:
            call.cancel()  # unless it is over
            raise
        finally:
            self._asking = None

    def _look(self) -> bool:
        """Give up a call that has taken its time."""
        if self._asking is None:
            return False
        if self._overdue <= self._patience.now:
            self._asking.cancel()
        return True

    def _obey(self, view: View, is_beat: bool) -> None:
        """Do what operators have set, and tell of the pool's level what is ours to tell."""
        with self._spare("what operators have set"):
            self._drains.follow(view)
        with self._spare("the end of connections beyond a quota"):
            self._drains.evict(view)
        if is_beat:
            with self._spare("what operators enforce"):
                self._drains.enforce(view, self._settings.heartbeat)
        if view.healed:
            with self._spare("the news of damage"):
                self._tell_of_damage()
        if reason := self._state.closed:
            with self._spare("the refusal of all who wait"):
                self._queue.turn_away(reason)
        for edge in view.edges:
            with self._spare("the alerts"):
                self._events.level(edge, self._state.worker)

    def _tell_of_settings(self, report: Report, view: View) -> None:
        """Say once what other settings are in force than this worker's, and when its own are again."""
        pool, settings = self._state.pool.name, self._settings
        own = numbers_of(text_of(report, settings.lease, settings.heartbeat))
        in_force = numbers_of(view.settings)
        if not in_force:
            logger.warning("Pool %r: all workers have the same settings again.", pool)
            return
        differing = [name for name, number in in_force.items() if number != own.get(name)]
        logger.warning(
            "Pool %r: workers have different settings, and the strictest are in force: %s. This one has: %s. "
            "The workers on each side: manage.py ws_status --diagnose", pool,
            ", ".join(said(name, in_force[name]) for name in differing),
            ", ".join(said(name, own.get(name)) for name in differing),
        )  # fmt: skip

    def _look_for_gone(self, view: View) -> None:
        self._gone = tuple(neighbour.worker for neighbour in view.neighbours if is_gone(neighbour))

    # What may go wrong

    def _tell_of_damage(self) -> None:
        self._state.counters[HEALED] += 1
        now = self._loop.time()
        if now - self._told_of_damage >= DAMAGE_TOLD_EVERY:
            self._told_of_damage = now
            logger.warning(
                "Counts of pool %r in the ledger were damaged and are counted anew; does something else write there?",
                self._state.pool.name,
            )

    def _warn_of_lapse(self, held: int) -> None:
        logger.warning(
            "The lease of %s had run out: pool %r may have been above its limit by %d.",
            self._state.worker.id, self._state.pool.name, held,
        )  # fmt: skip

    def _begin_anew(self) -> None:
        """Go on under another name, and make it known at once."""
        self._state.rename()
        self._timetable.beat_now()

    def lose(self, error: LedgerError) -> None:
        """Decide alone until the ledger answers again."""
        state, now = self._state, self._loop.time()
        for_good = not isinstance(error, LedgerUnavailable)
        is_first = not state.away
        state.fail(now)
        self._timetable.await_probe(is_first=is_first)
        if is_first or (for_good and not self._refused_for_good):
            logger.log(
                logging.ERROR if for_good else logging.WARNING,
                "Ledger lost for pool %r, deciding alone (%s): %s",
                state.pool.name, state.pool.when_ledger_down, error,
            )  # fmt: skip
        self._refused_for_good = for_good
        if is_first:
            with self._spare("the news of a lost ledger"):
                self._events.ledger_lost(str(error), state.worker)
            with self._spare("the hints without a ledger"):
                self._schedule.go_alone(state.workers, now)
        with self._spare("the decision alone"):
            self._queue.answer_alone()

    def _regain(self) -> None:
        logger.warning("Ledger regained for pool %r.", self._state.pool.name)
        self._events.ledger_regained(self._state.worker)
        self._timetable.report_now()

    async def part(self) -> None:
        """Say goodbye."""
        try:
            async with asyncio.timeout(self._settings.ledger_timeout):
                await self._ledger.reconcile(
                    self._state.pool.name, self._state.report(goodbye=True, now=self._loop.time())
                )
        except (LedgerError, TimeoutError):
            pass  # the lease tells it then
