"""Every way in which a real Redis refuses, forgets or falls silent, against a real gate."""

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis as Client
from redis.exceptions import RedisError

from channels_admission.gate import Gate, Slot
from channels_admission.ledger import open_ledger
from channels_admission.worker import Worker

from conftest import eventually
from demo.servers import Redis

LIMIT, BEAT = 50, 0.2


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
async def gates(admission, server, client):
    """Two workers with twenty slots each, of a limit of fifty, known to a ledger that has settled."""
    url = f"redis://app:secret@{server.host}:{server.port}"
    settings = admission(MAX_CONNECTIONS=LIMIT, BEAT=BEAT, LEASE=2, LEDGER=url, WHEN_LEDGER_DOWN="freeze")
    ledgers = [open_ledger(settings) for _ in range(2)]
    gates = [Gate(settings.pool("default"), settings, ledger, Worker()) for ledger in ledgers]
    for gate in gates:
        verdicts = await asyncio.gather(*(gate.acquire() for _ in range(20)))
        gate.slots = [verdict for verdict in verdicts if isinstance(verdict, Slot)]
        assert len(gate.slots) == 20
    await eventually(lambda: all(gate.account._met_settled for gate in gates))
    yield gates
    for gate in gates:
        await gate.aclose()
    for ledger in ledgers:
        await ledger.aclose()


@asynccontextmanager
async def replica(client):
    await client.execute_command("REPLICAOF", "127.0.0.1", "1")
    yield
    await client.execute_command("REPLICAOF", "NO", "ONE")


@asynccontextmanager
async def out_of_memory(client):
    await client.config_set("maxmemory", 1)
    yield
    await client.config_set("maxmemory", 0)


@asynccontextmanager
async def evicting_everything(client):
    await client.config_set("maxmemory-policy", "allkeys-random")
    await client.config_set("maxmemory", 1)
    yield
    await client.config_set("maxmemory", 0)
    await client.config_set("maxmemory-policy", "noeviction")


@asynccontextmanager
async def busy(client):
    endless = asyncio.ensure_future(client.eval("while true do end", 0))
    await asyncio.sleep(0.2)
    yield
    async with Client(connection_pool=client.connection_pool) as other:
        await other.script_kill()
    with pytest.raises(RedisError):
        await endless


@asynccontextmanager
async def without_rights(client):
    await client.execute_command("ACL", "SETUSER", "app", "-@all")
    yield
    await client.execute_command("ACL", "SETUSER", "app", "+@all")


@asynccontextmanager
async def another_password(client):
    await client.execute_command("ACL", "SETUSER", "app", "<secret", ">other")
    await client.client_kill_filter(_type="normal", skipme=True)
    yield
    await client.execute_command("ACL", "SETUSER", "app", "<other", ">secret")


@asynccontextmanager
async def foreign_key(client):
    (key,) = await client.keys("test-*:counts")
    await client.set(key, "not ours")
    yield
    await client.delete(key)


@asynccontextmanager
async def no_more_clients(client):
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


async def try_twelve(gates) -> list[Slot]:
    """Twelve handshakes one after the other, each decided in time; those admitted."""
    loop, admitted = asyncio.get_running_loop(), []
    for number in range(12):
        started = loop.time()
        verdict = await gates[number % 2].acquire()
        assert loop.time() - started <= 0.4
        if isinstance(verdict, Slot):
            admitted.append(verdict)
    return admitted


async def agree(gates, client) -> bool:
    (key,) = await client.keys("test-*:counts") or [None]
    fields = await client.hgetall(key) if key else {}
    counted = {name.decode(): int(record.split(b"|")[0]) for name, record in fields.items() if name[:1] != b"#"}
    truth = {gate.account.worker.id: gate.account.held for gate in gates}
    return counted == truth and int(fields.get(b"#total", -1)) == sum(truth.values())


@pytest.mark.parametrize("fault", LASTING, ids=lambda fault: fault.__name__)
async def test_a_fault_that_lasts(gates, client, fault, caplog):
    async with fault(client):
        first = await try_twelve(gates)
        await asyncio.sleep(3 * BEAT)
        first += await try_twelve(gates)
        assert sum(gate.account.held for gate in gates) <= LIMIT
        lost = [record for record in caplog.records if record.getMessage().startswith("Ledger lost")]
        if fault is not evicting_everything:
            assert first == []
            assert {gate.account.away for gate in gates} == {True}
            errors = [record for record in lost if record.levelno == logging.ERROR]
            assert len(errors) == (2 if fault in PERMANENT else 0)
    await eventually(lambda: not any(gate.account.away for gate in gates))
    await eventually(lambda: agree(gates, client), seconds=1)
    assert sum(gate.account.held for gate in gates) == 40 + len(first)


async def forget_scripts(client):
    await client.script_flush()


async def cut_connections(client):
    await client.client_kill_filter(_type="normal", skipme=True)


async def forget_everything(client):
    await client.flushall()


async def delete(client, pattern):
    for key in await client.keys(pattern):
        await client.delete(key)


async def forget_counts(client):
    await delete(client, "test-*:counts")


async def forget_leases(client):
    await delete(client, "test-*:leases")


async def forget_home(client):
    await delete(client, "test-*:home:*")


async def forget_total(client):
    for key in await client.keys("test-*:counts"):
        await client.hdel(key, "#total")


BLOWS = [forget_scripts, cut_connections, forget_everything, forget_counts, forget_leases, forget_home, forget_total]


@pytest.mark.parametrize("blow", BLOWS, ids=lambda blow: blow.__name__)
async def test_a_blow_that_passes(gates, client, blow, caplog):
    admitted = []
    for _ in range(10):
        await blow(client)
        admitted += await try_twelve(gates)
        assert sum(gate.account.held for gate in gates) <= LIMIT
    await eventually(lambda: agree(gates, client), seconds=1)
    assert sum(gate.account.held for gate in gates) == 40 + len(admitted)
    assert [record.getMessage() for record in caplog.records if "lost" in record.getMessage()] == []
