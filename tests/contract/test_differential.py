"""Memory and Redis give the same replies to the same reports, in any order of what happens to four workers.

Redis looks at four leases in a call, so four workers are forgotten by both ledgers in the same call. Not compared are
what depends on the time of the Redis server alone (silences, rings), and a loss of data, which memory cannot have.
"""

import asyncio
import uuid
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from channels_admission.core.overrides import Controls, Order
from channels_admission.core.protocol import Terms, View
from channels_admission.ledger.base import Forgotten, OutOfOrder
from channels_admission.ledger.memory import MemoryLedger

from support.claimants import Claimant, ask
from support.reports import HEARTBEAT, LEASE, Clock, ClockedRedisLedger, Reporter

TOLERANCE = 1e-6
"""Seconds: Redis reckons in milliseconds, and both in floating-point numbers."""


def comparable(view: View) -> dict:
    names = [name for name in View.__slots__ if name not in ("now", "offer", "waits")]
    plain = {name: getattr(view, name) for name in names}
    offer = view.offer and (view.offer.first, view.offer.step, view.offer.elapsed)
    return {
        **plain,
        "neighbours": sorted(plain["neighbours"], key=lambda each: each.worker),
        "evicted": sorted(plain["evicted"]),
        "waits": pytest.approx(view.waits, abs=TOLERANCE),
        "offer": offer and pytest.approx(offer, abs=TOLERANCE),
    }


def numbers(view: View) -> dict:
    offer = view.offer and (view.offer.first, view.offer.step, view.offer.elapsed)
    return {**comparable(view), "waits": view.waits, "offer": offer}


class Both:
    """Two ledgers that must say the same; the answer is that of memory."""

    def __init__(self, memory: MemoryLedger, redis: ClockedRedisLedger) -> None:
        self.ledgers = memory, redis

    async def reconcile(self, pool, report):
        memory, redis = [await self._ask(ledger, pool, report) for ledger in self.ledgers]
        if isinstance(memory, View) and isinstance(redis, View):
            assert numbers(redis) == comparable(memory)
        else:
            assert type(redis) is type(memory)
        await self.compare_readings(pool)
        if isinstance(memory, Exception):
            raise memory
        return memory

    async def _ask(self, ledger, pool, report):
        try:
            return await ledger.reconcile(pool, report)
        except (OutOfOrder, Forgotten) as error:
            return error

    async def compare_readings(self, pool):
        memory, redis = [(await ledger.read((pool,)))[0] for ledger in self.ledgers]
        assert {name: n for name, n in memory.counters.items() if n} == redis.counters
        assert (memory.controls, memory.level) == (redis.controls, redis.level)
        first, second = ({each.worker: each.speed for each in reading.workers} for reading in (memory, redis))
        assert first == second


async def settle(both: Both, clock: Clock, kind=Reporter, pool: str = "default", terms: Terms = Terms()) -> None:
    """Let a first worker come and go, and the time pass in which Redis settles over an empty pool."""
    for ledger in both.ledgers:
        first = kind(ledger, "ffff", pool=pool, limit=12)
        first.last = replace(first.last, terms=terms)
        await (first.claim(goodbye=True) if kind is Claimant else first.say(goodbye=True))
    clock.now = round(clock.now + 2 * HEARTBEAT, 3)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["claim"] * 4 + ["drop", "pass", "die", "goodbye", "repeat", "lost", "order", *["count"] * 4]),
        st.integers(0, 3),
        st.integers(0, 6),
        st.sampled_from([1, 250, 499, 500, 999, 1000, 1001, 2500, 7000]),
        st.booleans(),
    ),
    min_size=5,
    max_size=40,
)
GROUPS = ("", "anonymous", "member", "staff", "exempt")


