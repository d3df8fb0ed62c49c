"""Whatever goes wrong in a heartbeat, once or for ever: the limiter lives, answers, tells of it and recovers."""

import asyncio
import math
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from unittest.mock import AsyncMock

import psutil
import pytest
from django.core import mail

from channels_admission import lifespan, middleware
from channels_admission.conf.alerts import Recipients
from channels_admission.core.counters import AGED, DRAINED, FAULT, Reason, faults_in, is_decision
from channels_admission.core.protocol import Neighbour, Refusal
from channels_admission.core.readings import Load
from channels_admission.events.webhook import Sender
from channels_admission.exceptions import LedgerError, LedgerUnavailable
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.limiter import limiter as limiter_module
from channels_admission.limiter import lookout
from channels_admission.limiter.books.state import State
from channels_admission.limiter.calls import reconciler
from channels_admission.limiter.connections.slot import Slot
from channels_admission.limiter.limiter import Limiter
from channels_admission.limiter.registry import close_limiters, limiter_of
from channels_admission.overload.manager import OverloadManager
from channels_admission.overload.monitors import Lag
from channels_admission.overload.sampler import MOST_MISSED, Reader, Sensor
from channels_admission.runtime import faults, identity
from channels_admission.runtime.descriptors import SIZE, spares
from channels_admission.runtime.faults import Faults, kind_of
from channels_admission.runtime.identity import Worker, is_gone

from support.faulty import FaultyLedger
from support.limiters import limiter_over
from support.reports import Clock, Reporter
from support.waiting import eventually

ERRORS = (OSError, ValueError, OverflowError, MemoryError, RuntimeError, RecursionError)
HEARTBEAT = 0.02
AWAY = LedgerUnavailable("away")
PARTS = {
    "the ledger": lambda limiter: (limiter.reconciler.ledger, "reconcile"),
    "the wait": lambda limiter: (limiter.reconciler.schedule, "until_due"),
    "the beginning of a report": lambda limiter: (limiter, "begin_report"),
    "the revival of monitors": lambda limiter: (limiter.overload, "revive"),
    "shedding": lambda limiter: (limiter.overload, "to_shed"),
    "the batch": lambda limiter: (limiter.decisions.queue, "batch"),
    "the report": lambda limiter: (limiter.state, "begin_report"),
    "the settlement": lambda limiter: (limiter.state, "settle"),
    "the hints": lambda limiter: (limiter.retries, "renew"),
    "the look for neighbours": lambda limiter: (limiter_module, "gone_of"),
    "the drains": lambda limiter: (limiter.closer, "follow"),
    "an enforced limit": lambda limiter: (limiter.closer, "enforce"),
    "the answer": lambda limiter: (limiter.decisions, "_share_out"),
    "the reserve": lambda limiter: (spares, "fill"),
}

ESSENTIAL = {"the ledger", "the beginning of a report", "the report", "the settlement"}
"""Those without which there is no exchange: the limiter then decides alone. Without the others it reports as ever."""


class Broken:
    """A call that raises ``error`` instead of being made, ``times`` times or for ever."""

    def __init__(self, place, error, times=None):
        self.owner, self.name = place
        self.call = getattr(self.owner, self.name)
        self.error, self.times, self.raised = error, times, 0

    def __enter__(self):
        setattr(self.owner, self.name, self)
        return self

    def __exit__(self, *_):
        setattr(self.owner, self.name, self.call)

    def __call__(self, *args, **kwargs):
        if self.raised == self.times:
            return self.call(*args, **kwargs)
        self.raised += 1
        raise self.error("injected")


@pytest.fixture(autouse=True)
def _in_haste(monkeypatch):
    """Every fault is logged anew, and after one that leaves nothing in order the rest is short."""
    monkeypatch.setattr(faults, "AGAIN", 0.0)
    monkeypatch.setattr(reconciler, "REST", HEARTBEAT)
    monkeypatch.setattr(reconciler, "FIRST_PROBE", HEARTBEAT / 2)


