"""The ledgers that hold the contract."""

from contextlib import ExitStack
from functools import cache

import pytest

from channels_admission.ledger.memory import MemoryLedger

from support.redises import Other, as_admission, cluster, kinds, rights
from support.reports import HEARTBEAT, LEASE, ClockedRedisClusterLedger, ClockedRedisLedger, Reporter


@pytest.fixture(scope="session")
def guarded_cluster():
    # A busy machine is no reason for a node to be given up.
    patient = ("--cluster-node-timeout", "30000")
    with cluster(*rights("+get", "+set", in_cluster=True), *patient) as servers:
        yield {"HOSTS": [as_admission(url) for url in servers.hosts], "CLUSTER": True}


@pytest.fixture(scope="session")
def other_redises():
    """A function that starts the server of a kind, or says where it is."""
    with ExitStack() as stack:

        @cache
        def start(kind: str) -> str:
            return as_admission(stack.enter_context(Other(kinds()[kind], *rights("+get", "+set"))).url)

        yield start


LEDGERS = {
    "redis": ("redis_server", ClockedRedisLedger),
    "cluster with few rights": ("guarded_cluster", ClockedRedisClusterLedger),
}


OTHERS = list(kinds())[1:] or list(kinds())
"""Servers whose client has few rights: those beside the one that all other tests use, or that one itself."""


@pytest.fixture(params=["memory", *LEDGERS, *OTHERS])
async def ledger(request, admission, clock):
    if request.param == "memory":
        yield MemoryLedger(admission(LEASE=LEASE, HEARTBEAT=HEARTBEAT), clock, clock)
        return
    fixture, kind = LEDGERS.get(request.param, ("other_redises", ClockedRedisLedger))
    place = request.getfixturevalue(fixture)
    place = place(request.param) if request.param in OTHERS else place
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
