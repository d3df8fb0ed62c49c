"""Every way in which a real Redis refuses, forgets or falls silent, against real limiters.

The docstring of a fault is its name in the page of figures.
"""

import asyncio
import logging
import time
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis as Client
from redis.exceptions import RedisError

from channels_admission.ledger import open_ledger
from channels_admission.limiter.limiter import Slot

from demo.servers import Redis
from support.limiters import limiter_over
from support.waiting import PatientClock, eventually

LIMIT, HEARTBEAT = 50, 0.2
pytestmark = pytest.mark.fault


@pytest.fixture(scope="module")
def server():
    with Redis("--user", "app", "on", ">secret", "~*", "+@all", "--lua-time-limit", "50") as redis:
        yield redis


@pytest.fixture
async def client(server):
    """A client of the operator's, with every right."""
    async with Client.from_url(server.url) as client:
        await client.flushall()
        yield client


@pytest.fixture
async def limiters(admission, server, client):
    """Two workers with twenty slots each, of a limit of fifty, known to a ledger that has settled."""
    url = f"redis://app:secret@{server.host}:{server.port}"
    settings = admission(MAX_CONNECTIONS=LIMIT, HEARTBEAT=HEARTBEAT, LEASE=2, LEDGER=url, WHEN_LEDGER_DOWN="freeze")
    ledgers = [open_ledger(settings) for _ in range(2)]
    limiters = [limiter_over(settings, ledger) for ledger in ledgers]
    for limiter in limiters:
        verdicts = await asyncio.gather(*(limiter.acquire() for _ in range(20)))
        limiter.slots = [verdict for verdict in verdicts if isinstance(verdict, Slot)]
        assert len(limiter.slots) == 20
    await eventually(lambda: all(limiter.state._met_settled for limiter in limiters))
    yield limiters
    for limiter in limiters:
        await limiter.aclose()
    for ledger in ledgers:
        await ledger.aclose()


@asynccontextmanager
async def replica(client):
    """Redis became a replica (READONLY)"""
    await client.execute_command("REPLICAOF", "127.0.0.1", "1")
    yield
    await client.execute_command("REPLICAOF", "NO", "ONE")


@asynccontextmanager
async def out_of_memory(client):
    """Redis is out of memory (OOM)"""
    await client.config_set("maxmemory", 1)
    yield
    await client.config_set("maxmemory", 0)


@asynccontextmanager
async def evicting_everything(client):
    """Redis evicts every key at any time"""
    await client.config_set("maxmemory-policy", "allkeys-random")
    await client.config_set("maxmemory", 1)
    yield
    await client.config_set("maxmemory", 0)
    await client.config_set("maxmemory-policy", "noeviction")


@asynccontextmanager
async def busy(client):
    """Redis runs an endless script (BUSY)"""
    endless = asyncio.ensure_future(client.eval("while true do end", 0))
    await asyncio.sleep(0.2)
    yield
    async with Client(connection_pool=client.connection_pool) as other:
        await other.script_kill()
    with pytest.raises(RedisError):
        await endless


@asynccontextmanager
async def without_rights(client):
    """the user lost its rights (NOPERM)"""
    await client.execute_command("ACL", "SETUSER", "app", "-@all")
    yield
    await client.execute_command("ACL", "SETUSER", "app", "+@all")


@asynccontextmanager
async def another_password(client):
    """the password changed (WRONGPASS)"""
    await client.execute_command("ACL", "SETUSER", "app", "<secret", ">other")
    await client.client_kill_filter(_type="normal", skipme=True)
    yield
    await client.execute_command("ACL", "SETUSER", "app", "<other", ">secret")


@asynccontextmanager
async def foreign_key(client):
    """a foreign value under our key (WRONGTYPE)"""
    (key,) = await client.keys("test-*:counts")
    await client.set(key, "not ours")
    yield
    await client.delete(key)


@asynccontextmanager
async def no_more_clients(client):
    """Redis takes no more clients (maxclients)"""
    await client.config_set("maxclients", 1)
    await client.client_kill_filter(_type="normal", skipme=True)
    yield
    await client.config_set("maxclients", 1000)


LASTING = [
    replica,
    out_of_memory,
    evicting_everything,
    busy,
    without_rights,
    another_password,
    foreign_key,
    no_more_clients,
]
PERMANENT = {without_rights, another_password, foreign_key}


class Tries:
    """Handshakes one after the other, each decided in time."""

    def __init__(self, limiters) -> None:
        self.limiters = limiters
        self.admitted: list[Slot] = []
        self.slowest = 0.0

    async def twelve(self) -> None:
        async with PatientClock() as clock:
            for number in range(12):
                began = clock.time()
                verdict = await self.limiters[number % 2].acquire()
                self.slowest = max(self.slowest, clock.time() - began)
                if isinstance(verdict, Slot):
                    self.admitted.append(verdict)
        assert self.slowest <= 0.4
        assert sum(limiter.state.held for limiter in self.limiters) <= LIMIT


async def agree(limiters, client) -> bool:
    (key,) = await client.keys("test-*:counts") or [None]
    fields = await client.hgetall(key) if key else {}
    counted = {name.decode(): int(record.split(b"|")[0]) for name, record in fields.items() if name[:1] != b"#"}
    truth = {limiter.state.worker.id: limiter.state.held for limiter in limiters}
    return counted == truth and int(fields.get(b"#total", -1)) == sum(truth.values())


