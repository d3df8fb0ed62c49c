"""A pool that moves from one node of a Redis Cluster to another, and nodes that fall silent."""

import asyncio
import logging
import time

import pytest
import redis

from channels_admission.exceptions import LedgerError, LedgerRefused, LedgerUnavailable
from channels_admission.ledger import open_ledger

from support.churn import churn
from support.redises import SLOTS, Cluster, as_admission, cluster, replicated_cluster, rights
from support.reports import Reporter
from support.waiting import eventually

LIMIT, HEARTBEAT, LEASE = 50, 0.4, 4
LIMITERS, CLIENTS = 4, 20
REGAINED = 12.0
"""Seconds from the end of a primary to every limiter's next success, at the most; the nodes wait two of them."""
FIRST, SECOND, NEW = range(3)
"""The nodes; the new one has no slot at the start."""
pytestmark = [pytest.mark.fault, pytest.mark.xdist_group("cluster")]


@pytest.fixture(scope="module")
def servers():
    with cluster("--cluster-require-full-coverage", "no", *rights(in_cluster=True)) as servers:
        yield servers


@pytest.fixture
def clustered(admission, servers):
    ledger = {"HOSTS": [as_admission(url) for url in servers.hosts], "CLUSTER": True}
    return admission(MAX_CONNECTIONS=LIMIT, HEARTBEAT=HEARTBEAT, LEASE=LEASE, LEDGER=ledger, WHEN_LEDGER_DOWN="freeze")


def slot_of(servers: Cluster, pool: str) -> int:
    return servers.clients[FIRST].execute_command("CLUSTER", "KEYSLOT", f"{{{pool}}}")


def is_in_second(servers: Cluster, pool: str) -> bool:
    return slot_of(servers, pool) >= SLOTS // 2


async def test_a_pool_that_moves_under_churn(servers, clustered, caplog, figures):
    counts = f"{clustered.prefix}:{{default}}:counts"
    slot = slot_of(servers, "default")
    async with churn(clustered, LIMITERS, CLIENTS) as limiters:
        await eventually(lambda: limiters.held == LIMIT)
        servers.begin_to_move(slot, FIRST, NEW)
        await asyncio.sleep(2 * HEARTBEAT)
        assert not any(limiters.is_away)
        half_moved = time.monotonic()
        servers.move(FIRST, NEW, counts)
        await eventually(lambda: all(limiters.is_away))
        await asyncio.sleep(2 * HEARTBEAT)
        servers.end_move(slot, FIRST, NEW)
        moved = time.monotonic()
        await eventually(lambda: not any(limiters.is_away))
        away = time.monotonic() - moved
        limiters.rest()
        await eventually(limiters.agrees, seconds=HEARTBEAT)
        limiters.move()
        await asyncio.sleep(2 * HEARTBEAT)
        assert not any(limiters.is_away)
        assert limiters.most == LIMIT
        # A move is no mistake in the set-up.
        assert [record.getMessage() for record in caplog.records if record.levelno > logging.WARNING] == []
    figures.note(
        "Cluster: the pool moves to another node, key by key, under churn",
        "the ledger is away only while the pool is in two places; never above the limit; then equal to the truth",
        f"in two places for {moved - half_moved:.1f} s, back {away:.2f} s after that; "
        f"at most {limiters.most} of {LIMIT} held",
    )


async def test_a_pool_whose_keys_have_all_moved_is_served_before_its_slot_has(servers, clustered):
    slot = slot_of(servers, "default")
    source = servers.owner(slot)
    async with churn(clustered, LIMITERS, CLIENTS) as limiters:
        await eventually(lambda: limiters.held == LIMIT)
        for here, there in ((source, SECOND), (SECOND, source)):
            servers.begin_to_move(slot, here, there)
            servers.move(here, there, *servers.keys(slot, here))
            await eventually(lambda: not any(limiters.is_away))
            calls = [limiter.state.calls.made for limiter in limiters.limiters]
            await asyncio.sleep(2 * HEARTBEAT)
            assert not any(limiters.is_away)
            assert all(
                limiter.state.calls.made > before for limiter, before in zip(limiters.limiters, calls, strict=True)
            )
            assert servers.owner(slot) == here
            servers.end_move(slot, here, there)
        limiters.rest()
        await eventually(limiters.agrees, seconds=2 * HEARTBEAT)
        assert limiters.most == LIMIT


@pytest.fixture
def replicated(admission):
    """A cluster with replicas, and the settings for it."""
    with replicated_cluster() as servers:
        ledger = {"HOSTS": servers.hosts, "CLUSTER": True}
        keys = {"MAX_CONNECTIONS": LIMIT, "HEARTBEAT": HEARTBEAT, "LEASE": LEASE, "WHEN_LEDGER_DOWN": "freeze"}
        yield servers, admission(**keys, LEDGER=ledger)


