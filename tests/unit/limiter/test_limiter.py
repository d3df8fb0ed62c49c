"""The limiter: coalescing, cancellation, outages, lost replies, shared identities, parting."""

import asyncio
import logging
import multiprocessing
import threading
import time
from dataclasses import replace

import pytest

from channels_admission import __version__
from channels_admission.core.counters import WAITED, WAITS, Reason
from channels_admission.core.protocol import Refusal
from channels_admission.events import log
from channels_admission.exceptions import LedgerRefused, LedgerUnavailable
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.limiter import decisions, registry
from channels_admission.limiter.books.state import State
from channels_admission.limiter.limiter import Limiter, Slot
from channels_admission.limiter.registry import close_limiters, limiter_of
from channels_admission.runtime.identity import Worker

from support.faulty import FaultyLedger
from support.limiters import limiter_over, over_a_road
from support.virtual import in_virtual_time
from support.waiting import eventually

OUTAGE = LedgerUnavailable("the road is closed")


@pytest.fixture
def opened(admission):
    """``async with opened(KEY=value) as limiter``: a limiter over a memory ledger with a road that can break."""

    return lambda **keys: over_a_road(
        admission(**{"MAX_CONNECTIONS": 10, "HEARTBEAT": 0.2, "LEASE": 2, "LEDGER_TIMEOUT": 0.1, **keys})
    )


async def counted(limiter):
    """Slots the ledger counts for all workers, and the number of workers."""
    (reading,) = await limiter.reconciler.ledger.read(("default",))
    return sum(worker.held for worker in reading.workers), len(reading.workers)


async def take(limiter, count):
    slots = await asyncio.gather(*(limiter.acquire() for _ in range(count)))
    if not all(isinstance(slot, Slot) for slot in slots):
        raise AssertionError(f"not all admitted: {slots}")
    return slots


async def counts(limiter, held):
    await eventually(lambda: _is_counted(limiter, held))


async def _is_counted(limiter, held):
    return limiter.state.held == held and (await counted(limiter))[0] == held


@in_virtual_time
async def test_a_thousand_handshakes_at_once_cost_a_handful_of_calls(opened):
    async with opened(MAX_CONNECTIONS=600) as limiter:
        verdicts = await asyncio.gather(*(limiter.acquire() for _ in range(1000)))
        assert sum(isinstance(verdict, Slot) for verdict in verdicts) == 600
        assert limiter.state.calls.made <= 3
        assert limiter.state.counters == {"admitted": 600, "full": 400, "promised": 400}


async def test_the_last_report_tells_how_many_calls_were_made_and_failed_and_how_long_they_took(opened):
    started = time.monotonic()
    async with opened() as limiter:
        await take(limiter, 2)
        limiter.reconciler.ledger.delay = 0.02
        limiter.reconciler.ledger.errors = [LedgerUnavailable("cut", reset=True)]
        (slot,) = await take(limiter, 1)
        slot.release()
    *calls, goodbye = limiter.reconciler.ledger.reports
    assert goodbye.counters["ledger.calls"] == len(calls)
    assert goodbye.counters["ledger.errors"] == 1
    assert 20 <= goodbye.counters["ledger.ms"] <= 1000 * (time.monotonic() - started)


@in_virtual_time
async def test_an_admitted_handshake_is_counted_by_how_long_it_waited_and_a_refused_one_is_not(opened):
    def scope() -> dict:
        return {"type": "websocket", "path": "/", "query_string": b"", "headers": []}

    async def message(*_):
        raise AssertionError("no message is due")

    async with opened(MAX_CONNECTIONS=1) as limiter:
        limiter.reconciler.ledger.delay = 0.03
        connection = await limiter.enter(scope(), message, message)
        assert isinstance(await limiter.enter(scope(), message, message), Refusal)
        limiter.leave(connection)
    counters = limiter.reconciler.ledger.reports[-1].counters
    waited = {name: count for name, count in counters.items() if name in WAITS}
    assert list(waited.values()) == [1]
    assert WAITS.index(*waited) > WAITS.index("wait.le.0.025")
    assert counters[WAITED] >= 30