@pytest.fixture
def opened(admission):
    """``async with opened(KEY=value) as limiter``: a limiter with monitors and a neighbour over a memory ledger."""

    @asynccontextmanager
    async def open_limiter(**keys):
        settings = admission(**{"MAX_CONNECTIONS": 3, "LEDGER_TIMEOUT": 0.1, "WHEN_LEDGER_DOWN": "freeze", **keys})
        settings = replace(settings, heartbeat=HEARTBEAT, lease=1.0)
        pressure, pool = OverloadManager(settings), settings.pool("default")
        neighbour = State(pool, Worker()).begin_report()
        await MemoryLedger(replace(settings, lease=3600.0)).reconcile("default", neighbour)
        limiter = Limiter(State(pool, Worker()), settings, FaultyLedger(MemoryLedger(settings)), pressure)
        await eventually(lambda: limiter.state.workers == 2)
        try:
            yield limiter
        finally:
            await limiter.aclose()
            await pressure.aclose()

    return open_limiter


async def answered(limiter):
    """The verdict on a handshake, which comes soon whatever is broken: on a busy machine as well."""
    async with asyncio.timeout(20 * limiter.settings.ledger_timeout):
        verdict = await limiter.acquire()
    assert isinstance(verdict, Slot | Refusal)
    return verdict


async def counted(limiter):
    """What the ledger counts for the limiter's worker."""
    (reading,) = await limiter.reconciler.ledger.read(("default",))
    return {each.worker: each.held for each in reading.workers}.get(limiter.state.worker.id)


async def is_sound(limiter):
    """Whether all parts work again, when somebody has knocked."""
    await answered(limiter)
    return not limiter.state.away and not limiter.faults._failing


async def is_told(limiter):
    """Whether the ledger knows what the limiter holds, and of all its faults."""
    (reading,) = await limiter.reconciler.ledger.read(("default",))
    theirs = faults_in(limiter.state.counters)
    return await counted(limiter) == limiter.state.held and faults_in(reading.counters) == theirs


def tracebacks(caplog, error):
    return [each for each in caplog.records if each.exc_info and each.exc_info[0] is error]


@pytest.mark.parametrize("part", PARTS)
async def test_no_error_in_any_part_of_a_heartbeat_ends_it(opened, caplog, part):
    async with opened() as limiter:
        for _ in range(3):
            assert isinstance(await limiter.acquire(), Slot)
        for error in ERRORS:
            for times in (1, None):
                caplog.clear()
                before = faults_in(limiter.state.counters).get(error.__name__, 0)
                with Broken(PARTS[part](limiter), error, times) as broken:

                    async def is_raised(broken=broken):
                        await answered(limiter)
                        return broken.raised >= (broken.times or 3)

                    await eventually(is_raised)
                    assert not limiter.task.done()
                    assert times or limiter.state.away == (part in ESSENTIAL)
                await eventually(lambda: is_sound(limiter))
                await eventually(lambda: is_told(limiter))
                assert len(tracebacks(caplog, error)) == 1
                assert faults_in(limiter.state.counters)[error.__name__] == before + broken.raised
                assert limiter.state.held == 3


# What runs beside it


async def test_a_limiter_that_is_cancelled_takes_its_registry_with_it_and_the_next_handshake_opens_another(
    admission, monkeypatch
):
    monkeypatch.setattr(spares, "_users", 0)  # tests before may have left event loops that they never closed
    spares.let_go()
    admission(MAX_CONNECTIONS=5)
    old = limiter_of("default")
    assert isinstance(await old.acquire(), Slot)
    assert len(spares) == SIZE
    old.task.cancel()
    await eventually(old.task.done)
    assert len(spares) == 0
    assert old.overload.load == tuple(Load(name, None, 0.0) for name in old.settings.pressure)
    limiter = limiter_of("default")
    assert limiter is not old
    assert limiter.overload is not old.overload
    assert limiter.reconciler.ledger is not old.reconciler.ledger
    assert isinstance(await limiter.acquire(), Slot)
    await eventually(lambda: all(load.reading is not None for load in limiter.overload.load))
    await close_limiters()
    assert len(spares) == 0


