"""What operators set, as a limiter obeys it: drains, pauses, limits and dry runs."""

import asyncio
import logging
import math
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from channels_admission import controls
from channels_admission.controls import ALL_WORKERS, acancel, achange, adrain
from channels_admission.core.counters import Reason
from channels_admission.core.overrides import Controls, Order, target_name
from channels_admission.core.protocol import Reply
from channels_admission.events.log import FURTHER
from channels_admission.exceptions import ConfigurationError, ControlError
from channels_admission.limiter import closer
from channels_admission.limiter.books.state import State
from channels_admission.limiter.closer import Closer
from channels_admission.limiter.connections.connection import Connection
from channels_admission.limiter.limiter import Slot
from channels_admission.limiter.line.places import Places
from channels_admission.limiter.line.retries import RetrySchedule
from channels_admission.limiter.registry import close_limiters, limiter_of
from channels_admission.middleware import AdmissionMiddleware
from channels_admission.runtime.faults import Faults
from channels_admission.runtime.identity import Worker, host_name
from channels_admission.status.snapshot import collect

from support.clients import shows
from support.virtual import run
from support.waiting import eventually

SPEED = {"HEARTBEAT": 0.1, "LEASE": 1, "RETRY_AFTER": (1, 60)}


class Crowd:
    """Connections through the middleware, and when each was closed, with the code and the hint."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.closed: list[tuple[float, int, str]] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def _inner(self, scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async def _one(self) -> None:
        events = iter([{"type": "websocket.connect"}])

        async def receive():
            for event in events:
                return event
            return await asyncio.Event().wait()

        async def send(message):
            if message["type"] == "websocket.close":
                self.closed.append((self.loop.time(), message["code"], message["reason"]))

        await AdmissionMiddleware(self._inner)({"type": "websocket", "path": "/"}, receive, send)

    async def enter(self, number: int) -> None:
        limiter, before = limiter_of("default"), limiter_of("default").state.held
        self.tasks += [asyncio.create_task(self._one()) for _ in range(number)]
        await eventually(lambda: len(limiter.connections) == before + number)

    async def leave(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await close_limiters()


@pytest.fixture
async def crowd():
    crowd = Crowd()
    yield crowd
    await crowd.leave()


def place(limiter) -> str:
    return limiter.state.worker.id.rpartition(":")[0]


def test_a_drain_closes_evenly_with_1012_and_a_hint_and_refuses_newcomers(admission):
    admission(**SPEED, MAX_CONNECTIONS=500)
    run(_drain_of_two_hundred())


async def _drain_of_two_hundred() -> None:
    crowd = Crowd()
    await crowd.enter(200)
    limiter = limiter_of("default")
    began = crowd.loop.time()
    (change,) = await adrain(place(limiter), by="ann", over=2.0)
    assert str(change) == f"Pool default: drain of {limiter.state.worker.id} from none to 2 s"
    await eventually(lambda: limiter.state.draining)
    assert (await limiter.acquire()).reason == Reason.DRAINING
    await eventually(lambda: limiter.state.held == 0, 5)
    times = [at for at, _, _ in crowd.closed]
    assert len(times) == 200
    assert times[-1] - began <= 2.0 + SPEED["HEARTBEAT"]
    most = max(sum(start <= at < start + 1 for at in times) for start in times)
    assert most <= 1.1 * 100
    gaps = [later - earlier for earlier, later in pairwise(times)]
    # They end two at a time, 20 ms apart in the mean; by chance one in three of these is longer by a fifth.
    assert sum(gap > 1.2 * 0.02 for gap in gaps) > 10
    assert sum(0.01 < gap < 0.9 * 0.02 for gap in gaps) > 10
    assert {code for _, code, _ in crowd.closed} == {1012}
    hints = {float(re.fullmatch(r"Service Restart; retry-after=([\d.]+)", reason)[1]) for _, _, reason in crowd.closed}
    assert 1 <= min(hints) < max(hints) <= 2
    await eventually(lambda: shows(lambda pool: (pool.drained, pool.held) == (200, 0)))
    (pool,) = (await collect()).pools
    assert (pool.held, pool.refused, pool.shed) == (0, {"draining": 1}, 0)
    (worker,) = pool.workers
    assert worker.draining
    await crowd.leave()


async def test_a_host_with_a_long_name_is_drained_by_it_and_so_is_its_worker(admission, monkeypatch):
    admission(**SPEED)
    raw = f"{'pod-' * 12}example.org"
    monkeypatch.setattr("channels_admission.runtime.identity.host", lambda: host_name(raw))
    slot = await limiter_of("default").acquire()
    worker = limiter_of("default").state.worker
    for target, known in (
        (raw, host_name(raw)),
        (f"{raw}:{worker.pid}", worker.id),
        (f"{raw}:{worker.id.partition(':')[2]}", worker.id),
    ):
        (change,) = await adrain(target, by="ann", over=60)
        assert change.what == f"drain of {target_name(known)}"
        assert len(await acancel(target, by="ann")) == 1
    with pytest.raises(ControlError, match="No worker"):
        await adrain(f"{raw[:40]}:{worker.pid}", by="ann", over=60)
    slot.release()
    await close_limiters()


async def test_a_drain_that_is_cancelled_closes_no_more_and_admits_again(admission, crowd):
    admission(**SPEED, MAX_CONNECTIONS=500)
    await crowd.enter(50)
    limiter = limiter_of("default")
    await adrain(ALL_WORKERS, by="ann", over=20.0)
    await eventually(lambda: len(crowd.closed) >= 3)
    (change,) = await acancel(ALL_WORKERS, by="bob")
    assert str(change) == "Pool default: drain of all workers from 20 s to none"
    await eventually(lambda: not limiter.state.draining and limiter.state.held == 50 - len(crowd.closed))
    left = limiter.state.held
    await crowd.enter(1)
    await asyncio.sleep(0.5)
    assert limiter.state.held == left + 1
    assert await acancel(ALL_WORKERS, by="bob") == ()


async def test_of_all_workers_those_are_drained_that_run_and_of_a_host_those_that_come_later(admission, crowd):
    admission(**SPEED)
    await crowd.enter(1)
    host = limiter_of("default").state.worker.id.partition(":")[0]
    await adrain(ALL_WORKERS, by="ann", over=0)
    await eventually(lambda: limiter_of("default").state.held == 0)
    await close_limiters()
    slot = await limiter_of("default").acquire()
    assert isinstance(slot, Slot)
    await adrain(host, by="ann", over=0)
    await eventually(lambda: limiter_of("default").state.draining)
    slot.release()
    await close_limiters()
    assert (await limiter_of("default").acquire()).reason == Reason.DRAINING


@pytest.mark.parametrize("target", ["*", "", "?", "[a-z]*", "*:*"])
async def test_no_text_means_all_workers(admission, crowd, target):
    admission(**SPEED)
    await crowd.enter(1)
    with pytest.raises(ControlError, match=r"is a pattern|is known"):
        await adrain(target, by="ann", over=0)
    (pool,) = (await collect()).pools
    assert (pool.controls.drains, limiter_of("default").state.draining) == ((), False)


async def test_a_pause_refuses_and_closes_nobody(admission, crowd, caplog):
    admission(**SPEED)
    await crowd.enter(3)
    limiter = limiter_of("default")
    (change,) = await achange("default", paused=True, by="ann")
    assert str(change) == "Pool default: admissions from open to paused"
    await eventually(lambda: limiter.state.closed)
    assert (await limiter.acquire()).reason == Reason.PAUSED
    assert limiter.state.held == 3
    (pool,) = (await collect()).pools
    assert (pool.paused, pool.controls.paused.by) == (True, "ann")
    assert await achange("default", paused=True, by="bob") == ()
    await achange("default", paused=False, by="bob")
    await eventually(lambda: not limiter.state.closed)
    await crowd.enter(1)


async def test_a_lowered_limit_closes_nobody_unless_it_is_enforced(admission, crowd):
    admission(**SPEED, MAX_CONNECTIONS=100)
    await crowd.enter(60)
    limiter = limiter_of("default")
    (change,) = await achange("default", limit=40, by="ann")
    assert str(change) == "Pool default: limit from 100 by the settings to 40"
    await asyncio.sleep(0.4)
    assert limiter.state.held == 60
    assert (await limiter.acquire()).reason == Reason.FULL
    (change,) = await achange("default", limit=40, over=0.5, by="ann")
    assert str(change) == "Pool default: limit from 40 to 40 (enforced within 0.5 s)"
    await eventually(lambda: limiter.state.held == 40, 3)
    await asyncio.sleep(0.3)
    assert limiter.state.held == 40
    (pool,) = (await collect()).pools
    assert (pool.limit, pool.configured, pool.held, pool.drained) == (40, 100, 40, 20)
    await eventually(lambda: limiter.state.controls.limit.over is None)  # it is done, and ends nobody any more
    await achange("default", limit=None, by="ann")
    await crowd.enter(30)


@pytest.mark.parametrize("ledger", ["memory", "redis"])
async def test_above_a_lowered_limit_no_slot_that_becomes_free_is_used_again(admission, redis_server, ledger):
    """Else a busy pool would never come down: who is turned away, or has left, comes before the release is told."""
    admission(**SPEED, MAX_CONNECTIONS=100, **({"LEDGER": redis_server.url} if ledger == "redis" else {}))
    limiter = limiter_of("default")
    slots = [await limiter.acquire() for _ in range(10)]
    await achange("default", limit=7, by="ann")
    await eventually(lambda: limiter.state.limit == 7)
    for left in (9, 8, 7):
        slots.pop().release()
        assert (await limiter.acquire()).reason == Reason.FULL
        assert limiter.state.held == left
    slots.pop().release()

    async def one_comes_in() -> bool:
        verdict = await limiter.acquire()
        slots.extend([verdict] if isinstance(verdict, Slot) else [])
        return len(slots) == 7

    await eventually(one_comes_in)
    assert (await limiter.acquire()).reason == Reason.FULL
    for slot in slots:
        slot.release()
    await close_limiters()


async def test_one_that_has_left_since_the_report_is_not_ended_once_more(admission, monkeypatch):
    settings = admission(MAX_CONNECTIONS=100)
    monkeypatch.setattr(closer.random, "random", lambda: 0.999)
    state = State(settings.pool("default"), Worker())
    state.controls = Controls(limit=Order(40, "ann", at=0.0, over=1.0))
    state.held, state.allowance = 40, 41
    drains = Closer(state, Places(state, RetrySchedule(state)), Faults("a pool"))
    drains.connections[Connection(None, None)] = 0.0
    view = Reply(0, total=41, limit=40, workers=1, version=1, settling=False, lapsed=False, now=10.0)
    drains.enforce(view, heartbeat=0.1)
    assert drains._task is None
    state.held = 41
    drains.enforce(view, heartbeat=0.1)
    assert drains._task is not None
    drains.cancel()


async def test_an_enforced_limit_ends_nobody_for_the_reserves_of_others(admission, crowd):
    admission(**SPEED, MAX_CONNECTIONS=100)
    await crowd.enter(40)
    limiter = limiter_of("default")
    other = replace(limiter.state.begin_report(), worker="web:1:ab", seq=1, held=20, reserve=20)
    await limiter.reconciler.ledger.reconcile("default", other)
    await achange("default", limit=40, over=0.1, by="ann")
    await eventually(lambda: limiter.state.controls.limit)
    heard = limiter.state.calls.made
    await eventually(lambda: limiter.state.calls.made >= heard + 5)
    assert (limiter.state.held, crowd.closed) == (40, [])


async def test_an_enforced_limit_takes_its_time_whatever_the_clock_of_redis_says(admission, monkeypatch):
    settings = admission(MAX_CONNECTIONS=100)
    monkeypatch.setattr(closer.random, "random", lambda: 0.999)
    state = State(settings.pool("default"), Worker())
    state.controls = Controls(limit=Order(40, "ann", at=1000.0, over=60.0))
    state.held = state.allowance = 100
    drains = Closer(state, Places(state, RetrySchedule(state)), Faults("a pool"))
    drains.connections.update((Connection(None, None), 0.0) for _ in range(100))
    ended = []
    monkeypatch.setattr(drains, "_end_all", lambda doomed, seconds: ended.append(len(doomed)) or asyncio.sleep(0))
    view = Reply(0, total=100, limit=40, workers=1, version=1, settling=False, lapsed=False)
    for now in (1000.0, 4600.0, 970.0, 9e11):
        drains.enforce(replace(view, now=now), heartbeat=1.0)
        await drains._task
    assert ended == [1] * 4
    drains.cancel()


async def test_a_dry_run_counts_whom_it_would_refuse_and_lets_them_in(admission, crowd, caplog):
    caplog.set_level(logging.INFO, "channels_admission")
    admission(**SPEED, MAX_CONNECTIONS=5, DRY_RUN=True)
    await crowd.enter(12)
    limiter = limiter_of("default")
    assert limiter.state.held == 12
    await eventually(lambda: limiter.state.unreported == 0 and limiter.state.allowance == 12)
    (pool,) = (await collect()).pools
    assert (pool.held, pool.limit, pool.dry_run) == (12, 5, True)
    assert (pool.admitted, pool.refused, pool.would_refuse) == (12, {}, {"full": 7})
    assert pool.connects.total == 12
    told = f"Dry run: pool 'default' would have refused 7 connections, and let them in: 7 full.{FURTHER}"
    await eventually(lambda: told in caplog.messages)
    (change,) = await achange("default", dry_run=False, by="ann")
    assert str(change) == "Pool default: dry run from on by the settings to off"
    await eventually(lambda: not limiter.state.dry_run)
    assert (await limiter.acquire()).reason == Reason.FULL
    await achange("default", dry_run=True, paused=True, by="ann")
    await eventually(lambda: limiter.state.dry_run)
    await crowd.enter(1)
    await adrain(ALL_WORKERS, by="ann", over=0)
    await eventually(lambda: limiter.state.held == 0)
    assert (await limiter.acquire()).reason == Reason.DRAINING


@pytest.mark.parametrize("limit", [-1, 10_000_001, 5.5, math.nan, "7", True])
async def test_a_limit_out_of_range_is_refused(admission, limit):
    admission()
    with pytest.raises(ControlError, match="A limit is a whole number from 0 to 10,000,000"):
        await achange("default", limit=limit, by="ann")


@pytest.mark.parametrize("given", [{"paused": "no"}, {"paused": None}, {"dry_run": "off"}, {"dry_run": 2}])
async def test_what_is_neither_true_nor_false_is_no_pause_and_no_dry_run(admission, given):
    admission()
    with pytest.raises(TypeError, match="is True or False, not"):
        await achange("default", by="ann", **given)


async def test_a_drain_keeps_that_of_a_worker_which_came_while_its_operator_looked(admission, crowd, monkeypatch):
    admission(**SPEED)
    await crowd.enter(1)
    young = limiter_of("default").state.worker.id
    await adrain(young, by="bob", over=60)
    before = frozenset({"web-1:7:ab"})
    monkeypatch.setattr(controls, "_workers", lambda: asyncio.sleep(0, before))
    await adrain("web-1", by="ann", over=60)
    (pool,) = (await collect()).pools
    assert [drain.target for drain in pool.controls.drains] == [young, "web-1"]


async def test_what_cannot_be_reached_or_is_unknown_is_said(admission, redis_server):
    admission(POOLS={"chat": {}})
    with pytest.raises(ControlError, match="The memory ledger is inside the worker's process"):
        await achange("chat", limit=5, by="ann")
    admission(LEDGER=redis_server.url, POOLS={"chat": {}})
    with pytest.raises(ConfigurationError, match="Did you mean 'chat'"):
        await achange("chatt", limit=5, by="ann")
    with pytest.raises(ControlError, match="No host 'web-9' is known"):
        await adrain("web-9", by="ann", over=5)
    for over in (-1, math.nan, "5", True, None):
        with pytest.raises(ControlError, match="A time is from 0 to 86,400 seconds"):
            await adrain(ALL_WORKERS, by="ann", over=over)
    assert {str(change) for change in await adrain(ALL_WORKERS, by="x" * 99, over=5)} == {
        f"Pool {name}: drain of all workers from none to 5 s" for name in ("default", "chat")
    }
    assert re.fullmatch(
        r"Pool chat: drain of all workers 5 s, set by x{40} at [-\d]+ [:\d]+ UTC",
        (await controls.adescribe("chat"))[-1],
    )


async def test_changes_at_the_same_time_are_all_made(admission, redis_server):
    admission(LEDGER=redis_server.url)
    await asyncio.gather(
        achange("default", limit=5, by="a"), achange("default", paused=True, by="b"),
        achange("default", dry_run=True, by="c"),
    )  # fmt: skip
    (pool,) = (await collect()).pools
    assert (pool.limit, pool.paused, pool.dry_run) == (5, True, True)


@pytest.mark.parametrize(("number", "seconds"), [(3000, 1.0), (100, 2.0), (7, 10.0), (1, 5.0)])
def test_connections_are_ended_evenly_a_few_at_a_time(number, seconds):
    seen = run(_spread(number, seconds))
    assert [each for each, _ in seen] == list(range(number))
    times = [at for _, at in seen]
    together = math.ceil(number * closer.SHORTEST / seconds)
    gap = seconds * together / number
    assert all(gap * (each // together) <= at <= gap * (each // together + 1) + 1e-9 for each, at in seen)
    assert max(Counter(times).values()) == together
    assert all(later - earlier > (closer.NARROWEST - 1e-9) * gap for earlier, later in pairwise(sorted(set(times))))


async def _spread(number: int, seconds: float) -> list[tuple[int, float]]:
    loop = asyncio.get_running_loop()
    return [(each, loop.time()) async for each in closer.spread(list(range(number)), seconds)]


async def test_a_pool_that_is_switched_off_costs_nothing(admission):
    admission(ENABLED=False, DRY_RUN=True, DRAIN_ON_STOP=5)
    seen = []

    async def inner(*arguments):
        seen.append(arguments)

    arguments = ({"type": "websocket"}, object(), object())
    await AdmissionMiddleware(inner)(*arguments)
    assert all(ours is theirs for ours, theirs in zip(seen[0], arguments, strict=True))
    assert asyncio.all_tasks() == {asyncio.current_task()}