class World:
    """Four workers of one pool, and a clock of whole milliseconds."""

    def __init__(self, both: Both, clock: Clock, *, shared: bool, rate: float | None) -> None:
        self.both, self.clock, self.shared = both, clock, shared
        self.pool, self.born, self.orders = uuid.uuid4().hex, 0, 0
        self.terms = Terms(rate, 3, 2.0) if rate else Terms()
        self.counters: dict[str, Counter] = {}
        self.workers = [self.start() for _ in range(4)]

    def start(self):
        self.born += 1
        kind = Claimant if self.shared else Reporter
        worker = kind(self.both, f"{self.born:x}", pool=self.pool, limit=12)
        worker.last = replace(worker.last, terms=self.terms)
        self.counters[worker.last.worker] = Counter()
        return worker

    async def report(self, worker, number=0, **changes):
        changes["counters"] = dict(self.counters[worker.last.worker])
        if not self.shared:
            view = await worker.say(worker.last.held, number, **changes)
            worker.last = replace(worker.last, held=worker.last.held + view.granted)
            return
        asks = [ask(f"u{n % 2}", "here", group=GROUPS[n % 5], pending=n == 3) for n in range(number)]
        await worker.claim(*asks, **changes)

    async def step(self, what, place, number, milliseconds, beat):
        worker = self.workers[place]
        if what == "pass":
            self.clock.now = round(self.clock.now + milliseconds / 1000, 3)
        elif what == "die":
            self.workers[place] = self.start()
            gone = (worker.last.worker,) if beat and worker.last.seq else ()
            await self.report(self.workers[place - 1], gone=gone)
            other = self.workers[place - 1]
            other.last = replace(other.last, gone=())
        elif what == "goodbye":
            if self.shared:
                worker.held, worker.told = 0, {*worker.claims}
                worker.claims, worker.classes = Counter(), Counter()
            else:
                worker.last = replace(worker.last, held=0)
            await self.report(worker, goodbye=True)
            self.workers[place] = self.start()
        elif what == "repeat" and worker.last.seq:
            with pytest.raises((OutOfOrder, Forgotten)):
                await self.both.reconcile(self.pool, worker.last)
        elif what == "order":
            self.orders += 1
            limit = Order(number * 2, "", 1.0) if beat else None
            paused = Order(1, "", 1.0) if number == 6 else None
            await self.report(worker, controls=Controls(self.orders, limit, paused))
        else:
            await self.act(what, worker, number, beat)

    async def act(self, what, worker, number, beat):
        if what == "count":
            for name in ("admitted", "full", "released"):
                self.counters[worker.last.worker][name] = (number * 7 + len(name)) % 11
            worker.last = replace(worker.last, speed=12.125 * number, owed=number % 3)
        if what == "drop":
            self.drop(worker)
        before = (worker.heard, worker.told) if self.shared else None
        await self.report(worker, number if what in ("claim", "lost") else 0, beat=beat)
        if what == "lost" and self.shared:
            worker.heard, worker.told = before[0], before[1] | {*worker.claims}

    def drop(self, worker):
        if not self.shared:
            worker.last = replace(worker.last, held=max(0, worker.last.held - 1))
            return
        live = [key for key, count in worker.claims.items() if count > 0]
        if worker.held and live:
            worker.held -= 1
            worker.claims[live[0]] -= 1
            worker.told |= {live[0]}

    async def run(self, steps):
        await settle(self.both, self.clock, type(self.workers[0]), self.pool, self.terms)
        for step in steps:
            await self.survive(step)

    async def survive(self, step):
        try:
            await self.step(*step)
        except (Forgotten, OutOfOrder):  # both ledgers said so; the worker takes another name
            self.workers[step[1]] = self.start()


@pytest.fixture
def both(admission, redis_server):
    loop, clock = asyncio.new_event_loop(), Clock()
    clock.now = round(clock.now, 3)
    here = admission(LEASE=LEASE, HEARTBEAT=HEARTBEAT, LEDGER=redis_server.url)
    redis = ClockedRedisLedger(here, clock)
    yield loop, Both(MemoryLedger(here, clock, clock), redis), clock
    loop.run_until_complete(redis.aclose())
    loop.close()


def differ(both, examples: int) -> None:
    loop, ledgers, clock = both

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(STEPS, st.booleans(), st.sampled_from([None, 2.0]))
    def search(steps, shared, rate):
        world = World(ledgers, clock, shared=shared, rate=rate)
        loop.run_until_complete(world.run(steps))

    search()


@pytest.mark.simulation
def test_memory_and_redis_say_the_same(both):
    differ(both, 80)


@pytest.mark.simulation
@pytest.mark.long
def test_memory_and_redis_say_the_same_for_long(both):
    differ(both, 5000)


def test_a_counter_that_falls_adds_nothing_and_counts_from_there(both):
    loop, ledgers, clock = both

    async def run():
        await settle(ledgers, clock)
        worker = Reporter(ledgers, "a")
        for count in (9, 4, 6):
            await worker.say(counters={"admitted": count})
        return [(await ledger.read(("default",)))[0].counters["admitted"] for ledger in ledgers.ledgers]

    assert loop.run_until_complete(run()) == [11, 11]


def test_a_lapsed_worker_with_claims_is_forgotten_until_they_are_given_back(both):
    loop, ledgers, clock = both

    async def run():
        await settle(ledgers, clock, Claimant)
        a, b = Claimant(ledgers, "a"), Claimant(ledgers, "b")
        await b.claim()
        await a.claim(ask("kim"))
        view = await b.claim(gone=("host:1:a",))
        assert view.sweep == "host:1:a"
        with pytest.raises(Forgotten):
            await a.claim()
        assert (await b.claim(gone=())).sweep == ""

    loop.run_until_complete(run())


def test_the_outflow_is_measured_in_the_millisecond_in_which_a_beat_has_passed(both):
    loop, ledgers, clock = both
    clock.now = 1_700_000_000.3

    async def run():
        await settle(ledgers, clock)
        worker = Reporter(ledgers, "a", limit=2)
        await worker.say(2, terms=Terms(retry_after=(0.2, 0.5)))
        offers = []
        for number in range(1, 30):
            clock.now = round(clock.now + HEARTBEAT, 3)
            view = await worker.say(2, 1, counters={"released": 2 * number})
            offers.append(view.offer)
        return offers

    offers = loop.run_until_complete(run())
    assert all(offer and offer.step == pytest.approx(1 / (0.97 * 2)) for offer in offers[1:])