async def test_a_limiter_that_ends_before_it_begins_is_replaced(admission):
    admission(MAX_CONNECTIONS=5)
    old = limiter_of("default")
    old.task.cancel()
    await eventually(old.task.done)
    limiter = limiter_of("default")
    assert limiter is not old
    assert isinstance(await limiter.acquire(), Slot)
    await close_limiters()


async def test_an_alert_that_fails_ends_nothing_and_is_logged_once(opened, caplog):
    async with opened(MAX_CONNECTIONS=1) as limiter:
        with Broken((limiter.events, "level"), OSError) as broken:
            while broken.raised < 3:
                slot = await answered(limiter)
                await eventually(lambda: is_told(limiter))
                if isinstance(slot, Slot):
                    slot.release()
                await eventually(lambda: is_told(limiter))
        assert len(tracebacks(caplog, OSError)) == 1
        assert not limiter.task.done()


async def test_monitors_that_cannot_be_heard_are_unknown_until_they_can(opened, caplog):
    async with opened() as limiter:
        pressure = limiter.overload
        await eventually(lambda: all(load.reading is not None for load in pressure.load))
        with Broken((pressure, "_take_readings"), OverflowError) as broken:
            await eventually(lambda: broken.raised >= 3)
            assert {load.reading for load in pressure.load} == {None}
            assert not pressure.saturated
        await eventually(lambda: all(load.reading is not None for load in pressure.load))
        assert len(tracebacks(caplog, OverflowError)) == 1
        await eventually(lambda: is_told(limiter))
        assert faults_in(limiter.state.counters) == {"OverflowError": broken.raised}


async def test_a_look_at_the_event_loop_that_has_ended_is_begun_again_and_refuses_nobody(opened, monkeypatch):
    monkeypatch.setattr("channels_admission.overload.manager.MISSED", 0.1)
    async with opened() as limiter:
        pressure = limiter.overload
        await eventually(lambda: all(load.reading is not None for load in pressure.load))
        pressure._ticker.cancel()
        ended = pressure._ticker
        await eventually(lambda: pressure._ticker is not ended)
        await eventually(lambda: all(load.reading is not None for load in pressure.load))
        assert pressure.refusing() is None


async def test_a_look_that_a_blocked_event_loop_made_late_has_not_ended(opened, monkeypatch):
    monkeypatch.setattr("channels_admission.overload.manager.MISSED", 0.1)
    async with opened() as limiter:
        pressure = limiter.overload
        await eventually(lambda: all(load.reading is not None for load in pressure.load))
        asyncio.get_running_loop().call_soon(time.sleep, 0.5)
        limiter.report_now()  # the limiter has its turn right after the block
        await asyncio.sleep(0)
        await eventually(lambda: any(load.name == "lag" and (load.longest or 0) >= 0.3 for load in pressure.load), 1)


def test_a_lag_is_unknown_when_no_tick_comes_any_more():
    clock = Clock()
    lag = Lag(0.02, lambda: clock.now)
    lag.tick(0.125)
    clock.now += 4.0
    assert 3.8 < lag.read() <= 4.0
    clock.now += 1.2
    assert lag.percentiles(0.99, 0.5) == (None, None)
    lag.tick(0.125)
    assert 5.0 < lag.read() < 5.2


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
async def test_a_verdict_that_cannot_be_made_is_a_refusal_and_keeps_no_claim(opened, error):
    async with opened(QUOTAS=[{"key": f"{__name__}.client", "max": 5}]) as limiter:
        ask = limiter.rules.ask({})
        with Broken((limiter.decisions.slots, "give"), error):
            verdicts = await asyncio.gather(*(limiter.acquire(ask) for _ in range(3)))
        assert verdicts == [Refusal(Reason.LEDGER, limiter.pool.retry_after[1])] * 3
        assert isinstance(await limiter.acquire(ask), Slot)
        assert sum(limiter.state.claims._held.values()) == 1
        assert faults_in(limiter.state.counters) == {error.__name__: 3}


