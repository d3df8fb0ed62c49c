"""What operators order holds by the pool's own clock and version, never by times of day, and ends when it is done."""

import pytest
import redis

from channels_admission.core.overrides import EVERY_WORKER, Controls, Drain, Order
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.limiter.books.state import State
from channels_admission.limiter.closer import Closer
from channels_admission.limiter.line.places import Places
from channels_admission.limiter.line.retries import RetrySchedule
from channels_admission.runtime.faults import Faults
from channels_admission.runtime.identity import Worker

from support.reports import HEARTBEAT, LEASE, ClockedRedisLedger

ALL = Drain(EVERY_WORKER, 5.0, "ann", 1.0)
ENFORCED = Order(10, "ann", 1.0, 60.0)


class Obedient:
    """A worker that reports and obeys, without an event loop's connections."""

    def __init__(self, ledger, settings) -> None:
        self.ledger = ledger
        self.state = State(settings.pool("default"), Worker())
        self.closer = Closer(self.state, Places(self.state, RetrySchedule(self.state)), Faults("a pool"))

    async def heartbeat(self, **more):
        report = self.state.begin_report(heartbeat=True, **more)
        reply = await self.ledger.reconcile("default", report)
        self.state.settle(report, reply)
        self.closer.follow(reply)
        return reply

    @property
    def draining(self) -> bool:
        return self.state.draining


class Site:
    """A pool, its workers, and what operators set."""

    def __init__(self, ledger, settings, clock) -> None:
        self.ledger, self.settings, self.clock = ledger, settings, clock
        self.workers: list[Obedient] = []

    def start(self) -> Obedient:
        self.workers.append(Obedient(self.ledger, self.settings))
        return self.workers[-1]

    async def set(self, **orders) -> Controls:
        controls = await self.controls()
        assert await self.ledger.control("default", Controls(**orders), controls.version)
        return await self.controls()

    async def add(self, **orders) -> None:
        """Set this as well."""
        controls = await self.controls()
        now = {name: getattr(controls, name) for name in ("limit", "paused", "dry_run", "drains")}
        assert await self.ledger.control("default", Controls(**{**now, **orders}), controls.version)

    async def controls(self) -> Controls:
        (reading,) = await self.ledger.read(("default",))
        return reading.controls

    async def pass_(self, seconds: float) -> None:
        for _ in range(round(seconds / HEARTBEAT)):
            self.clock.now += HEARTBEAT
            for each in self.workers:
                await each.heartbeat()

    async def end(self, worker: Obedient) -> None:
        self.workers.remove(worker)
        await self.ledger.reconcile("default", worker.state.begin_report(goodbye=True))


@pytest.fixture(params=["memory", "redis"])
async def site(request, admission, clock, redis_server):
    keys = {"LEASE": LEASE, "HEARTBEAT": HEARTBEAT, "MAX_CONNECTIONS": 50}
    if request.param == "memory":
        settings = admission(**keys)
        ledger = MemoryLedger(settings, clock, clock)
    else:
        settings = admission(**keys, LEDGER=redis_server.url)
        ledger = ClockedRedisLedger(settings, clock)
    site = Site(ledger, settings, clock)
    for _ in range(2):
        await site.start().heartbeat()
    await site.pass_(3)
    yield site
    await ledger.aclose()


async def test_a_drain_of_all_is_of_those_that_had_registered(site):
    await site.set(drains=(ALL,))
    late = site.start()
    await site.pass_(3)
    assert [each.draining for each in site.workers] == [True, True, False]
    assert not late.draining


@pytest.mark.parametrize("step", [-30.0, -3600.0, 3600.0, 1e8])
async def test_no_step_of_a_clock_makes_an_old_order_new(site, step):
    old = await site.set(drains=(ALL,))
    await site.pass_(2)
    for worker in site.workers[:]:
        await site.end(worker)
    young = [site.start(), site.start()]
    await site.pass_(1)
    site.clock.now += step
    await site.add(limit=Order(40, "bob", 2.0))
    await site.pass_(3)
    await site.add(paused=Order(1, "bob", 3.0))
    late = site.start()
    await site.pass_(3)
    assert [each.draining for each in (*young, late)] == [False] * 3
    assert (await late.heartbeat()).limit == 40
    assert (await site.controls()).version > old.version


async def test_a_drain_of_all_ends_when_nobody_drains_and_all_have_heard(site):
    await site.set(drains=(ALL,))
    await site.pass_(2)
    first, second = site.workers
    await site.end(first)
    young = site.start()
    await site.pass_(2 * LEASE)
    assert (await site.controls()).drains != ()
    await site.end(second)
    await site.pass_(2)
    assert (await site.controls()).drains == ()
    assert not young.draining