@in_virtual_time
async def test_a_retired_limiter_asks_for_all_that_wait_before_it_ends(opened):
    async with opened(CONNECT_RATE=0.5, CONNECT_BURST=1) as limiter:
        (slot,) = await take(limiter, 1)
        slot.release()
        await counts(limiter, 0)
        limiter.reconciler.ledger.delay = 0.02
        first = asyncio.ensure_future(limiter.acquire())
        await eventually(lambda: any(each.is_asked for each in limiter.decisions.queue.waiting))
        second = asyncio.ensure_future(limiter.acquire())
        await asyncio.sleep(0)
        limiter.retire()
        assert [each.reason for each in await asyncio.gather(first, second)] == ["rate", "rate"]
        await eventually(limiter.task.done)


async def test_a_thousand_handshakes_one_after_the_other_in_a_second_share_calls(opened):
    async with opened(MAX_CONNECTIONS=1000, HEARTBEAT=1, LEASE=10, LEDGER_TIMEOUT=1) as limiter:
        limiter.reconciler.ledger.delay = 0.002

        async def arrive(number):
            await asyncio.sleep(number / 2000)
            return await limiter.acquire()

        verdicts = await asyncio.gather(*(arrive(number) for number in range(1000)))
        assert all(isinstance(verdict, Slot) for verdict in verdicts)
        assert limiter.state.calls.made <= 20


@in_virtual_time
async def test_a_refusal_names_its_reason_and_a_hint_within_bounds(opened):
    async with opened(MAX_CONNECTIONS=0, RETRY_AFTER=(2, 3)) as limiter:
        verdict = await limiter.acquire()
        assert isinstance(verdict, Refusal)
        assert verdict.reason is Reason.FULL
        assert 2 <= verdict.retry_after <= 3


@in_virtual_time
async def test_a_slot_is_given_back_once(opened):
    async with opened() as limiter:
        first, second = await take(limiter, 2)
        assert first.pool == "default"
        for _ in range(3):
            first.release()
        assert first.pool is None
        await counts(limiter, 1)
        second.release()
        await counts(limiter, 0)


@in_virtual_time
async def test_a_freed_slot_is_taken_again_without_asking(opened):
    async with opened(HEARTBEAT=5, LEASE=50) as limiter:
        (slot,) = await take(limiter, 1)
        calls = limiter.state.calls.made
        for _ in range(100):
            slot.release()
            slot = await limiter.acquire()
            assert isinstance(slot, Slot)
        assert limiter.state.calls.made == calls


@in_virtual_time
async def test_a_freed_slot_of_a_full_pool_is_reported_at_once(opened):
    async with opened(HEARTBEAT=5, LEASE=50) as limiter:
        slots = await take(limiter, 10)
        slots[0].release()
        await eventually(lambda: _is_counted(limiter, 9), seconds=0.5)


@pytest.mark.parametrize("delay", [0.0, 0.05])
@in_virtual_time
async def test_cancelled_handshakes_cost_no_slot(opened, delay):
    async with opened() as limiter:
        limiter.reconciler.ledger.delay = delay
        waiting = [asyncio.ensure_future(limiter.acquire()) for _ in range(30)]
        await asyncio.sleep(delay / 2)
        for handshake in waiting:
            handshake.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert all(handshake.cancelled() for handshake in waiting)
        await counts(limiter, 0)


@in_virtual_time
async def test_a_handshake_cancelled_as_its_verdict_comes_gives_the_slot_back(opened):
    async with opened() as limiter:
        waiting = asyncio.ensure_future(limiter.acquire())
        await asyncio.sleep(0)
        handshake = limiter.decisions.queue.waiting.popleft()
        handshake.set_result(limiter.decisions.slots.admit())
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await counts(limiter, 0)


