"""The past as charts get it: every point in its place, what is unknown, and a ledger that is away."""

import asyncio
import json

import pytest

from channels_admission.core.readings import HistoryBucket, Past
from channels_admission.exceptions import ConfigurationError
from channels_admission.ledger.base import COUNTERS_KEPT, MINUTES, SECONDS
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.ledger.record import past_of
from channels_admission.status import history

NOW = 1_800_000_059


@pytest.fixture
def past(monkeypatch):
    """Let a ledger remember these seconds and minutes."""

    def remember(seconds=(), minutes=()):
        async def past(self, pool, **_):
            return Past(NOW, tuple(seconds), tuple(minutes))

        monkeypatch.setattr(MemoryLedger, "past", past)

    return remember


def collect(pool: str = "default") -> history.History:
    return asyncio.run(history.collect(pool))


def test_a_pool_that_nobody_used_has_a_past_of_nothing(admission, past):
    admission()
    past()
    seen = collect()
    assert (seen.pool, seen.now, seen.error) == ("default", NOW, None)
    assert seen.seconds.held == (None,) * SECONDS
    assert seen.minutes.admitted == (0,) * MINUTES
    assert seen.seconds.refused == {}


def test_every_point_stands_in_its_place_and_the_last_is_now(admission, past):
    admission()
    past(
        [HistoryBucket(NOW - 899, 1, 50, 1, {}), HistoryBucket(NOW, 3, 60, 2, {"full": 4})],
        [HistoryBucket(NOW // 60, 5, 50, 6, {})],
    )
    seen = collect()
    seconds, minutes = seen.seconds, seen.minutes
    assert (seconds.step, seconds.start, len(seconds.held)) == (1, NOW - 899, SECONDS)
    assert (minutes.step, minutes.start, len(minutes.held)) == (60, (NOW // 60 - 1439) * 60, MINUTES)
    assert (seconds.held[0], seconds.limit[0], seconds.admitted[0]) == (1, 50, 1)
    assert (seconds.held[-1], seconds.limit[-1], seconds.admitted[-1]) == (3, 60, 2)
    assert {reason: sum(counts) for reason, counts in seconds.refused.items()} == {"full": 4}
    assert seconds.refused["full"][-1] == 4
    assert (minutes.held[-1], minutes.held[-2], minutes.admitted[-1]) == (5, None, 6)


def test_what_was_held_is_believed_for_a_lease_and_then_unknown(admission, past):
    admission(LEASE=30, HEARTBEAT=3)
    past([HistoryBucket(NOW - 100, 7, 50, 1, {}), HistoryBucket(NOW - 90, None, None, 2, {"full": 1})])
    held = collect().seconds.held
    assert held[-101:-70] == (7,) * 31
    assert set(held[-70:]) == {None}


def test_reasons_have_a_point_for_each_bucket(admission, past):
    admission()
    past([HistoryBucket(NOW - 1, 1, 1, 0, {"full": 1, "lag": 2}), HistoryBucket(NOW, 1, 1, 0, {"full": 3})])
    refused = collect().seconds.refused
    assert {reason: counts[-2:] for reason, counts in refused.items()} == {"full": (1, 3), "lag": (2, 0)}
    assert {len(counts) for counts in refused.values()} == {SECONDS}


def test_it_is_frozen_and_can_be_told_as_json(admission, past):
    admission()
    past([HistoryBucket(NOW, 3, 60, 2, {"full": 4})])
    told = json.loads(json.dumps(collect().as_dict()))
    assert told["seconds"]["held"][-1] == 3
    with pytest.raises(AttributeError):
        collect().now = 1


def test_a_ledger_that_is_down_is_a_fact(admission):
    admission(LEDGER="redis://127.0.0.1:1/0")
    seen = collect()
    assert "ConnectionError" in seen.error
    assert (seen.seconds.held, seen.minutes.refused) == ((), {})


def test_a_ledger_that_says_nothing_is_one_too(admission, monkeypatch):
    async def past(self, pool, *, minutes):
        await asyncio.sleep(60)

    admission()
    monkeypatch.setattr(history, "READ_TIMEOUT", 0.01)
    monkeypatch.setattr(MemoryLedger, "past", past)
    assert collect().error == "no answer within 0.01 s"


def test_an_unknown_pool_is_a_mistake(admission):
    admission()
    with pytest.raises(ConfigurationError):
        collect("nobody")


def test_a_damaged_past_has_no_more_reasons_than_a_pool_may_have():
    frequent = {str(at): f"{NOW - at}|||0|F=9" for at in range(100)}
    names = {at: [f"n{at}x{place}" for place in range(6)] for at in range(100, 900)}
    strange = {str(at): f"{NOW - at}|||0|{'=1,'.join(names[at])}=1" for at in names}
    past = past_of(1000 * NOW, {**frequent, **strange})
    refused = history._series(past.seconds, NOW, 1, SECONDS, 30).refused
    assert len(refused) == COUNTERS_KEPT
    assert sum(map(sum, refused.values())) == 900 + 4800
    assert sum(refused["full"]) == 900
