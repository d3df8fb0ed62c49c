"""The entrance, in virtual time: how fast it lets a herd in, who is served in between, and who is refused."""

import asyncio
import random
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from types import SimpleNamespace

import pytest
from asgiref.sync import SyncToAsync

from channels_admission import conf
from channels_admission.core.counters import DELAYED, Reason
from channels_admission.core.herd.tickets import Signer, Ticket
from channels_admission.core.herd.window import LEAST, START, TARGET
from channels_admission.core.overrides import Controls, Order
from channels_admission.core.protocol import Refusal
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.limiter.entrance import entrance, turns
from channels_admission.limiter.entrance.entrance import LAST
from channels_admission.limiter.refusing import LEFT
from channels_admission.limiter.registry import close_limiters, limiter_of
from channels_admission.middleware import AdmissionMiddleware

from support.limiters import limiter_over
from support.virtual import run
from support.waiting import eventually

BURN = 0.01
"""Seconds that a costly connect() blocks the event loop."""
WAIT = 2.0


class Herd:
    """Clients of one limiter; what they do when they are inside costs time."""

    def __init__(self, limiter, connect):
        self.limiter = limiter
        self.connect = connect
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time()
        self.entered = []
        """Who went in and when, in order."""
        self.refused = []
        self.attempts = 0

    def ticket(self, place):
        """One whose place was so many seconds ago, and which is due now."""
        now = self.limiter.places.clock.time()
        return Signer("default", conf.ticket_secrets()).write(Ticket(now - place, now, 0))

    async def come(self, name, rank=None, ticket=""):
        """One attempt: gives its connection, or a refusal."""
        self.attempts += 1
        scope = {"type": "websocket", "rank": rank, "query_string": f"admission_ticket={ticket}".encode()}
        verdict = await self.limiter.enter(scope, None, self._send)
        if isinstance(verdict, Refusal):
            self.refused.append(verdict)
            return verdict
        self.entered.append((name, self.loop.time() - self.began))
        try:
            await self.connect(self.loop)
            await verdict.send({"type": "websocket.accept"})
        except asyncio.CancelledError:
            self.limiter.leave(verdict)
            raise
        return verdict

    async def _send(self, message):
        pass

    async def stay(self, name):
        """Come until inside, each time when told."""
        while isinstance(verdict := await self.come(name), Refusal):
            await asyncio.sleep(verdict.retry_after)
        return self.loop.time() - self.began

    async def all_stay(self, number):
        """When each was inside, in order."""
        return sorted(await asyncio.gather(*(self.stay(name) for name in range(number))))

    async def watch(self):
        """How many went in between two turns of one who is connected, and how long those took."""
        counts, waits, seen = Counter(), [], 0
        while True:
            before = self.loop.time()
            await asyncio.sleep(0)
            counts[len(self.entered) - seen] += 1
            waits.append(self.loop.time() - before)
            seen = len(self.entered)
            self.most, self.longest = max(counts), max(waits)
            await asyncio.sleep(0.001)

    def leave(self):
        for connection in list(self.limiter.connections):
            self.limiter.leave(connection)


async def burn(loop):
    """Block the event loop, as late as a consumer does."""
    for _ in range(3):
        await asyncio.sleep(0)
    loop.work(BURN)


async def slower(loop):
    for _ in range(3):
        await asyncio.sleep(0)
    loop.work(8 * BURN)


async def cheap(loop):
    await asyncio.sleep(0)
    loop.work(0.0003)


async def query_then_burn(loop):
    await asyncio.sleep(0.05)
    loop.work(BURN)


async def slow(loop):
    await asyncio.sleep(5)


@pytest.fixture
def limited(admission):
    """``async with limited(KEY=value) as limiter``."""

    @asynccontextmanager
    async def open_limiter(**keys):
        settings = admission(**{"MAX_CONNECTIONS": 5000, "HEARTBEAT": 10, "LEASE": 60, "ENTRANCE_WAIT": WAIT, **keys})
        limiter = limiter_over(settings, MemoryLedger(settings))
        try:
            yield limiter
        finally:
            await limiter.aclose()

    return open_limiter