async def test_a_drain_of_all_waits_for_those_that_have_not_heard(site):
    quiet = site.workers.pop()
    await site.set(drains=(ALL,))
    await site.pass_(2)
    await site.end(site.workers[0])
    site.start()
    await site.pass_(2)
    await quiet.heartbeat()
    assert quiet.draining


async def test_a_drain_of_a_worker_ends_with_it_and_that_of_a_host_does_not(site):
    worker = site.workers[0]
    host = worker.state.worker.id.partition(":")[0]
    await site.set(drains=(Drain(worker.state.worker.id, 5.0, "ann", 1.0), Drain("elsewhere", 5.0, "ann", 1.0)))
    await site.pass_(2)
    assert [each.draining for each in site.workers] == [True, False]
    await site.end(worker)
    await site.pass_(LEASE + 2)
    assert [drain.target for drain in (await site.controls()).drains] == ["elsewhere"]
    assert host != "elsewhere"


async def test_a_worker_that_takes_another_name_drains_on(site):
    worker = site.workers[0]
    await site.set(drains=(Drain(worker.state.worker.id, 5.0, "ann", 1.0),))
    await site.pass_(2)
    worker.state.rename()
    await site.add(limit=Order(40, "bob", 2.0))
    await site.pass_(3)
    assert worker.draining


async def test_of_several_drains_the_one_ordered_last_counts(site):
    host = site.workers[0].state.worker.id.partition(":")[0]
    await site.set(drains=(ALL,))
    site.clock.now -= 600
    drains = (await site.controls()).drains
    await site.add(drains=(*drains, Drain(host, 7.0, "bob", 0.0)))
    await site.pass_(2)
    assert {each.closer._followed.over for each in site.workers} == {7.0}


async def test_an_enforced_limit_is_a_mere_one_once_the_pool_is_within_it(site):
    worker = site.workers[0]
    worker.state.held = 12
    await worker.heartbeat()
    await site.set(limit=ENFORCED)
    await site.pass_(2)
    assert (await site.controls()).limit == ENFORCED
    worker.state.held = 10
    await site.pass_(2)
    assert (await site.controls()).limit == Order(10, "ann", 1.0)
    assert worker.state.controls.limit.over is None
    worker.state.held = 13
    await site.pass_(2)
    assert (await site.controls()).limit == Order(10, "ann", 1.0)


# Redis alone


@pytest.fixture
async def in_site(admission, clock, redis_server):
    settings = admission(LEASE=LEASE, HEARTBEAT=HEARTBEAT, MAX_CONNECTIONS=50, LEDGER=redis_server.url)
    ledger = ClockedRedisLedger(settings, clock)
    site = Site(ledger, settings, clock)
    for _ in range(2):
        await site.start().heartbeat()
    await site.pass_(3)
    with redis.Redis.from_url(redis_server.url) as client:
        yield site, lambda *parts: client.delete(*(ledger._key("default", part) for part in parts))
    await ledger.aclose()


async def test_a_drain_of_all_survives_a_loss_of_data_and_is_of_nobody_else(in_site):
    site, lose = in_site
    await site.set(drains=(ALL,))
    await site.pass_(2)
    lose("counts", "leases", "controls")
    young = site.start()
    await young.heartbeat()
    await site.pass_(4)
    assert [drain.target for drain in (await site.controls()).drains] == [EVERY_WORKER]
    assert [each.draining for each in site.workers] == [True, True, False]


@pytest.mark.parametrize("parts", [("counts",), ("leases",), ("counts", "leases")])
async def test_an_old_order_that_outlives_the_counts_is_of_nobody_and_ends(in_site, parts):
    site, lose = in_site
    await site.set(drains=(ALL,))
    site.workers.clear()
    lose(*parts)
    site.start()
    site.clock.now -= 100
    await site.pass_(2)
    late = site.start()
    await site.pass_(LEASE + 3)
    assert [each.draining for each in site.workers] == [False, False]
    assert (await site.controls()).drains == ()
    assert not late.draining


async def test_controls_that_are_lost_alone_bring_no_order_upon_the_young(in_site):
    site, lose = in_site
    await site.set(drains=(ALL,))
    await site.pass_(2)
    lose("controls")
    young = site.start()
    await young.heartbeat()
    await site.pass_(3)
    assert [each.draining for each in site.workers] == [True, True, False]
