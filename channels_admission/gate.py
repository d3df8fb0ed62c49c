"""The gate: one event loop's door to one pool.

One task per gate talks to the ledger, one call at a time. Handshakes that arrive while a call is
under way share the next one, and releases ride along, so that a herd of a thousand costs a
handful of calls. Nothing here waits on the ledger longer than ``LEDGER_TIMEOUT``.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from contextvars import Context

from .account import Account
from .alerts import Alerts
from .claims import first_asks, with_moments
from .conf import PoolSettings, Settings
from .connection import Ages, Connection
from .drain import Drains
from .exceptions import LedgerError, LedgerUnavailable
from .journal import Journal
from .ledger.base import Forgotten, Ledger, OutOfOrder
from .notices import Notices
from .pace import Schedule
from .pressure import Pressure
from .rules import Rules, classes
from .types import DRY, QUOTA, Ask, Reason, Refusal, Report, View
from .worker import Worker, is_gone

logger = logging.getLogger("channels_admission")

CROWD_PAUSE = 0.005
"""Seconds from one call to the next for each handshake that the first one decided, if there were several."""
LONGEST_PAUSE = 0.4
"""The most of ``LEDGER_TIMEOUT`` that such a pause may take: a large herd makes ten calls a second."""
RELEASE_PAUSE = 0.1
"""Seconds a release waits for company while the pool has room: at most ten calls a second then, as for a herd.

Whoever comes meanwhile takes a slot that is still counted, and needs no call at all."""
FULL_FRESH = 0.02
"""Seconds for which a pool that could not grant all is taken to have nothing left: at most 50 calls a second then.

Longer where a crowd knocks at a full pool, as long as a herd pauses: to wait for a refusal costs a worker four times
what the refusal does. Slots that the worker itself gets back are given away at once all the same.
"""
TICKS = 10
"""Ticks in ``LEDGER_TIMEOUT``. One that comes late counts once: a busy event loop is no silent ledger."""
MOST_WAITING = 5000
"""Handshakes that may wait in one gate; a herd above it is refused without a thought."""
FIRST_PROBE = 0.05
"""Seconds until a lost ledger is asked again; doubles up to a beat."""
PATIENCE_AT_EXIT = 0.1
"""Seconds a last report waits for slots that are being released at the same time."""


class Slot:
    """The right to hold one open connection in a pool, given back once by :meth:`release`."""

    __slots__ = ("_gate", "ask", "is_authenticated")

    def __init__(self, gate: "Gate", ask: Ask | None = None) -> None:
        self._gate: Gate | None = gate
        self.ask = ask
        """What it was given for, in a pool that is shared by quotas or classes."""
        self.is_authenticated = False
        """Whether its client is known, as far as anybody has said."""

    @property
    def gate(self) -> "Gate | None":
        """Where it came from, or None after the release."""
        return self._gate

    @property
    def pool(self) -> str | None:
        """The name of the pool, or None after the release."""
        return self._gate.pool.name if self._gate else None

    def release(self) -> None:
        """Give the slot back. Synchronous, repeatable, and cannot fail; the ledger hears of it shortly."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate._release(self.ask)

    def authenticated(self) -> None:
        """Count its connection no longer among those who have yet to authenticate. Synchronous and repeatable."""
        self.is_authenticated = True
        if self._gate is not None and self.ask is not None:
            self._gate._acquaint(self)