@pytest.fixture
def herd(limited):
    """``herd(test, connect, KEY=value)`` runs ``test(herd)`` in virtual time, beside one who is connected."""

    def play(test, connect, **keys):
        async def main():
            async with limited(**keys) as limiter:
                herd = Herd(limiter, connect)
                watching = asyncio.create_task(herd.watch())
                try:
                    return await test(herd)
                finally:
                    watching.cancel()
                    assert limiter.entrance.waiting == 0
                    herd.leave()
                    assert limiter.state.held == 0

        return run(main())

    return play


def test_clients_that_connect_at_a_cost_go_in_few_at_a_time_and_in_order(herd):
    async def test(herd):
        times = await herd.all_stay(150)
        assert times[-1] < 1.1 * 150 * BURN
        assert [name for name, _ in herd.entered] == list(range(150))
        assert herd.most <= 2 * START
        assert herd.longest <= 2 * START * BURN
        assert herd.limiter.state.counters["delayed"] == 150 - START

    herd(test, burn)


def test_those_with_due_tickets_go_in_first_by_their_places_and_one_of_ten_without(herd):
    async def test(herd):
        others = [asyncio.ensure_future(herd.come(f"other {number}")) for number in range(60)]
        await asyncio.sleep(0.05)
        at_first = len(herd.entered)
        holders = [asyncio.ensure_future(herd.come(number, ticket=herd.ticket(number))) for number in range(60)]
        await asyncio.gather(*others, *holders)
        names = [name for name, _ in herd.entered][at_first:]
        placed = [name for name in names if isinstance(name, int)]
        assert placed == sorted(placed, reverse=True)
        between = names.index(placed[-1]) + 1 - names.index(placed[0]) - len(placed)
        assert between == pytest.approx(60 / 9, abs=1)
        assert [name for name in names if isinstance(name, str)] == [f"other {at}" for at in range(at_first, 60)]

    herd(test, burn)


def test_an_entrance_that_is_full_sends_away_the_last_without_a_due_ticket(herd):
    async def test(herd):
        entrance = herd.limiter.entrance
        others = [asyncio.ensure_future(herd.come(f"other {number}")) for number in range(250)]
        await eventually(lambda: entrance.waiting > 200)
        holders = [asyncio.ensure_future(herd.come(number, ticket=herd.ticket(number))) for number in range(150)]
        await eventually(lambda: herd.refused)
        assert entrance.waiting == pytest.approx(entrance.speed * WAIT * (1 + LAST), abs=START)
        away = [each.done() and isinstance(each.result(), Refusal) for each in others]
        assert away == sorted(away)
        assert sum(away) == len(herd.refused) > START
        late = [asyncio.ensure_future(entrance.wait(herd.limiter, is_exempt=False)) for _ in range(50)]
        await asyncio.sleep(0)
        assert await entrance.wait(herd.limiter, is_exempt=False) == Reason.ENTRANCE
        assert await entrance.wait(herd.limiter, is_exempt=False, place=0.0) is None
        assert {refusal.reason for refusal in herd.refused} == {Reason.ENTRANCE}
        assert [each for each in await asyncio.gather(*holders) if isinstance(each, Refusal)] == []
        await asyncio.gather(*others, *late)

    herd(test, burn)


def test_clients_that_come_one_by_one_need_no_turn_and_those_that_come_together_do(herd, monkeypatch):
    end, ended = turns.Turns._end, []
    monkeypatch.setattr(turns.Turns, "_end", lambda self: ended.append(end(self)))

    async def test(herd):
        entrance = herd.limiter.entrance
        for name in range(10 * START):
            await herd.come(name)
            await asyncio.sleep(turns.TICK / 2)
        assert (len(ended), entrance.room >= 1) == (0, True)
        herd.connect = slow
        together = [asyncio.ensure_future(herd.come(name)) for name in range(START)]
        await asyncio.sleep(2 * turns.TICK)
        assert (len(ended), entrance.room) == (1, START)
        await asyncio.gather(*together)

    herd(test, cheap)


def test_a_small_window_grows_again_while_few_come(herd):
    async def test(herd):
        entrance = herd.limiter.entrance
        entrance._window.size = entrance.room = entrance._given = LEAST
        for name in range(10 * START):
            await herd.come(name)
            await asyncio.sleep(2 * turns.TICK)
        assert entrance._window.size == START

    herd(test, cheap)


