"""The ledgers that hold the contract."""

import pytest

from channels_admission.ledger.memory import MemoryLedger

from demo.servers import Redis
from support.redises import as_admission, cluster, rights
from support.reports import HEARTBEAT, LEASE, ClockedRedisClusterLedger, ClockedRedisLedger, Reporter


@pytest.fixture(scope="session")
def guarded_redis():
    with Redis(*rights("+get", "+set")) as server:
        yield as_admission(server.url)


@pytest.fixture(scope="session")
def guarded_cluster():
    # A busy machine is no reason for a node to be given up.
    patient = ("--cluster-node-timeout", "30000")
    with cluster(*rights("+get", "+set", in_cluster=True), *patient) as servers:
        yield {"HOSTS": [as_admission(url) for url in servers.hosts], "CLUSTER": True}


LEDGERS = {
    "redis": ("redis_server", ClockedRedisLedger),
    "redis with few rights": ("guarded_redis", ClockedRedisLedger),
    "cluster with few rights": ("guarded_cluster", ClockedRedisClusterLedger),
}


@pytest.fixture(params=["memory", *LEDGERS])
async def ledger(request, admission, clock):
    if request.param == "memory":
        yield MemoryLedger(admission(LEASE=LEASE, HEARTBEAT=HEARTBEAT), clock, clock)
        return
    fixture, kind = LEDGERS[request.param]
    place = request.getfixturevalue(fixture)
    ledger = kind(admission(LEASE=LEASE, HEARTBEAT=HEARTBEAT, LEDGER=getattr(place, "url", place)), clock)
    yield ledger
    await ledger.aclose()


@pytest.fixture
def worker(ledger):
    return lambda nonce, **options: Reporter(ledger, nonce, **options)


@pytest.fixture
async def stored(admission, clock, redis_server):
    place = ClockedRedisLedger(admission(LEASE=LEASE, HEARTBEAT=HEARTBEAT, LEDGER=redis_server.url), clock)
    yield place
    await place.aclose()
