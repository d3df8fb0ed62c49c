"""Many workers at a full pool in a Redis that has little time for them."""

import sys
from statistics import median

import pytest

from benchmarks.pileup import LEAVE, ROUNDS, SHARE, SLOTS, pile_up

from demo.servers import Redis

pytestmark = [
    pytest.mark.fault,
    pytest.mark.skipif(sys.platform != "linux", reason="needs the figures of Linux for a process"),
]
WORKERS = 50
FAILED = 0.01
"""The share of calls that may fail, where the machine itself is busy; a quarter does if each worker asks at will."""


async def test_many_workers_at_a_full_pool_do_not_drown_a_slow_redis(admission, figures):
    with Redis() as server:
        settings = admission(
            MAX_CONNECTIONS=SLOTS,
            EXPECTED_WORKERS=WORKERS,
            LEDGER=server.url,
            LEDGER_TIMEOUT=0.25,
            HEARTBEAT=3,
            LEASE=30,
        )
        pile = await pile_up(server, settings, WORKERS)
    assert (pile.held, pile.most) == (SLOTS, SLOTS)
    assert pile.failed <= FAILED * pile.calls
    # Now and then some are kept for clients in the line, and found after its grace.
    assert median(pile.refilled) <= pile.stated
    figures.note(
        f"{WORKERS} workers, {SLOTS} full slots, {SHARE:.0%} of a core for Redis; {ROUNDS} times {LEAVE} clients leave",
        "few calls fail; never above the limit; the slots are held again after two pauses and two calls, in the median",
        f"{pile.failed} of {pile.calls} calls, {pile.away} workers away at once; at most {pile.most} of {SLOTS}; "
        f"{median(pile.refilled):.2f} s, {max(pile.refilled):.1f} s at the latest; {pile.rate:.0f} calls a second",
    )