async def test_answers_that_fail_as_a_whole_give_back_what_was_claimed(opened):
    async with opened(QUOTAS=[{"key": f"{__name__}.client", "max": 3}]) as limiter:
        ask = limiter.rules.ask({})
        limiter.reconciler.schedule.heartbeat_at = math.inf  # none gives back what the handshakes are to take
        with Broken((limiter.decisions, "_answer_each"), MemoryError) as broken:
            verdicts = await asyncio.gather(*(limiter.acquire(ask) for _ in range(3)))
            assert broken.raised
        # Those that still wait take what none has got.
        assert [type(verdict) for verdict in verdicts] == [Slot] * 3
        assert sum(limiter.state.claims._held.values()) == 3
        for slot in verdicts:
            slot.release()
        await eventually(lambda: is_told(limiter))
        verdicts = await asyncio.gather(*(limiter.acquire(ask) for _ in range(4)))
        assert sum(isinstance(verdict, Slot) for verdict in verdicts) == 3


def client(scope):
    return "one"


async def test_whoever_waits_is_answered_although_a_look_at_them_fails(opened):
    async with opened() as limiter:
        limiter.reconciler.ledger.silent = True
        with Broken((limiter.decisions._verdicts, "overdue"), OSError):
            assert await answered(limiter) == Refusal(Reason.LEDGER, limiter.pool.retry_after[1])
        limiter.reconciler.ledger.silent = False


async def test_an_end_that_fails_keeps_no_other_connection_from_its_own(opened, caplog):
    async with opened(MAX_CONNECTION_AGE=1) as limiter:
        first = [Ending(fails=True), Ending(), Ending()]
        limiter.connections.update(dict.fromkeys(first, 0.0))
        limiter.lookout._look()
        assert [each.is_ending for each in first] == [False, True, True]
        assert limiter.lookout._timer is not None
        limiter.lookout._timer.cancel()
        second = [Ending(), Ending(fails=True), Ending()]
        limiter.connections.update(dict.fromkeys(second, math.inf))
        limiter.drain(0.05)
        await eventually(limiter.closer._task.done)
        assert [each.is_ending for each in second] == [True, False, True]
        assert (limiter.state.counters[AGED], limiter.state.counters[DRAINED]) == (2, 2)
        limiter.connections.clear()
    assert {record.args[1] for record in tracebacks(caplog, ZeroDivisionError)} == {
        "an end at the maximum age", "an end in a drain",
    }  # fmt: skip


class Ending:
    """A connection that is due to end, and may fail to."""

    due = 0.0
    unanswered = None
    is_ending = False

    def __init__(self, fails=False):
        self.fails = fails

    def is_busy(self):
        return False

    def end(self, code, reason):
        if self.fails:
            raise ZeroDivisionError
        self.is_ending = True


def test_a_thread_that_has_ended_is_started_again():
    reader = Reader(Sensor("told", lambda: 1.0))
    reader.ask()
    first = reader._thread
    reader._questions.put(False)
    first.join(5)
    while reader.take():
        pass
    reader.ask()
    assert reader._thread is not first
    deadline = time.monotonic() + 5
    while (readings := reader.take()) != {"told": 1.0}:
        assert time.monotonic() < deadline, readings
    reader.close()


def no_thread(self):
    raise RuntimeError("can't start new thread")


def test_monitors_for_which_no_thread_can_be_started_are_unknown_after_a_while(monkeypatch):
    reader = Reader(Sensor("told", lambda: 1.0))
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    for _ in range(MOST_MISSED):
        assert reader.take() == {}
        reader.ask()
    assert reader.take() == {"told": None}