def test_clients_that_connect_at_no_cost_go_in_at_once(herd):
    async def test(herd):
        times = await herd.all_stay(1000)
        assert times[-1] < 1.25 * 1000 * 0.0003
        assert herd.longest <= 2 * TARGET
        assert herd.attempts == 1000

    herd(test, cheap)


def test_a_cost_that_comes_late_is_seen_before_more_go_in(herd):
    async def test(herd):
        times = await herd.all_stay(150)
        assert herd.longest < 1.01 * START * BURN
        assert times[-1] < 1.5 * 150 * BURN

    herd(test, query_then_burn)


def test_consumers_that_take_their_time_to_accept_keep_none_out_for_long(herd):
    async def test(herd):
        await herd.all_stay(300)
        assert herd.attempts == 300
        assert max(when for _, when in herd.entered) < WAIT

    herd(test, slow)


def test_what_others_do_to_the_event_loop_does_not_count_against_newcomers(herd):
    async def test(herd):
        async def busy():
            while True:
                herd.loop.work(0.06)
                await asyncio.sleep(0.001)

        working = asyncio.create_task(busy())
        times = await herd.all_stay(300)
        working.cancel()
        assert times[-1] < 2.0

    herd(test, cheap)


def test_one_that_would_wait_too_long_is_refused_and_told_by_the_speed(herd):
    async def test(herd):
        number = 600
        times = await herd.all_stay(number)
        assert {refusal.reason for refusal in herd.refused} == {Reason.ENTRANCE}
        assert times[int(0.99 * number)] < 1.15 * number * BURN
        assert herd.longest <= 2 * START * BURN
        counters = herd.limiter.state.counters
        assert (counters["admitted"], counters["entrance"]) == (number, herd.attempts - number)
        assert max(refusal.retry_after for refusal in herd.refused) < number * BURN
        assert herd.limiter.state.entrance_speed == pytest.approx(1 / BURN, rel=0.15)

    herd(test, burn)


def test_the_speed_of_a_herd_is_reported_for_a_while_after_its_last_wait(herd, monkeypatch):
    monkeypatch.setattr(entrance, "REMEMBERED", 2.0)

    async def test(herd):
        await herd.all_stay(300)
        herd.leave()
        await asyncio.sleep(1.0)
        assert herd.limiter.state.begin_report().speed > 0
        await herd.all_stay(300)
        herd.leave()
        await asyncio.sleep(1.0)
        assert herd.limiter.state.begin_report().speed > 0
        await asyncio.sleep(1.5)
        assert herd.limiter.state.begin_report().speed == 0

    herd(test, burn, ENTRANCE_WAIT=4)


def test_nobody_waits_longer_than_the_bound(herd):
    async def test(herd):
        waits = []

        async def come(name):
            began = herd.loop.time()
            await herd.come(name)
            waits.append(herd.loop.time() - began)

        await asyncio.gather(*(come(name) for name in range(500)))
        assert max(waits) <= WAIT * (1 + LAST) + 0.1
        assert 150 < len(herd.entered) < 250

    herd(test, burn)


def test_the_last_ones_of_a_herd_wait_beyond_the_bound_rather_than_come_back(herd):
    async def test(herd):
        number = round(WAIT * (1 + LAST / 2) / BURN)
        times = await herd.all_stay(number)
        assert herd.attempts == number
        assert WAIT < times[-1] < WAIT * (1 + LAST)

    herd(test, burn)


def test_a_herd_that_is_longer_than_the_last_ones_is_refused_at_the_bound(herd):
    """The speed drops after it was measured, so nobody is refused before."""

    async def test(herd):
        refused = []

        async def come(name):
            if isinstance(await herd.come(name), Refusal):
                refused.append(herd.loop.time())

        began = herd.loop.time()
        coming = [asyncio.ensure_future(come(name)) for name in range(round(0.9 * WAIT / BURN))]
        await asyncio.sleep(1.2)
        herd.connect = slower
        await asyncio.gather(*coming)
        assert refused
        assert min(refused) - began == pytest.approx(WAIT, abs=0.1 + BURN)
        assert max(refused) - began <= WAIT * (1 + LAST) + 0.1

    herd(test, burn)