@in_virtual_time
async def test_a_handshake_never_waits_longer_than_the_timeout(opened):
    async with opened(LEDGER_TIMEOUT=0.1) as limiter:
        limiter.reconciler.ledger.delay = 0.08
        loop = asyncio.get_running_loop()

        async def timed(number):
            await asyncio.sleep(number * 0.005)
            started = loop.time()
            await limiter.acquire()
            return loop.time() - started

        assert max(await asyncio.gather(*(timed(number) for number in range(60)))) <= 0.1 + 0.001
        assert not limiter.state.away


@in_virtual_time
async def test_during_an_outage_decisions_are_immediate(opened):
    async with opened() as limiter:
        await take(limiter, 3)
        async with limiter.reconciler.ledger.away(OUTAGE):
            await eventually(lambda: limiter.state.away)
            acquiring = limiter.acquire()
            with pytest.raises(StopIteration):
                acquiring.send(None)


@pytest.mark.parametrize(
    ("policy", "admitted"), [("freeze", 4), ("share", 4 + 6), ("open", 30), ("closed", 0)], ids=lambda value: str(value)
)
@in_virtual_time
async def test_what_a_lone_worker_may_admit_while_the_ledger_is_away(opened, policy, admitted):
    async with opened(WHEN_LEDGER_DOWN=policy) as limiter:
        slots = await take(limiter, 4)
        async with limiter.reconciler.ledger.away(OUTAGE):
            await eventually(lambda: limiter.state.away)
            for slot in slots:
                slot.release()
            verdicts = [await limiter.acquire() for _ in range(30)]
            slots = [verdict for verdict in verdicts if isinstance(verdict, Slot)]
            assert len(slots) == admitted
            assert limiter.state.counters["ledger"] == 30 - admitted
        await eventually(lambda: not limiter.state.away)
        await counts(limiter, admitted)


@pytest.mark.parametrize(("policy", "each"), [("freeze", 10), ("share", 15)])
@in_virtual_time
async def test_workers_together_stay_within_their_shares_of_the_free_room(admission, policy, each):
    settings = admission(MAX_CONNECTIONS=31, WHEN_LEDGER_DOWN=policy, HEARTBEAT=0.2, LEASE=2)
    limiters = [limiter_over(settings, FaultyLedger(MemoryLedger(settings))) for _ in range(2)]
    for limiter in limiters:
        await take(limiter, 10)
    await eventually(lambda: all(limiter.state._others == 10 for limiter in limiters))
    for limiter in limiters:
        limiter.reconciler.ledger.error = OUTAGE
    await eventually(lambda: all(limiter.state.away for limiter in limiters))
    for limiter in limiters:
        for _ in range(30):
            await limiter.acquire()
        assert limiter.state.held == each
        limiter.reconciler.ledger.error = None
    for limiter in limiters:
        await eventually(lambda limiter=limiter: not limiter.state.away)
        await limiter.aclose()


@in_virtual_time
async def test_probes_do_not_give_back_what_an_outage_cannot_regain(opened):
    async with opened(WHEN_LEDGER_DOWN="freeze") as limiter:
        slots = await take(limiter, 5)
        limiter.reconciler.ledger.silent = True
        await eventually(lambda: limiter.state.away)
        for slot in slots:
            slot.release()
        reports = len(limiter.reconciler.ledger.reports)
        await eventually(lambda: len(limiter.reconciler.ledger.reports) >= reports + 3)
        assert [report.held for report in limiter.reconciler.ledger.reports[-3:]] == [5, 5, 5]
        await take(limiter, 5)
        assert isinstance(await limiter.acquire(), Refusal)


@in_virtual_time
async def test_a_lost_reply_never_leaves_the_ledger_below_the_truth(opened):
    async with opened(WHEN_LEDGER_DOWN="freeze") as limiter:
        slots = await take(limiter, 5)
        slots.pop().release()
        slots.pop().release()
        limiter.reconciler.ledger.silent = True
        await eventually(lambda: limiter.state.away)
        assert (await counted(limiter))[0] == 3
        assert isinstance(await limiter.acquire(), Refusal)
        assert limiter.state.held == 3