def test_an_alert_waits_where_no_thread_can_be_started_and_goes_with_the_next(admins, monkeypatch, caplog):
    sender, to = Sender(), Recipients(mail_admins=True)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        assert sender.send(to, "first", {})
    assert "no thread could be started: can't start new thread" in caplog.text
    assert sender.send(to, "second", {})
    deadline = time.monotonic() + 5
    while len(mail.outbox) < 2:
        assert time.monotonic() < deadline
    assert [message.subject.rpartition(" ")[2] for message in mail.outbox] == ["first", "second"]


@pytest.mark.parametrize("error", ERRORS)
def test_a_kind_is_one_of_python_s_own_exceptions(error):
    class Theirs(error):
        pass

    assert kind_of(Theirs()) == error.__name__
    assert not is_decision(f"{FAULT}{error.__name__}")


def test_a_kind_of_error_is_logged_again_only_after_its_part_has_worked(caplog):
    book = Counter()
    faults = Faults("a pool", book)
    for error in (OSError(1), OSError(2), ValueError(3), OSError(4)):
        with faults.spare("a part"):
            raise error
    assert len(caplog.records) == 2
    with faults.spare("a part"):
        pass
    with faults.spare("a part"):
        raise OSError(5)
    assert [record.getMessage() for record in caplog.records] == [
        f"Unexpected {kind} in a part of a pool, which goes on." for kind in ("OSError", "ValueError", "OSError")
    ]
    assert book == {"fault:OSError": 4, "fault:ValueError": 1}


async def test_only_a_cancellation_of_the_task_itself_passes():
    faults = Faults("a pool")
    with faults.spare("a part"):
        raise asyncio.CancelledError

    async def wait():
        with faults.spare("a part"):
            await asyncio.Event().wait()

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# What Redis holds


@pytest.mark.parametrize("pid", [0, 2**31, 2**32 + 1, 9_999_999_999])
async def test_a_neighbour_with_an_impossible_pid_harms_nobody(in_redis, pid):
    await Reporter(in_redis, "ab", pid=pid).say(2)
    await Reporter(in_redis, "cd", pid=77).say(1)
    reply = await Reporter(in_redis, "ef", pid=78).say(1, heartbeat=True)
    assert reply.neighbours == (Neighbour("host:77:cd", 7),)
    assert not is_gone(Neighbour(f"host:{pid}:ab", 1))


@pytest.mark.parametrize("error", [*ERRORS, psutil.AccessDenied])
def test_a_look_at_a_neighbour_that_fails_is_no_death(monkeypatch, error):
    def fail(pid):
        raise error

    monkeypatch.setattr(identity.psutil, "Process", fail)
    if error in (MemoryError, RuntimeError, RecursionError):
        with pytest.raises(error):
            is_gone(Neighbour("host:77:cd", 5))
    else:
        assert not is_gone(Neighbour("host:77:cd", 5))


NONSENSE = [
    None, 7, [], [b"ok"], [b"ok", 1], [b"ok", 1, b"x", *[0] * 25], [b"ok", 1, 2.5, *[0] * 25], ["", 1],
    [b"ok", 1, None, *[b""] * 25], {b"ok": 1}, [[], 1],
]  # fmt: skip


@pytest.mark.parametrize("reply", NONSENSE, ids=repr)
async def test_a_reply_that_makes_no_sense_is_one_failed_call(in_redis, monkeypatch, reply):
    reporter = Reporter(in_redis, "cd")
    with monkeypatch.context() as patch:
        patch.setattr(in_redis, "_run", AsyncMock(return_value=reply))
        with pytest.raises(LedgerError):
            await reporter.say(1)
    assert (await reporter.say(1)).total == 1