async def settled(limiters, client) -> float:
    """Seconds until the ledger agrees, and it must within one."""
    began = time.monotonic()
    await eventually(lambda: agree(limiters, client), seconds=1)
    return time.monotonic() - began


@pytest.mark.parametrize("fault", LASTING, ids=lambda fault: fault.__name__)
async def test_a_fault_that_lasts(limiters, client, fault, caplog, figures):
    tries = Tries(limiters)
    async with fault(client):
        await tries.twelve()
        await asyncio.sleep(3 * HEARTBEAT)
        await tries.twelve()
        lost = [record for record in caplog.records if record.getMessage().startswith("Ledger lost")]
        if fault is not evicting_everything:
            assert tries.admitted == []
            assert {limiter.state.away for limiter in limiters} == {True}
            errors = [record for record in lost if record.levelno == logging.ERROR]
            assert len(errors) == (2 if fault in PERMANENT else 0)
    over = time.monotonic()
    await eventually(lambda: not any(limiter.state.away for limiter in limiters), seconds=1)
    await settled(limiters, client)
    equal = time.monotonic() - over
    assert sum(limiter.state.held for limiter in limiters) == 40 + len(tries.admitted)
    grip = "never above the limit" if fault is evicting_everything else "no uncounted connection is admitted"
    loud = "; one line at ERROR in each worker" if fault in PERMANENT else ""
    figures.note(
        fault.__doc__,
        f"decisions within 400 ms; {grip}; counts equal within 1 s after{loud}",
        f"slowest decision {1000 * tries.slowest:.0f} ms; equal after {1000 * equal:.0f} ms",
    )


async def forget_scripts(client):
    """SCRIPT FLUSH"""
    await client.script_flush()


async def cut_connections(client):
    """CLIENT KILL of every connection"""
    await client.client_kill_filter(_type="normal", skipme=True)


async def calls_are_over(limiters):
    """A call bears one cut: wait until those that are under way, or tried again, are over."""
    made = [limiter.state.calls.made for limiter in limiters]
    await eventually(
        lambda: all(limiter.state.calls.made >= 2 + before for limiter, before in zip(limiters, made, strict=True))
    )


async def forget_everything(client):
    """FLUSHALL"""
    await client.flushall()


async def delete(client, pattern):
    for key in await client.keys(pattern):
        await client.delete(key)


async def forget_counts(client):
    """the counts deleted"""
    await delete(client, "test-*:counts")


async def forget_leases(client):
    """the leases deleted"""
    await delete(client, "test-*:leases")


async def forget_host(client):
    """the list of neighbours deleted"""
    await delete(client, "test-*:host:*")


async def forget_total(client):
    """the total deleted"""
    for key in await client.keys("test-*:counts"):
        await client.hdel(key, "#total")


DAMAGE = "Counts of pool 'default' in the ledger were damaged and are counted anew; does something else write there?"
DAMAGING = (forget_counts, forget_leases, forget_total)
BLOWS = [forget_scripts, cut_connections, forget_everything, forget_counts, forget_leases, forget_host, forget_total]


@pytest.mark.parametrize("blow", BLOWS, ids=lambda blow: blow.__name__)
async def test_a_blow_that_passes(limiters, client, blow, caplog, figures):
    tries = Tries(limiters)
    for _ in range(10):
        await blow(client)
        await tries.twelve()
        if blow is cut_connections:
            await calls_are_over(limiters)
    equal = await settled(limiters, client)
    assert sum(limiter.state.held for limiter in limiters) == 40 + len(tries.admitted)
    expected = {"dispatch", "log"}
    warnings = [each for each in caplog.records if each.levelno > logging.INFO and each.module not in expected]
    assert {each.getMessage() for each in warnings} == ({DAMAGE} if blow in DAMAGING else set())
    figures.note(
        f"10 × {blow.__doc__}",
        "decisions within 400 ms; never above the limit; counts equal within 1 s; no worker decides alone",
        f"slowest decision {1000 * tries.slowest:.0f} ms; equal after {1000 * equal:.0f} ms",
    )


async def test_a_redis_that_refuses_tls(admission, server, figures):
    url = f"rediss://app:secret@{server.host}:{server.port}"
    keys = {"LEDGER_TIMEOUT": 0.25, "WHEN_LEDGER_DOWN": "share"}
    settings = admission(MAX_CONNECTIONS=LIMIT, EXPECTED_WORKERS=2, LEDGER=url, **keys)
    ledger = open_ledger(settings)
    limiter = limiter_over(settings, ledger)
    admitted, slowest = 0, 0.0
    async with PatientClock() as clock:
        for _ in range(LIMIT):
            began = clock.time()
            admitted += isinstance(await limiter.acquire(), Slot)
            slowest = max(slowest, clock.time() - began)
    await limiter.aclose()
    await ledger.aclose()
    assert slowest <= 0.4
    assert admitted == LIMIT // 2
    figures.note(
        "Redis refuses TLS, from the start, one of two expected workers",
        "decisions within 400 ms; a worker that never reached the ledger has its part of the limit, with `share`",
        f"{admitted} of {LIMIT} let in; slowest decision {1000 * slowest:.0f} ms",
    )
