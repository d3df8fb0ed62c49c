"""How many of our functions a handshake, a release and a heartbeat enter: what a call need not do is not entered."""

import pytest

from benchmarks.journeys import journeys

MOST = {"a handshake that asks Redis": 80, "a release that is told": 60, "a heartbeat": 80}
pytestmark = pytest.mark.integration


async def test_each_journey_enters_few_functions(admission, redis_server):
    admission(MAX_CONNECTIONS=100, LEDGER=redis_server.url, HEARTBEAT=0.5, LEASE=5)
    entered = {name: {function for _, function in entries.names} for name, entries in (await journeys()).items()}
    assert {name: len(functions) for name, functions in entered.items() if len(functions) > MOST[name]} == {}
    assert all("State.begin_report" in functions for functions in entered.values()), "each of them asks the ledger"