async def test_a_primary_that_is_killed_and_its_replica_in_its_place(replicated, figures):
    servers, settings = replicated
    async with churn(settings, LIMITERS, CLIENTS) as limiters:
        await eventually(lambda: limiters.held == LIMIT)
        primary = servers.owner(slot_of(servers, "default"))
        await eventually(lambda: servers.is_heard(primary))
        killed = time.monotonic()
        servers.nodes[primary].stop()
        seconds = await limiters.regained(killed, REGAINED)
        await asyncio.sleep(2 * HEARTBEAT)
        assert limiters.most == LIMIT
        limiters.rest()
        rested = time.monotonic()
        await eventually(limiters.agrees, seconds=2 * HEARTBEAT)
        again = time.monotonic() - rested
    figures.note(
        "Cluster: the primary of the pool is killed under churn, `freeze`",
        f"its replica has its place and the ledger is back within {REGAINED:g} s; never above the limit",
        f"back after {seconds:.1f} s; at most {limiters.most} of {LIMIT} held; equal to the truth {again:.2f} s later",
    )


async def test_pools_of_several_nodes_are_read_at_once(servers, clustered):
    pools = [f"pool{number}" for number in range(8)]
    assert {is_in_second(servers, pool) for pool in pools} == {False, True}
    ledger = open_ledger(clustered)
    for number, pool in enumerate(pools):
        await Reporter(ledger, "a", pool=pool).say(wanted=number)
    readings = await ledger.read((*pools, "none"))
    assert [sum(worker.held for worker in reading.workers) for reading in readings] == [*range(8), 0]
    assert all(worker.silence < 1 for reading in readings for worker in reading.workers)
    await ledger.aclose()


async def test_a_silent_node_is_not_asked_for_ever(servers, clustered):
    """The layout can be had from any other node, and a pool that lives elsewhere goes on."""
    ledger = open_ledger(clustered)
    reporter = Reporter(ledger, "a")

    async def answered() -> bool:
        try:
            async with asyncio.timeout(clustered.ledger_timeout):
                return (await reporter.say()).total == 0
        except (TimeoutError, LedgerError):
            return False

    servers.nodes[SECOND].pause()
    try:
        await eventually(answered)
    finally:
        servers.nodes[SECOND].resume()
    await ledger.aclose()


@pytest.mark.parametrize(("silent", "pool"), [(FIRST, "chat"), (SECOND, "default")])
async def test_one_that_asks_once_passes_over_a_silent_node(servers, clustered, silent, pool):
    """As a command does, with a client of its own that may ask any node first."""
    servers.nodes[silent].pause()
    try:
        for _ in range(8):
            ledger = open_ledger(clustered)
            async with asyncio.timeout(2 * clustered.ledger_timeout):
                assert len(await ledger.read((pool,))) == 1
            await ledger.aclose()
    finally:
        servers.nodes[silent].resume()


async def test_a_node_that_dies_is_an_outage_for_its_pools_alone(servers, clustered):
    ledger = open_ledger(clustered)
    here, there = Reporter(ledger, "a", pool="default"), Reporter(ledger, "a", pool="chat")
    assert [is_in_second(servers, reporter.pool) for reporter in (here, there)] == [False, True]
    await here.say()
    await there.say()
    servers.nodes[SECOND].stop()
    for _ in range(3):
        with pytest.raises(LedgerUnavailable):
            await there.say()
        assert (await here.say()).workers == 1
    servers.nodes[SECOND].start()
    servers.wait()
    assert (await there.say()).workers == 1
    await ledger.aclose()


@pytest.mark.skipif(redis.__version__ < "8", reason="after a fault an older one closes the connections to all nodes")
async def test_faults_in_one_pool_end_no_call_of_another(servers, clustered):
    ledger = open_ledger(clustered)
    there = Reporter(ledger, "a", pool="chat")
    await there.say()
    stop, answered = asyncio.Event(), 0

    async def goes_on(name: str) -> None:
        nonlocal answered
        here = Reporter(ledger, name, pool="default")
        while not stop.is_set():
            await here.say()
            answered += 1

    others = [asyncio.create_task(goes_on(name)) for name in ("a", "b", "c")]
    servers.nodes[SECOND].pause()
    try:
        for _ in range(10):
            before = answered
            with pytest.raises(LedgerUnavailable):
                await there.say()
            await eventually(lambda before=before: answered > before + 10 or any(each.done() for each in others))
    finally:
        servers.nodes[SECOND].resume()
        stop.set()
        await asyncio.gather(*others)
    await ledger.aclose()


async def test_a_redis_that_is_no_cluster_is_a_permanent_refusal(admission, redis_server):
    ledger = open_ledger(admission(LEDGER={"HOSTS": [redis_server.url], "CLUSTER": True}))
    with pytest.raises(LedgerRefused, match="cluster support disabled"):
        await Reporter(ledger, "a").say()
    await ledger.aclose()


async def test_a_wrong_password_of_a_cluster_is_a_permanent_refusal_that_shows_no_password(admission, servers):
    hosts = [url.replace("//", "//app:wrong-one@") for url in servers.hosts]
    ledger = open_ledger(admission(LEDGER={"HOSTS": hosts, "CLUSTER": True}))
    with pytest.raises(LedgerRefused) as refused:
        await Reporter(ledger, "a").say()
    assert "wrong-one" not in str(refused.value)
    await ledger.aclose()