@in_virtual_time
async def test_one_log_line_for_each_change_of_state(opened, caplog):
    caplog.set_level(logging.INFO, "channels_admission")
    async with opened(HEARTBEAT=0.1, LEASE=1) as limiter:
        await take(limiter, 1)
        for _ in range(2):
            calls = len(limiter.reconciler.ledger.reports)
            async with limiter.reconciler.ledger.away(OUTAGE):
                await eventually(lambda calls=calls: len(limiter.reconciler.ledger.reports) > calls + 4)
                await limiter.acquire()
            await eventually(lambda: not limiter.state.away)
    lines = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    lost = "Ledger lost for pool 'default', deciding alone (share): the road is closed"
    assert lines == [lost, "Ledger regained for pool 'default'."] * 2


@in_virtual_time
async def test_slots_that_are_counted_elsewhere_are_told_once_and_once_when_they_are_not(admission, caplog):
    class Later(MemoryLedger):
        elsewhere = 0

        async def reconcile(self, pool, report):
            return replace(await super().reconcile(pool, report), elsewhere=self.elsewhere)

    settings = admission(HEARTBEAT=0.1, LEASE=2)
    limiter = limiter_over(settings, ledger := FaultyLedger(Later(settings)))
    for elsewhere in (0, 7, 5, 0):
        ledger.inner.elsewhere = elsewhere
        calls = len(ledger.reports)
        await eventually(lambda calls=calls: len(ledger.reports) > calls + 2)
    await limiter.aclose()
    told = [record.getMessage() for record in caplog.records if record.module == "messages"]
    assert told == [
        "Pool 'default': 7 slots are held by workers of another version of the package, which keep their counts apart. "
        "The limit holds for all together; quotas and rates hold for the workers of each version. This worker runs "
        f"{__version__}.",
        "Pool 'default': all slots are counted in one place again.",
    ]
    assert {report.release for report in ledger.reports} == {__version__}


@in_virtual_time
async def test_a_permanent_refusal_is_an_error_in_the_log(opened, caplog):
    async with opened() as limiter:
        async with limiter.reconciler.ledger.away(LedgerRefused("WRONGPASS")):
            await eventually(lambda: limiter.state.away)
        await eventually(lambda: not limiter.state.away)
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


@in_virtual_time
async def test_refusals_are_told_in_one_line_a_second(opened, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "channels_admission")
    monkeypatch.setattr(log, "PAUSE", 0.1)
    async with opened(MAX_CONNECTIONS=1) as limiter:
        await asyncio.gather(*(limiter.acquire() for _ in range(500)))
        await eventually(lambda: any(record.module == "log" for record in caplog.records))
        await asyncio.gather(*(limiter.acquire() for _ in range(20)))
    lines = [(record.levelno, record.getMessage()) for record in caplog.records if record.module == "log"]
    assert lines == [
        (logging.WARNING, f"Pool 'default' refused 499 connections: 499 full.{log.FURTHER}"),
        (logging.INFO, "Pool 'default' refused 20 connections: 20 full."),
    ]


@in_virtual_time
async def test_a_bounded_number_of_handshakes_waits(opened, monkeypatch):
    monkeypatch.setattr(decisions, "MOST_WAITING", 10)
    async with opened(MAX_CONNECTIONS=50) as limiter:
        verdicts = await asyncio.gather(*(limiter.acquire() for _ in range(30)))
        assert sum(isinstance(verdict, Slot) for verdict in verdicts) == 10
        assert limiter.state.counters["crowd"] == 20


