"""Counters over losses of data in Redis: they go on, or begin anew at 0, and never come back at another value."""

from dataclasses import replace
from itertools import pairwise

import pytest
import redis
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse

from channels_admission.core.counters import DATA_LOST
from channels_admission.ledger.redis import RedisLedger
from channels_admission.limiter.books.state import State
from channels_admission.runtime.identity import Worker
from channels_admission.status.snapshot import collect
from channels_admission.web.metrics import exposition

from support.reports import Reporter

REFUSED = "channels_admission_pool_refused"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Site:
    """Workers that refuse, the keys of their pool, and the series that is exported."""

    def __init__(self, ledger: RedisLedger, url: str, prefix: str) -> None:
        self.ledger, self.prefix, self.client = ledger, prefix, redis.Redis.from_url(url)
        self.series: list[float | None] = []
        """The exported refusals, None where they are left out."""
        self.created: list[float] = []

    @property
    def keys(self) -> list[bytes]:
        return list(self.client.scan_iter(f"{self.prefix}:*"))

    def worker(self, nonce: str) -> Reporter:
        return Reporter(self.ledger, nonce)

    async def refuse(self, worker: Reporter, number: int, *, is_heard: bool = True) -> None:
        counters = {"full": worker.last.counters.get("full", 0) + number}
        version = worker.last.version
        await worker.say(counters=counters)
        heard = {"acknowledged": counters} if is_heard else {"version": version}
        worker.last = replace(worker.last, **heard)

    async def scrape(self) -> float | None:
        text = exposition(await collect(), OPENMETRICS)[0].decode()
        samples = [sample for family in parse(text) if family.name == REFUSED for sample in family.samples]
        full = {sample.name: sample.value for sample in samples if sample.labels["reason"] == "full"}
        self.series.append(full.get(f"{REFUSED}_total"))
        self.created += [full[f"{REFUSED}_created"]] if full else []
        return self.series[-1]

    def save(self) -> dict[bytes, bytes]:
        return {key: self.client.dump(key) for key in self.keys}

    def restore(self, saved: dict[bytes, bytes]) -> None:
        self.client.delete(*self.keys)
        for key, dump in saved.items():
            self.client.restore(key, 0, dump)

    @property
    def increase(self) -> float:
        """As Prometheus computes it: a fall is a restart at 0."""
        known = [value for value in self.series if value is not None]
        return sum(after - before if after >= before else after for before, after in pairwise([0.0, *known]))


@pytest.fixture
async def site(admission, redis_server, prefix):
    ledger = RedisLedger(admission(LEDGER=redis_server.url, HEARTBEAT=0.1, LEASE=30))
    yield Site(ledger, redis_server.url, prefix)
    await ledger.aclose()


async def test_the_time_of_a_loss_of_data_is_told_and_that_of_the_first_report_is_none(site):
    a = site.worker("a")
    await site.refuse(a, 20)
    (before,) = await site.ledger.read(("default",))
    site.client.delete(*site.keys)
    await site.refuse(a, 1)
    (after,) = await site.ledger.read(("default",))
    assert (before.latest, after.latest) == ({}, {DATA_LOST: int(after.since)})


async def test_after_a_flush_without_traffic_counters_are_left_out_and_begin_at_0(site):
    dead, a, b = site.worker("d"), site.worker("a"), site.worker("b")
    await site.refuse(dead, 2666)
    await dead.say(goodbye=True)
    await site.refuse(a, 1000)
    await site.refuse(b, 310)
    assert await site.scrape() == 3976
    site.client.delete(*site.keys)
    assert await site.scrape() is None
    for worker in (a, b, a, b):
        await site.refuse(worker, 0)
        assert await site.scrape() == 0
    await site.refuse(b, 7)
    assert await site.scrape() == 7
    assert site.increase == 3976 + 7
    assert sorted(site.created) == site.created
    assert len(set(site.created)) == 2