class Held(Mapping[str, Slot]):
    """The slots that one connection holds, by the names of their pools, in less memory than a dict takes.

    Those that were released are among them no more.
    """

    __slots__ = ("_first", "_others")

    def __init__(self, slot: Slot, others: Iterable[Slot] = ()) -> None:
        self._first = slot
        self._others = tuple(others)

    def __getitem__(self, pool: str) -> Slot:
        for slot in (self._first, *self._others):
            if slot.pool == pool:
                return slot
        raise KeyError(pool)

    def __iter__(self) -> Iterator[str]:
        return (slot.pool for slot in (self._first, *self._others) if slot.pool is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Handshake(asyncio.Future["Slot | Refusal"]):
    """A handshake that waits for its verdict."""

    number: int
    overdue: int
    """The tick at which it has waited its time."""
    ask: Ask | None = None
    slot: Slot | None = None
    """What it has already, where it asks for more."""


class Gate:
    """A worker's slots in one pool, its waiting handshakes and its beat. Belongs to one event loop."""

    def __init__(
        self,
        pool: PoolSettings,
        settings: Settings,
        ledger: Ledger,
        worker: Worker,
        server: str = "",
        pressure: Pressure | None = None,
        on_end: Callable[["Gate"], Awaitable[None]] | None = None,
        account: Account | None = None,
    ) -> None:
        self.pool = pool
        self.settings = settings
        self.account = account or Account(pool, worker, server)
        self.rules = Rules(pool, settings) if pool.is_shared else None
        """What its handshakes must ask for; None where they ask for a slot and nothing else."""
        self.notices = Notices(pool)
        self.refusals_held = 0
        """Refused clients that are kept a while, now."""
        self._ledger = ledger
        self._pressure = pressure
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Handshake] = deque()
        self._arrivals = 0
        self._tick = 0
        self._ticker: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[View] | None = None
        self._asking_overdue = 0
        self._bell = asyncio.Event()
        self._beat_at = self._loop.time()
        self._quiet_until = 0.0
        self._shed_at = 0.0
        self._full_until = 0.0
        self._turned_away = 0
        self._shortfall = Reason.FULL
        self._full: dict[int, tuple[float, str]] = {}
        """For each class until when it is taken to have no room, and why."""
        self._schedule = Schedule(self.account.terms)
        self.connections: dict[Connection, Slot] = {}
        """The connections that hold its slots, each with its own, the youngest last."""
        self.drains = Drains(self.account, self._schedule, self.connections)
        self.ages = Ages(pool.max_connection_age, self.connections, self.drains.grow_old)
        self._refused_for_good = False
        self._report_at: float | None = None
        self._backoff = FIRST_PROBE
        self._gone: tuple[str, ...] = ()
        self._journal = Journal(pool.name, self.account.counters)
        self._alerts = Alerts(pool.name, settings.alerts)
        self._retired = False
        self._parting = False
        self._exiting = False
        # An empty context: the gate outlives the handshake that opened it, and should keep nothing of it.
        self._task = self._loop.create_task(self._run(), name=f"admission gate {pool.name!r}", context=Context())

    @property
    def calls(self) -> int:
        """Calls made to the ledger so far."""
        return self.account.calls.made

    @property
    def saturated(self) -> bool:
        """Whether this worker refuses every handshake for what its monitors read."""
        return self._pressure is not None and self._pressure.saturated

    # For handshakes

    async def acquire(self, ask: Ask | None = None) -> Slot | Refusal:
        """A slot, or a refusal, within ``LEDGER_TIMEOUT``. Cancelling it costs no slot.

        ``ask`` comes from the gate's :class:`~.rules.Rules`, where it has any.
        """
        if self.rules is not None:
            return await self._acquire_shared(ask or Ask())
        account = self.account
        if reason := account.closed:
            return self._refuse(reason)
        if self._pressure is not None and (monitor := self._pressure.refusing()):
            return self._refuse(monitor)
        if account.away or self._parting:
            return self._decide_alone()
        if account.has_room and not self._waiting:
            return self._admit()
        if self._loop.time() < self._full_until:
            self._turned_away += 1
            return self._refuse(self._shortfall)
        if len(self._waiting) >= MOST_WAITING:
            return self._refuse(Reason.CROWD)
        return await self._verdict(self._queue())

    async def claim(self, slot: Slot, ask: Ask) -> Refusal | None:
        """Let the connection that holds ``slot`` have what it asks for as well, or refuse it."""
        if self.account.away or self._parting:
            verdict = self._decide_alone(ask, slot)
        else:
            verdict = await self._verdict(self._queue(ask, slot))
        return verdict if isinstance(verdict, Refusal) else None

    async def _acquire_shared(self, ask: Ask) -> Slot | Refusal:
        """The same, where what is asked for beside the slot matters; an open gate always admits the exempt."""
        if reason := self.account.closed:
            return self._refuse(reason, ask)
        if not self._is_exempt(ask):
            if self._pressure is not None and (monitor := self._pressure.refusing()):
                return self._refuse(monitor, ask)
            until, why = self._full.get(ask.group, (0.0, ""))
            if self._loop.time() < until and not self.account.away:
                return self._refuse(why, ask)
            if len(self._waiting) >= MOST_WAITING:
                return self._refuse(Reason.CROWD, ask)
        if self.account.away or self._parting:
            return self._decide_alone(ask)
        return await self._verdict(self._queue(ask))

    def _is_exempt(self, ask: Ask | None) -> bool:
        return ask is not None and self.rules is not None and self.rules.is_exempt(ask.group)

    async def _verdict(self, handshake: _Handshake) -> Slot | Refusal:
        try:
            return await handshake
        except asyncio.CancelledError:
            self._abandon(handshake)
            raise

    def _queue(self, ask: Ask | None = None, slot: Slot | None = None) -> _Handshake:
        handshake = _Handshake(loop=self._loop)
        handshake.ask, handshake.slot = ask, slot
        self._arrivals += 1
        handshake.number = self._arrivals
        handshake.overdue = self._tick + TICKS
        self._waiting.append(handshake)
        if len(self._waiting) == 1:
            self._bell.set()
            self._keep_ticking()
        return handshake

    def _abandon(self, handshake: _Handshake) -> None:
        """The handshake was cancelled, perhaps just after its slot was given."""
        if handshake.done() and not handshake.cancelled():
            verdict = handshake.result()
            if isinstance(verdict, Slot):
                verdict.release()

    def _admit(self, ask: Ask | None = None) -> Slot:
        self.account.admit(ask)
        return Slot(self, ask)

    def _give(self, ask: Ask | None, slot: Slot | None) -> Slot:
        """A slot, or ``slot`` with what is asked for as well."""
        if slot is None or slot.ask is None or ask is None:
            return self._admit(ask)
        if self.account.claims is not None:
            self.account.claims.leave(slot.ask.group)
            self.account.claims.enter(ask.group)
        slot.ask = Ask(slot.ask.claims + ask.claims, ask.group)
        return slot

    def _acquaint(self, slot: Slot) -> None:
        """The slot's connection has authenticated."""
        if self.rules is None or self.account.claims is None or slot.ask is None:
            return
        known = self.rules.without_pending(slot.ask)
        if known != slot.ask:
            self.account.claims.give(self.rules.pending)
            slot.ask = known
            self._report_soon()

    def _refuse(self, reason: str, ask: Ask | None = None, slot: Slot | None = None) -> Slot | Refusal:
        """A refusal, or what was asked for where a dry run refuses nobody; a drain is none of its matters."""
        is_dry = self.account.dry_run and reason != Reason.DRAINING
        self.account.refuse(f"{DRY}{reason}" if is_dry else reason)
        self._journal.note()
        if is_dry:
            self._report_soon()
            return self._take(ask, slot)
        if reason.startswith(QUOTA):
            return Refusal(reason, self._schedule.chance())
        return Refusal(reason, self._schedule.next(self._loop.time()))

    def _take(self, ask: Ask | None, slot: Slot | None) -> Slot:
        """What is asked for, without the ledger's word."""
        if ask is not None and self.account.claims is not None:
            self.account.claims.take(ask)
        return self._give(ask, slot)

    def _decide_alone(self, ask: Ask | None = None, slot: Slot | None = None) -> Slot | Refusal:
        reason = None
        if slot is not None:
            reason = self.account.claim_alone(ask)
        elif not self._is_exempt(ask):
            reason = self.account.refusal_alone(self._loop.time(), ask)
        return self._take(ask, slot) if reason is None else self._refuse(reason, ask, slot)

    def _shed(self) -> None:
        """Where memory runs out, end a bounded number of connections a beat.

        Those of the class with the least share first, and of one class the youngest, which have the least to lose.
        """
        now = self._loop.time()
        if self._pressure is None or not self._pressure.out_of_memory or now < self._shed_at or self.account.dry_run:
            return
        self._shed_at = now + self.settings.beat
        self.drains.shed(self.settings.shed_per_beat, self._share_of)

    def _share_of(self, connection: Connection) -> float:
        """The share of the pool that the connection's class may fill; without classes, the same for all."""
        ask = self.connections[connection].ask
        return 1.0 if ask is None else classes(self.pool)[ask.group].share

    def _release(self, ask: Ask | None) -> None:
        self.account.release(ask)
        self._report_soon()

    def _report_soon(self) -> None:
        """Tell the ledger of what was taken or given back without it."""
        if self._report_at is None:
            self._report_at = self._loop.time() + (0 if self.account.scarce else RELEASE_PAUSE)
            self._bell.set()

    # Verdicts for those who wait

    def _answer_waiting(self, covered: int) -> None:
        """Admit in the order of arrival as far as slots are counted, then refuse the call's own handshakes."""
        waiting = self._waiting
        while waiting:
            if waiting[0].done():
                waiting.popleft()
            elif self.account.has_room:
                waiting.popleft().set_result(self._admit())
            elif waiting[0].number <= covered:
                waiting.popleft().set_result(self._refuse(self._shortfall))
            else:
                break

    def _answer_asked(self, asked: list[_Handshake], verdicts: tuple[str, ...]) -> None:
        """Tell each what the ledger said; what was granted to one who has gone meanwhile is free again."""
        until = self._loop.time() + FULL_FRESH
        for handshake, reason in zip(asked, verdicts, strict=True):
            ask, slot = handshake.ask, handshake.slot
            if reason and ask is not None and not (ask.late or reason.startswith(QUOTA)):
                self._full[ask.group] = until, reason
            if not handshake.done():
                given = self._refuse(reason, ask, slot) if reason else self._give(ask, slot)
                handshake.set_result(given)
            elif not reason and ask is not None and self.account.claims is not None:
                self.account.claims.give(ask)
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()

    def _answer_all_alone(self) -> None:
        while self._waiting:
            handshake = self._waiting.popleft()
            if not handshake.done():
                handshake.set_result(self._decide_alone(handshake.ask, handshake.slot))

    def _turn_away(self, reason: Reason) -> None:
        """Refuse all who wait for a slot."""
        for handshake in self._waiting:
            if handshake.slot is None and not handshake.done():
                handshake.set_result(self._refuse(reason, handshake.ask))

    # The limit of patience

    def _keep_ticking(self) -> None:
        if self._ticker is None:
            self._ticker = self._loop.call_later(self.settings.ledger_timeout / TICKS, self._count_tick)

    def _count_tick(self) -> None:
        """Decide for the handshakes that have waited their time, and give up a call that has taken its own."""
        self._ticker = None
        self._tick += 1
        waiting = self._waiting
        while waiting and (waiting[0].done() or waiting[0].overdue <= self._tick):
            handshake = waiting.popleft()
            if not handshake.done():
                handshake.set_result(self._overdue(handshake))
        if self._asking is not None and self._asking_overdue <= self._tick:
            self._asking.cancel()
        if waiting or self._asking is not None:
            self._keep_ticking()

    def _overdue(self, handshake: _Handshake) -> Slot | Refusal:
        ask = handshake.ask
        if self._is_exempt(ask) or (ask is None and self.account.has_room):
            return self._give(ask, handshake.slot)
        return self._refuse(Reason.LEDGER, ask, handshake.slot)

    # The conversation with the ledger

    async def _run(self) -> None:
        try:
            while not (self._retired and self.account.held == 0):
                await self._until_due()
                await self._exchange()
        finally:
            await self._part()

    def _due(self) -> float:
        """When the next call should start, in the loop's time."""
        due = self._beat_at
        if not self.account.away:
            if self._waiting or self._gone:
                due = min(due, self._quiet_until)
            if self._report_at is not None:
                due = min(due, max(self._report_at, self._quiet_until))
        return due

    async def _until_due(self) -> None:
        while (delay := self._due() - self._loop.time()) > 0:
            self._bell.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._bell.wait()

    async def _exchange(self) -> None:
        """One call, its answer to the waiting, and a second try where only the connection broke."""
        self._shed()
        try:
            try:
                await self._call()
            except LedgerUnavailable as error:
                if not error.reset or self.account.away:
                    raise
                await self._call()
        except Forgotten:
            self._warn_of_lapse(self.account.held)
            self.account.rename()
            self._beat_at = self._loop.time()
        except OutOfOrder as error:
            logger.warning(
                "Another worker reports as %s (%s); going on under a new name.", self.account.worker.id, error
            )
            self.account.rename()
            self._beat_at = self._loop.time()
        except LedgerError as error:
            self._lose(error)

    async def _call(self) -> None:
        account, started = self.account, self._loop.time()
        is_beat = started >= self._beat_at
        asked, asks = self._asked()
        if self.rules is None:
            wanted = sum(not handshake.done() for handshake in self._waiting)
        else:
            wanted = sum(not ask.late for ask in asks)
        covered = self._arrivals
        load = self._pressure.load if self._pressure else ()
        report = account.report(wanted, asks=asks, load=load, owed=self._schedule.owed, gone=self._gone, beat=is_beat)
        self._report_at = None
        with account.calls.timing(self._loop.time):
            view = await self._ask(report)
        was_away = account.away
        account.settle(report, view)
        self._gone = ()
        if was_away:
            self._regain(started)
        self._schedule.owed -= report.owed
        if view.offer or view.shortfall:
            refused = wanted - view.granted if self.rules is None else with_moments(view.verdicts)
            self._schedule.renew(view.offer, refused, self._loop.time())
        if view.shortfall and self.rules is None:
            self._full_until = started + self._fresh(view.shortfall, wanted - view.granted)
            self._shortfall = view.shortfall
        if is_beat or was_away:
            self._beat_at = started + self.settings.beat * random.uniform(0.9, 1.0)
            self._look_for_gone(view)
        if wanted > 1 and (self.rules is None or len(asked) == len(self._waiting)):
            self._quiet_until = started + min(CROWD_PAUSE * wanted, LONGEST_PAUSE * self.settings.ledger_timeout)
        if view.lapsed and not view.settling:  # else the ledger lost its data, and no lease ran out
            self._warn_of_lapse(report.held)
        self._obey(view, is_beat)
        if self.rules is None:
            self._answer_waiting(covered)
        else:
            self._answer_asked(asked, view.verdicts)
        if account.unreported or account.draining != report.draining:
            self._report_soon()

    def _obey(self, view: View, is_beat: bool) -> None:
        """Do what operators have set, and tell of the pool's level what is ours to tell."""
        self.drains.follow(view)
        if is_beat:
            self.drains.enforce(view, self.settings.beat)
        if reason := self.account.closed:
            self._turn_away(reason)
        for edge in view.edges:
            self._alerts.tell(edge, self.account.worker.id)

    def _asked(self) -> tuple[list[_Handshake], tuple[Ask, ...]]:
        """The handshakes whose verdicts the next call brings, and what they ask for."""
        if self.rules is None:
            return [], ()
        waiting = [(each, each.ask) for each in self._waiting if each.ask is not None and not each.done()]
        waiting = waiting[: first_asks(ask for _, ask in waiting)]
        return [each for each, _ in waiting], tuple(ask for _, ask in waiting)

    def _fresh(self, shortfall: Reason, refused: int) -> float:
        """Seconds for which nobody needs to ask again, so many having been refused just now."""
        crowd, self._turned_away = refused + self._turned_away, 0
        if shortfall is not Reason.FULL:
            return FULL_FRESH
        return max(FULL_FRESH, min(CROWD_PAUSE * crowd, LONGEST_PAUSE * self.settings.ledger_timeout))

    async def _ask(self, report: Report) -> View:
        """The ledger's answer, or :exc:`LedgerUnavailable` after ``LEDGER_TIMEOUT``."""
        self._asking = call = self._loop.create_task(self._ledger.reconcile(self.pool.name, report))
        self._asking_overdue = self._tick + TICKS
        self._keep_ticking()
        try:
            # Shielded, since a call may answer its own cancellation with another error, and ours would be lost.
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            call.cancel()
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                await asyncio.wait([call], timeout=self.settings.ledger_timeout)
                raise
            raise LedgerUnavailable(f"no answer within {self.settings.ledger_timeout:g} s") from None
        finally:
            self._asking = None

    def _warn_of_lapse(self, held: int) -> None:
        logger.warning(
            "The lease of %s had run out: pool %r may have been above its limit by %d.",
            self.account.worker.id, self.pool.name, held,
        )  # fmt: skip

    def _look_for_gone(self, view: View) -> None:
        self._gone = tuple(neighbour.worker for neighbour in view.neighbours if is_gone(neighbour))

    def _lose(self, error: LedgerError) -> None:
        for_good = not isinstance(error, LedgerUnavailable)
        if not self.account.away or (for_good and not self._refused_for_good):
            logger.log(
                logging.ERROR if for_good else logging.WARNING,
                "Ledger lost for pool %r, deciding alone (%s): %s",
                self.pool.name, self.pool.when_ledger_down, error,
            )  # fmt: skip
        if not self.account.away:
            self._backoff = FIRST_PROBE
            self._alerts.lose(self.account.worker.id, str(error))
        self._refused_for_good = for_good
        if not self.account.away:
            self._schedule.go_alone(self.account.workers, self._loop.time())
        self.account.fail(self._loop.time())
        self._answer_all_alone()
        self._beat_at = self._loop.time() + self._backoff * random.uniform(0.5, 1.5)
        self._backoff = min(2 * self._backoff, self.settings.beat / 1.5)

    def _regain(self, now: float) -> None:
        logger.warning("Ledger regained for pool %r.", self.pool.name)
        self._alerts.regain(self.account.worker.id)
        self._report_at = now

    # Parting

    def drain(self, seconds: float) -> None:
        """Refuse newcomers, and end all connections within ``seconds``: the process is about to end."""
        self.drains.drain_for_good(seconds)
        self._turn_away(Reason.DRAINING)
        self._report_soon()

    def retire(self) -> None:
        """Stop when the last slot is released: other settings are in force, and another gate serves them."""
        self._retired = True
        self._report_at = self._loop.time()
        self._bell.set()

    async def aclose(self, *, exiting: bool = False) -> None:
        """Say goodbye to the ledger; handshakes that come later are decided alone.

        ``exiting`` says that the process ends now, and with it every connection that still holds a slot.
        """
        self._exiting = exiting
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _part(self) -> None:
        self._parting = True
        if self._ticker is not None:
            self._ticker.cancel()
        self._journal.close()
        self.drains.cancel()
        self._answer_all_alone()
        patience = self._loop.time() + PATIENCE_AT_EXIT
        while self.account.held and self._loop.time() < patience:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        if self._exiting:
            self.account.held = 0
        with suppress(LedgerError, TimeoutError):
            async with asyncio.timeout(self.settings.ledger_timeout):
                await self._ledger.reconcile(self.pool.name, self.account.report(goodbye=True))
        await self._alerts.aclose()
        if self._on_end is not None:
            await self._on_end(self)