async def test_a_limiter_that_cannot_be_opened_or_closed_stops_no_server(admission, monkeypatch, caplog):
    admission()
    events, answers = asyncio.Queue(), asyncio.Queue()
    for name in ("limiter_of", "close_limiters"):
        monkeypatch.setattr(lifespan, name, Broken((lifespan, name), OSError))
    for event in ("lifespan.startup", "lifespan.shutdown"):
        events.put_nowait({"type": event})
    await lifespan.AdmissionLifespan()({"type": "lifespan"}, events.get, answers.put)
    told = [answers.get_nowait()["type"] for _ in range(2)]
    assert told == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert len(tracebacks(caplog, OSError)) == 2


async def test_a_connection_that_cannot_be_made_keeps_no_slot(admission, monkeypatch):
    admission(MAX_CONNECTIONS=1)
    monkeypatch.setattr(lookout, "Connection", Broken((lookout, "Connection"), MemoryError, 1))
    application = middleware.AdmissionMiddleware(AsyncMock())
    scope = {"type": "websocket", "headers": []}
    with pytest.raises(MemoryError):
        await application(dict(scope), AsyncMock(), AsyncMock())
    assert limiter_of("default").state.held == 0
    await application(dict(scope), AsyncMock(), AsyncMock())
    assert application.inner.await_count == 1
    await close_limiters()


def test_a_limiter_that_is_collected_with_its_event_loop_waits_for_no_other_ones_call(admission):
    settings = admission(MAX_CONNECTIONS=5)

    async def begin():
        limiter = limiter_over(settings, MemoryLedger(settings))
        await eventually(lambda: limiter.state.calls.made and not limiter.state.away)
        return limiter

    async def collect():
        limiter.task.get_coro().close()

    loop = asyncio.new_event_loop()
    limiter = loop.run_until_complete(begin())
    loop.close()
    with MemoryLedger._lock:
        collecting = threading.Thread(target=lambda: asyncio.run(collect()), daemon=True)
        collecting.start()
        collecting.join(5)
        assert not collecting.is_alive()


@pytest.mark.parametrize("is_ending", [False, True])
def test_a_limiter_that_is_collected_with_its_event_loop_waits_for_nothing(admission, monkeypatch, is_ending):
    """Nor does it give back once more what the worker after it has: its reserve of descriptors."""
    admission(MAX_CONNECTIONS=5)
    users = spares._users

    async def begin():
        limiter = limiter_of("default")
        await eventually(lambda: limiter.state.calls.made and not limiter.state.away)
        saying = asyncio.Event()

        async def say_goodbye():
            saying.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(limiter.reconciler, "_say_goodbye", say_goodbye)
        if is_ending:
            limiter.task.cancel()
            await saying.wait()
        return limiter

    async def begin_anew(old):
        limiter_of("default")
        monkeypatch.setattr(old.events, "aclose", asyncio.Event().wait)
        old.task.get_coro().close()
        assert spares._users == users + 1
        await old.overload.aclose()
        await close_limiters()

    loop = asyncio.new_event_loop()
    limiter = loop.run_until_complete(begin())
    loop.close()
    asyncio.run(begin_anew(limiter))
    assert spares._users == users


def test_a_slot_can_be_released_once_its_event_loop_is_closed(admission):
    async def begin():
        slot = await limiter_of("default").acquire()
        await asyncio.sleep(0)
        return slot, slot.limiter

    async def begin_anew():
        limiter_of("default")
        await limiter.overload.aclose()
        await close_limiters()

    admission(MAX_CONNECTIONS=5)
    loop = asyncio.new_event_loop()
    slot, limiter = loop.run_until_complete(begin())
    loop.close()
    slot.release()
    assert (slot.limiter, limiter.state.held) == (None, 0)
    limiter.task.get_coro().close()
    asyncio.run(begin_anew())


async def test_a_limiter_that_is_started_twice_makes_each_call_once(admission):
    settings = admission(MAX_CONNECTIONS=5)
    limiter = limiter_over(settings, MemoryLedger(settings))
    tasks = asyncio.all_tasks()
    assert limiter.reconciler.start() is limiter.task
    assert asyncio.all_tasks() == tasks
    await limiter.aclose()