async def test_what_was_refused_and_not_told_before_a_flush_counts_once(site):
    a = site.worker("a")
    await site.refuse(a, 10)
    site.client.delete(*site.keys)
    await site.refuse(a, 3)
    await site.refuse(site.worker("b"), 5)
    assert await site.scrape() == 8


async def test_older_data_are_left_out_and_counters_begin_at_0_with_the_first_report(site):
    a, b = site.worker("a"), site.worker("b")
    await site.refuse(a, 1000)
    await site.refuse(b, 310)
    saved = site.save()
    assert await site.scrape() == 1310
    await site.refuse(a, 200)
    await site.refuse(b, 100)
    assert await site.scrape() == 1610
    site.restore(saved)
    assert await site.scrape() is None
    for worker in (b, a, b, a):
        await site.refuse(worker, 0)
        assert await site.scrape() == 0
    await site.refuse(a, 4)
    await site.refuse(b, 1)
    assert await site.scrape() == 5
    assert site.increase == 1610 + 5


async def test_a_worker_that_knows_more_than_those_before_it_lets_them_begin_once_more(site):
    a, b = site.worker("a"), site.worker("b")
    await site.refuse(a, 10)
    await site.refuse(b, 20)
    saved = site.save()
    await site.refuse(a, 30)
    for _ in range(9):
        await site.refuse(b, 40)
    assert await site.scrape() == 420
    site.restore(saved)
    await site.refuse(a, 3)
    assert await site.scrape() == 3
    await site.refuse(b, 2)
    assert await site.scrape() == 2
    assert site.increase == 420 + 3 + 2
    assert len(set(site.created)) == 3


async def test_a_lost_reply_counts_nothing_twice(site):
    a = site.worker("a")
    await site.refuse(a, 10)
    await site.refuse(a, 5, is_heard=False)
    await site.refuse(a, 2)
    assert await site.scrape() == 17


@pytest.mark.parametrize("lost", ["host:1:a", "#total", "#pace", "#check"])
async def test_counters_go_on_where_something_else_was_lost(site, lost):
    a, b = site.worker("a"), site.worker("b")
    await site.refuse(a, 10)
    await site.refuse(b, 20)
    assert await site.scrape() == 30
    assert site.client.hdel(f"{site.prefix}:{{default}}:counts", lost) == 1
    await site.refuse(b, 1)
    assert await site.scrape() == 31
    await site.refuse(a, 2)
    assert await site.scrape() == 33
    assert len(set(site.created)) == 1


@pytest.mark.parametrize("damaged", ["full=99", "1|full=99", "1|full=99abcdef", "", "9" * 30_000])
async def test_damaged_counters_begin_at_0(site, damaged):
    a = site.worker("a")
    await site.refuse(a, 10)
    assert await site.scrape() == 10
    site.client.hset(f"{site.prefix}:{{default}}:counts", "#counters", damaged)
    await site.refuse(a, 3)
    assert await site.scrape() == 3
    assert site.increase == 13
    assert len(set(site.created)) == 2


async def test_older_data_that_stay_are_exported_after_a_lease(site, monkeypatch):
    a, now = site.worker("a"), [0.0]
    monkeypatch.setattr("channels_admission.status.snapshot.time.monotonic", lambda: now[0])
    await site.refuse(a, 10)
    saved = site.save()
    await site.refuse(a, 10)
    assert await site.scrape() == 20
    site.restore(saved)
    assert await site.scrape() is None
    now[0] = 30.0
    assert await site.scrape() == 10


async def test_a_worker_under_another_name_counts_nothing_twice(site, admission):
    settings = admission(LEDGER=site.ledger.address, HEARTBEAT=0.1, LEASE=30)
    state = State(settings.pool("default"), Worker())

    async def report() -> None:
        report = state.begin_report()
        state.settle(report, await site.ledger.reconcile("default", report))

    state.counters["full"] = 10
    await report()
    state.counters["full"] = 13
    state.rename()
    await report()
    await report()
    assert await site.scrape() == 13