@in_virtual_time
async def test_an_outage_that_turns_into_a_refusal_is_said_once_more(opened, caplog):
    async with opened(HEARTBEAT=0.1, LEASE=1) as limiter, limiter.reconciler.ledger.away(OUTAGE):
        await eventually(lambda: limiter.state.away)
        async with limiter.reconciler.ledger.away(LedgerRefused("WRONGPASS")):
            await eventually(lambda: len(caplog.records) == 2)
            calls = len(limiter.reconciler.ledger.reports)
            await eventually(lambda: len(limiter.reconciler.ledger.reports) > calls + 2)
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]


@in_virtual_time
async def test_a_broken_connection_is_tried_again_at_once_under_a_new_number(opened, caplog):
    async with opened() as limiter:
        await take(limiter, 1)
        limiter.reconciler.ledger.errors.append(LedgerUnavailable("reset", reset=True))
        await take(limiter, 1)
        assert not limiter.state.away
        assert caplog.records == []
        numbers = [report.seq for report in limiter.reconciler.ledger.reports]
        assert numbers == sorted(set(numbers))


@in_virtual_time
async def test_a_stall_of_the_loop_is_not_taken_for_an_outage(opened, caplog):
    async with opened(LEDGER_TIMEOUT=0.05) as limiter:
        limiter.reconciler.ledger.delay = 0.01
        for _ in range(5):
            handshakes = [asyncio.ensure_future(limiter.acquire()) for _ in range(2)]
            await asyncio.sleep(0.005)
            time.sleep(0.2)
            for slot in await asyncio.gather(*handshakes):
                assert isinstance(slot, Slot)
                slot.release()
    assert caplog.records == []


@in_virtual_time
async def test_two_workers_under_one_name_part_ways_and_both_count(admission):
    settings = admission(MAX_CONNECTIONS=10, HEARTBEAT=0.2, LEASE=2)
    worker = Worker()
    limiters = [Limiter(State(settings.pool("default"), worker), settings, MemoryLedger(settings)) for _ in range(2)]
    verdicts = await asyncio.gather(*(limiter.acquire() for limiter in limiters for _ in range(12)))
    assert sum(isinstance(verdict, Slot) for verdict in verdicts) == 10
    await eventually(lambda: _agree(limiters))
    assert len({limiter.state.worker.id for limiter in limiters}) == 2
    for limiter in limiters:
        await limiter.aclose()


async def _agree(limiters):
    total, workers = await counted(limiters[0])
    return (total, workers) == (sum(limiter.state.held for limiter in limiters), 2)


@in_virtual_time
async def test_a_limiter_says_goodbye_when_it_is_closed(opened):
    async with opened() as limiter:
        for slot in await take(limiter, 3):
            slot.release()
        await limiter.aclose()
        assert await counted(limiter) == (0, 0)
        assert isinstance(await limiter.acquire(), Slot | Refusal)


def test_a_loop_that_ends_by_itself_says_goodbye(admission):
    settings = admission()

    async def serve():
        slot = await limiter_of("default").acquire()
        slot.release()

    asyncio.run(serve())

    async def look():
        return await MemoryLedger(settings).read(("default",))

    assert asyncio.run(look())[0].workers == ()


@in_virtual_time
async def test_other_settings_take_effect_at_the_next_handshake(admission):
    admission(MAX_CONNECTIONS=1)
    old = await limiter_of("default").acquire()
    assert isinstance(await limiter_of("default").acquire(), Refusal)
    admission(MAX_CONNECTIONS=2)
    new = await limiter_of("default").acquire()
    assert isinstance(new, Slot)
    assert isinstance(await limiter_of("default").acquire(), Refusal)
    old.release()
    limiter = limiter_of("default")
    await eventually(lambda: limiter.reconciler.ledger._pools and limiter.state.held == 1)
    await eventually(lambda: _is_counted(limiter, 1))
    new.release()
    await close_limiters()