def test_a_pool_that_is_known_to_be_slow_refuses_before_the_ledger_is_asked(herd):
    async def test(herd):
        first = [asyncio.create_task(herd.come(name)) for name in range(300)]
        await asyncio.sleep(1.5)
        late = [asyncio.create_task(herd.come(name)) for name in range(300, 500)]
        for _ in range(1000):
            await asyncio.sleep(0)
            if herd.limiter.entrance.is_full:
                break
        calls = herd.limiter.state.calls.made
        verdict = await herd.come("last")
        assert isinstance(verdict, Refusal)
        assert (verdict.reason, herd.limiter.state.calls.made) == (Reason.ENTRANCE, calls)
        await asyncio.gather(*first, *late)

    herd(test, burn)


def test_the_exempt_go_first_and_are_never_refused(herd):
    async def test(herd):
        def come(rank, number):
            return [asyncio.create_task(herd.come(rank, rank)) for _ in range(number)]

        coming = come("member", 500)
        await asyncio.sleep(0.3)
        coming += come("exempt", 50)
        await asyncio.gather(*coming)
        order = [rank for rank, _ in herd.entered]
        assert order.count("exempt") == 50
        first = order.index("exempt")
        assert order[first : first + 50].count("exempt") >= 50 - START
        assert {refusal.reason for refusal in herd.refused} == {Reason.ENTRANCE}

    herd(test, burn, CLASSIFY="support.users.rank", SHARES={"member": 1.0})


def test_a_dry_run_refuses_nobody(herd):
    async def test(herd):
        await asyncio.gather(*(herd.come(name) for name in range(400)))
        counters = herd.limiter.state.counters
        assert (len(herd.entered), counters["admitted"], counters["entrance"]) == (400, 400, 0)
        assert counters["dry:entrance"] > 100

    herd(test, burn, DRY_RUN=True)


def test_without_a_bound_all_go_in_at_once(herd):
    async def test(herd):
        await asyncio.gather(*(herd.come(name) for name in range(100)))
        # Some had their slots in the worker's reserve, the others were answered together.
        assert len({round(when, 6) for _, when in herd.entered}) == 2
        assert herd.limiter.state.counters["delayed"] == 0

    herd(test, cheap, ENTRANCE_WAIT=None)


@pytest.mark.parametrize("reason", [Reason.DRAINING, Reason.PAUSED])
def test_a_drain_and_a_pause_end_the_wait(herd, reason):
    async def test(herd):
        coming = [asyncio.create_task(herd.come(name)) for name in range(100)]
        await asyncio.sleep(0.1)
        inside = len(herd.entered)
        if reason is Reason.DRAINING:
            herd.limiter.drain(0.0)
        else:
            herd.limiter.state.controls = Controls(paused=Order(1, "ann", 0.0))
        await asyncio.wait(coming)
        assert len(herd.entered) <= inside + 2 * START
        assert {refusal.reason for refusal in herd.refused} == {reason}
        assert len(herd.refused) + len(herd.entered) == 100

    herd(test, burn)


@pytest.mark.parametrize("seed", range(5))
def test_no_slot_is_lost_whoever_is_cancelled(herd, seed):
    chance = random.Random(seed)

    async def test(herd):
        coming = []
        for name in range(400):
            coming.append(asyncio.create_task(herd.come(name)))
            if chance.random() < 0.1:
                await asyncio.sleep(chance.choice([0, 0.001, 0.05]))
            for task in chance.sample(coming, min(len(coming), chance.randrange(3))):
                task.cancel()
        await asyncio.wait(coming)
        state, counters = herd.limiter.state, herd.limiter.state.counters
        assert state.held == len(herd.limiter.connections)
        herd.leave()
        assert state.held == 0
        # A slot that was given back at the entrance counts for the next one.
        assert counters["admitted"] == counters["released"] + state._withdrawn

    herd(test, burn)


def test_a_trickle_passes_without_a_timer(herd):
    async def test(herd):
        for name in range(START - 1):
            await herd.come(name)
        assert herd.limiter.entrance._turns._timer is None
        assert herd.limiter.state.counters["delayed"] == 0

    herd(test, cheap)


