"""Memory and Redis give the same replies to the same reports, in any order of what happens to four workers.

Both lose all data of the pool at times, or go back to what they had stored before. ``DIFFERENTIAL_EXAMPLES`` sets the
number of examples.
"""

import asyncio
import os
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from channels_admission.core.herd.line import Line
from channels_admission.core.protocol import Terms
from channels_admission.ledger.base import Forgotten
from channels_admission.ledger.memory import MemoryLedger

from support.claimants import Claimant, ask
from support.reports import HEARTBEAT, LEASE, Clock, ClockedRedisLedger, Reporter, reserving
from support.twins import STEPS, Both, World, settle

TERMS = (Terms(), Terms(2.0, 3), Terms(2.0, 3, 2.0), Terms(5.0, 40), Terms(5.0, 40, 2.0))
"""Without a rate, with one, and with a slow start as well; with tokens for reserves."""


@pytest.fixture
def open_both(admission, redis_server):
    """Opens two ledgers of the pool, with one clock of their own."""
    loop, clock, opened = asyncio.new_event_loop(), Clock(), []
    clock.now = 1_700_000_000.3

    def open_(heartbeat: float = HEARTBEAT, lease: float = LEASE, site: int = 7):
        here = replace(admission(LEASE=lease, HEARTBEAT=heartbeat, LEDGER=redis_server.url), site=site)
        memory, redis = MemoryLedger(here, clock, clock), ClockedRedisLedger(here, clock)
        memory.volatile = True
        opened.append(redis)
        return Both(memory, redis)

    with reserving(2):
        yield loop, open_, clock
    for redis in opened:
        loop.run_until_complete(redis.aclose())
    loop.close()


@pytest.fixture
def both(open_both):
    loop, open_, clock = open_both
    return loop, open_(), clock


def differ(open_both, examples: int) -> None:
    loop, open_, clock = open_both
    ledgers, alike, slower = open_(), open_(), open_(2 * HEARTBEAT, 3 * LEASE, 9)

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(STEPS, st.booleans(), st.sampled_from(TERMS), st.sampled_from([None, alike, slower]))
    def search(steps, shared, terms, other):
        world = World(ledgers, other, clock, shared=shared, terms=terms)
        loop.run_until_complete(world.run(steps))

    search()


@pytest.mark.simulation
def test_memory_and_redis_say_the_same(open_both):
    differ(open_both, int(os.environ.get("DIFFERENTIAL_EXAMPLES", "100")))


@pytest.mark.simulation
@pytest.mark.long
def test_memory_and_redis_say_the_same_for_long(open_both):
    differ(open_both, 1500)


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
        reply = await b.claim(gone=("host:1:a",))
        assert reply.sweep == "host:1:a"
        with pytest.raises(Forgotten):
            await a.claim()
        assert (await b.claim(gone=())).sweep == ""

    loop.run_until_complete(run())


def test_a_forgotten_worker_whose_claims_were_lost_is_forgotten_until_its_turn_to_be_given_back(both):
    """Else its new claims would be given back while it lives."""
    loop, ledgers, clock = both

    async def run():
        await settle(ledgers, clock, Claimant)
        a, b = Claimant(ledgers, "a"), Claimant(ledgers, "b")
        await b.claim(ask("kim"))
        await a.claim()
        saved = await ledgers.save("default")
        await a.claim()
        await ledgers.restore("default", saved)
        assert (await a.claim()).settling
        assert (await a.claim(gone=("host:1:b",))).sweep == "host:1:b"
        with pytest.raises(Forgotten):
            await b.claim()
        assert (await a.claim(gone=())).sweep == ""
        assert (await b.claim(ask("kim"))).retell

    loop.run_until_complete(run())


def test_a_forgotten_worker_that_had_no_claims_goes_on_under_its_name(both):
    loop, ledgers, clock = both

    async def run():
        await settle(ledgers, clock, Claimant)
        a, b = Claimant(ledgers, "a"), Claimant(ledgers, "b")
        await a.claim(ask())
        reply = await b.claim(gone=("host:1:a",))
        assert (reply.sweep, reply.total) == ("", 0)
        reply = await a.claim(ask("kim"), gone=())
        assert (reply.lapsed, reply.granted, reply.total) == (True, 1, 2)
        assert (await b.claim(gone=("host:1:a",))).sweep == "host:1:a"

    loop.run_until_complete(run())


def test_claims_of_the_dead_are_given_back_in_one_order(both):
    """Those of the last call first, and of one call by name."""
    loop, ledgers, clock = both

    async def run():
        await settle(ledgers, clock, Claimant)
        workers = {name: Claimant(ledgers, name, limit=1000) for name in "cabd"}
        for name, worker in workers.items():
            await worker.claim(ask(name))
        z = Claimant(ledgers, "e", limit=1000)
        await z.claim(gone=("host:1:d",))
        z.sweep = ""
        reply = await z.claim(gone=("host:1:a", "host:1:c", "host:1:b"))
        order = [reply.sweep]
        while order[-1]:
            order.append((await z.claim(gone=())).sweep)
        return order

    assert loop.run_until_complete(run()) == ["host:1:c", "host:1:b", "host:1:a", "host:1:d", ""]


def test_the_outflow_is_measured_in_the_millisecond_in_which_a_heartbeat_has_passed(both):
    loop, ledgers, clock = both

    async def run():
        await settle(ledgers, clock)
        worker, line = Reporter(ledgers, "a", limit=2), Line()
        await worker.say(2, terms=Terms(retry_after=(0.2, 0.5)))
        speeds = []
        for number in range(1, 30):
            clock.now = round(clock.now + HEARTBEAT, 3)
            line.advance(clock.now)
            reply = await worker.say(2, 1, age=float(number), counters={"released": 2 * number})
            speeds.append(line.overbooked / (0.97 * reply.retry_times.step))
            line.promise(clock.now + reply.retry_times.first - reply.retry_times.elapsed)
        return speeds

    speeds = loop.run_until_complete(run())
    assert speeds[1:] == pytest.approx([2.0] * 28)