@pytest.mark.fault
@pytest.mark.parametrize("ledger", ["memory", "redis"])
def test_event_loops_in_threads_share_the_count(admission, redis_server, figures, ledger):
    admission(MAX_CONNECTIONS=10, LEDGER=redis_server.url if ledger == "redis" else "memory")
    answers = []
    barrier = threading.Barrier(2, timeout=10)

    async def serve():
        barrier.wait()
        began = time.monotonic()
        verdicts = await asyncio.gather(*(limiter_of("default").acquire() for _ in range(12)))
        answers.append((sum(isinstance(verdict, Slot) for verdict in verdicts), time.monotonic() - began))
        await asyncio.to_thread(barrier.wait)

    threads = [threading.Thread(target=asyncio.run, args=(serve(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert sum(admitted for admitted, _ in answers) == 10
    slowest = max(seconds for _, seconds in answers)
    assert slowest <= 1
    figures.note(
        f"two event loops in threads of one process, over {ledger}: 12 handshakes each, limit 10",
        "10 let in, both answered within 1 s, and both loops end",
        f"10; {1000 * slowest:.0f} ms",
    )


def _serve_in_child(results, start):
    async def serve():
        verdicts = await asyncio.gather(*(limiter_of("default").acquire() for _ in range(12)))
        admitted = sum(isinstance(verdict, Slot) for verdict in verdicts)
        results.put((limiter_of("default").state.worker.id, admitted))
        await asyncio.to_thread(start.wait, 10)

    asyncio.run(serve())


@pytest.mark.fault
async def test_forked_children_count_for_themselves(admission, redis_server, figures):
    admission(MAX_CONNECTIONS=10, LEDGER=redis_server.url)
    parent = await limiter_of("default").acquire()
    context = multiprocessing.get_context("fork")
    results, start = context.Queue(), context.Barrier(2)
    children = [context.Process(target=_serve_in_child, args=(results, start)) for _ in range(2)]
    for child in children:
        child.start()
    answers = await asyncio.to_thread(lambda: [results.get(timeout=10) for _ in children])
    await asyncio.to_thread(lambda: [child.join(10) for child in children])
    assert [child.exitcode for child in children] == [0, 0]
    assert sum(admitted for _, admitted in answers) == 9
    assert len({name for name, _ in answers} | {limiter_of("default").state.worker.id}) == 3
    figures.note(
        "a process with an open limiter and a slot forks two, with 12 handshakes each, limit 10",
        "10 let in, all three processes together",
        f"1 + {' + '.join(str(admitted) for _, admitted in answers)}",
    )
    parent.release()
    await close_limiters()
    assert not registry._registries


@in_virtual_time
async def test_a_drain_that_begins_right_after_the_verdicts_leaves_no_connection_open(opened, monkeypatch):
    async def never(*_):
        await asyncio.Event().wait()

    async with opened() as limiter:
        answer = limiter.decisions.answer

        def answer_and_drain(batch, reply):
            answer(batch, reply)
            if batch.wanted:
                limiter.drain(0.5)

        monkeypatch.setattr(limiter.decisions, "answer", answer_and_drain)
        verdicts = await asyncio.gather(*(limiter.enter({"type": "websocket"}, never, never) for _ in range(5)))
        refused = [verdict.reason for verdict in verdicts if isinstance(verdict, Refusal)]
        assert (refused, limiter.connections) == (["draining"] * 5, {})
        await counts(limiter, 0)


async def test_the_end_of_a_worker_drains_pools_that_nobody_has_come_to_so_far(admission):
    admission(DRAIN_ON_STOP=60, POOLS={"game": {}})
    slot = await limiter_of("default").acquire()
    draining = asyncio.create_task(registry._drain_here())
    await asyncio.sleep(0)
    assert (await limiter_of("game").acquire()).reason == Reason.DRAINING
    slot.release()
    await draining
    await close_limiters()


async def test_after_the_goodbye_a_drain_opens_nothing(admission):
    admission(DRAIN_ON_STOP=60, POOLS={"game": {}})
    limiter_of("default")
    closed = registry._registries[asyncio.get_running_loop()]
    await close_limiters()
    await closed.drain()
    assert closed.limiters == ()