def test_an_entrance_that_fails_lets_all_in(herd, monkeypatch):
    async def test(herd):
        coming = [asyncio.create_task(herd.come(name)) for name in range(50)]
        await asyncio.sleep(0.01)
        monkeypatch.setattr(herd.limiter.entrance, "_measure", None)
        await asyncio.wait(coming)
        assert len(herd.entered) == 50

    herd(test, burn)


async def test_a_thread_that_is_blocked_holds_up_one_turn_and_no_other(limited, monkeypatch):
    """Sync code of the first consumers blocks it; all others are asynchronous."""
    release, asked, first = threading.Event(), [], []
    with ThreadPoolExecutor(1) as thread, closing(SimpleNamespace(close=release.set)):
        monkeypatch.setattr(SyncToAsync, "single_thread_executor", thread)

        async def connect(loop):
            await cheap(loop)
            if len(first) <= turns.BEHIND:
                first.append(thread.submit(release.wait))

        async with limited() as limiter:
            of_entrance = limiter.entrance._turns
            ask_thread = of_entrance._ask_thread
            monkeypatch.setattr(of_entrance, "_ask_thread", lambda: asked.append(ask_thread()) or asked[-1])
            herd = Herd(limiter, connect)
            monkeypatch.setattr(herd.loop, "work", time.sleep, raising=False)
            await asyncio.gather(*(herd.come(name) for name in range(60)))
            assert (len(herd.entered), herd.refused) == (60, [])
            assert (asked.count(True), of_entrance._probe is None) == (1, False)
            release.set()
            await eventually(lambda: of_entrance._probe is None)
            herd.leave()


def test_a_thread_that_others_keep_busy_holds_up_the_first_turn_and_no_other(herd, monkeypatch):
    """Else each turn would take nearly as long as it may, and most of a herd that needs no thread would be refused."""
    calls, took = START + turns.BEHIND, 0.9 * turns.LONGEST_TURN

    async def test(herd):
        probes = []

        def submit(call):
            probes.append(Future())
            herd.loop.call_later(took, probes[-1].set_result, 0)
            return probes[-1]

        thread = SimpleNamespace(submit=submit, _work_queue=SimpleNamespace(qsize=lambda: calls))
        monkeypatch.setattr(turns, "shared_thread", lambda: thread)
        times = await herd.all_stay(200)
        assert (len(probes), herd.attempts) == (1, 200)
        assert times[-1] < took + 1.25 * 200 * 0.0003

    herd(test, cheap)


async def test_a_connection_waits_for_the_first_of_its_pools_only(admission):
    """Else those inside would wait for others that are kept out for them."""
    admission(MAX_CONNECTIONS=100, POOLS={"inner": {}})
    inside, leave = [], asyncio.Event()

    async def application(scope, receive, send):
        await send({"type": "websocket.accept"})
        inside.append(scope)
        await leave.wait()

    async def nothing(message=None):
        pass

    nested = AdmissionMiddleware(AdmissionMiddleware(application, "inner"))
    tasks = [asyncio.create_task(nested({"type": "websocket"}, nothing, nothing)) for _ in range(40)]
    await eventually(lambda: len(inside) == 40)
    outer, inner = limiter_of("default"), limiter_of("inner")
    assert (outer.state.counters[DELAYED] > 0, inner.state.counters[DELAYED]) == (True, 0)
    leave.set()
    await asyncio.gather(*tasks)
    assert (outer.state.held, inner.state.held) == (0, 0)
    await close_limiters()


async def test_a_client_that_left_while_it_waited_is_not_let_in(limited, monkeypatch):
    monkeypatch.setattr("channels_admission.limiter.limiter.has_left", lambda send: True)
    async with limited() as limiter:
        herd = Herd(limiter, cheap)
        monkeypatch.setattr(herd.loop, "work", time.sleep, raising=False)
        await asyncio.gather(*(herd.come(name) for name in range(20)))
        assert herd.refused == [LEFT] * (20 - len(herd.entered))
        assert limiter.state.held == len(herd.entered) < 20
        herd.leave()
        assert limiter.state.held == 0
