"""A primary that dies, falls silent or loses what it acknowledged, and the sentinels that put another in its place."""

import asyncio
import time

import pytest
from redis.asyncio import Redis as Client

from channels_admission.limiter.limiter import Limiter, Slot
from channels_admission.status.snapshot import collect

from demo.servers import Redis
from support.churn import Churn, churn
from support.redises import watched
from support.waiting import eventually

LIMIT, HEARTBEAT, LEASE = 50, 0.4, 4
LIMITERS, CLIENTS = 4, 20
REGAINED = 6.0
"""Seconds from the primary's end to every limiter's next success, at the most."""
pytestmark = pytest.mark.fault


@pytest.fixture
def servers():
    with watched() as servers:
        yield servers


@pytest.fixture
def crowd(admission, servers):
    """``crowd(clients, policy)``: limiters whose ledger is what the sentinels say, with so many clients each."""

    def start(clients: int = 25, policy: str = "freeze"):
        keys = {"MAX_CONNECTIONS": LIMIT, "HEARTBEAT": HEARTBEAT, "LEASE": LEASE, "WHEN_LEDGER_DOWN": policy}
        return churn(admission(LEDGER=servers.ledger, **keys), LIMITERS, clients)

    return start


async def agreed(crowd: Churn) -> float:
    """Seconds until the ledger counts the truth, while nobody comes or goes."""
    crowd.rest()
    started = time.monotonic()
    await eventually(crowd.agrees, seconds=2 * HEARTBEAT)
    return time.monotonic() - started


async def test_a_primary_that_is_killed(servers, crowd, figures):
    async with crowd() as limiters:
        await eventually(lambda: limiters.held == LIMIT)
        killed = time.monotonic()
        servers.primary.stop()
        seconds = await limiters.regained(killed, REGAINED)
        await asyncio.sleep(2 * HEARTBEAT)
        assert limiters.most == LIMIT
        again = await agreed(limiters)
    figures.note(
        "Sentinel: the primary is killed under churn, `freeze`",
        f"the ledger is back within {REGAINED:g} s; never above the limit",
        f"back after {seconds:.1f} s; at most {limiters.most} of {LIMIT} held; equal to the truth {again:.2f} s later",
    )


@pytest.mark.long
async def test_a_primary_that_is_killed_while_there_is_room_to_share(servers, crowd, figures):
    async with crowd(clients=8, policy="share") as limiters:
        await eventually(lambda: all(limiter.state._met_settled for limiter in limiters.limiters))
        await asyncio.sleep(2 * HEARTBEAT)
        killed, room = time.monotonic(), limiters.shares
        servers.primary.stop()
        limiters.come(20)
        seconds = await limiters.regained(killed, REGAINED)
        await asyncio.sleep(2 * HEARTBEAT)
        assert LIMIT / 2 < limiters.most <= LIMIT + room
        again = await agreed(limiters)
    figures.note(
        "Sentinel: the primary is killed and a crowd comes, `share`",
        f"the ledger is back within {REGAINED:g} s; above the limit by the room last seen free at most, here {room}",
        f"back after {seconds:.1f} s; at most {limiters.most} of {LIMIT} held; equal to the truth {again:.2f} s later",
    )


async def counted(server: Redis, prefix: str) -> int:
    """The total in the data of this very server."""
    async with Client.from_url(server.url) as client:
        return int(await client.hget(f"{prefix}:{{default}}:counts", "#total"))


async def granted(limiter: Limiter) -> Slot | None:
    """A slot, unless a busy machine makes the ledger's answer late."""
    verdict = await limiter.acquire()
    return verdict if isinstance(verdict, Slot) else None


async def test_a_primary_that_dies_with_writes_that_no_replica_has(servers, crowd, prefix, figures):
    lost = 10
    async with crowd(clients=0) as limiters:
        first = limiters.limiters[0]
        slots = [await eventually(lambda: granted(first)) for _ in range(LIMIT - lost)]
        async with Client.from_url(servers.primary.url) as client:
            assert await client.wait(2, 1000) == 2
            for replica in servers.replicas:
                replica.pause()
            # What is sent to a paused replica would wait for it, and be read when it goes on.
            await client.execute_command("CLIENT", "KILL", "TYPE", "replica")
        slots += [await eventually(lambda: granted(first)) for _ in range(lost)]
        assert limiters.held == len(slots) == LIMIT
        killed = time.monotonic()
        servers.primary.stop()
        for replica in servers.replicas:
            replica.resume()
        assert [await counted(replica, prefix) for replica in servers.replicas] == [LIMIT - lost] * 2
        limiters.come(25)
        seconds = await limiters.regained(killed, REGAINED)
        again = await agreed(limiters)
        most = max(limiters.most, limiters.held)
        assert LIMIT <= most <= LIMIT + lost
        for slot in slots:
            slot.release()
    figures.note(
        f"Sentinel: the primary dies with {lost} grants that no replica has",
        f"at most {lost} above the limit; equal to the truth within two heartbeats",
        f"at most {most} of {LIMIT} held; back after {seconds:.1f} s, equal to the truth {again:.2f} s later",
    )


@pytest.mark.long
async def test_nobody_talks_to_a_primary_that_was_replaced_while_it_was_silent(servers, crowd, figures):
    async with crowd() as limiters:
        await eventually(lambda: limiters.held == LIMIT)
        paused = time.monotonic()
        servers.primary.pause()
        seconds = await limiters.regained(paused, REGAINED)
        servers.primary.resume()
        async with Client.from_url(servers.primary.url) as old:
            # Requests that were given up while it was silent are read now, and must do no harm.
            await asyncio.sleep(HEARTBEAT)
            await old.config_resetstat()
            await asyncio.sleep(5 * HEARTBEAT)
            assert "cmdstat_evalsha" not in await old.info("commandstats")
            assert [client["cmd"] for client in await old.client_list() if "eval" in client["cmd"]] == []
        assert limiters.most == LIMIT
        again = await agreed(limiters)
    figures.note(
        "Sentinel: the primary falls silent, is replaced and goes on",
        "nobody talks to it any more; never above the limit",
        f"back after {seconds:.1f} s; 0 calls to the old one; at most {limiters.most} of {LIMIT} held; "
        f"equal to the truth {again:.2f} s later",
    )


async def test_a_sentinel_that_is_silent_is_passed_over(servers, admission):
    """Whoever asks for the first time, as a command does, asks it first."""
    admission(LEDGER=servers.ledger)
    servers.sentinels[0].pause()
    assert (await collect()).ledger.error is None


async def test_a_primary_that_is_silent_with_the_sentinel_that_is_asked_first(servers, crowd):
    async with crowd() as limiters:
        await eventually(lambda: limiters.held == LIMIT)
        paused = time.monotonic()
        servers.sentinels[0].pause()
        servers.primary.pause()
        await limiters.regained(paused, REGAINED)
        assert limiters.most == LIMIT
        await agreed(limiters)
