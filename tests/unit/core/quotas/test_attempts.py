"""The attempts that each key may make: buckets of bounded number, and a worker's own part."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as some

from channels_admission.core.protocol import KEY_BYTES
from channels_admission.core.quotas.attempts import LONGEST, WAYS, Buckets, Over
from channels_admission.quotas.attempts import MOST_KNOWN, MOST_TOLD, TOLD_PER_CALL, Attempts

RATE, BURST, DEBT = 2.0, 20, 60.0
ADDRESS = {"key": "address", "rate": RATE, "burst": BURST}


def key(number: int) -> bytes:
    """Such keys are as evenly spread as hashes are."""
    return random.Random(number).randbytes(KEY_BYTES)


def take(buckets, now, number=1, client=0, **terms):
    return buckets.take(key(client), now, **{"rate": RATE, "burst": BURST, "debt": DEBT, **terms}, number=number)


def test_a_burst_passes_and_then_the_rate():
    buckets = Buckets()
    assert [take(buckets, 5.0) for _ in range(BURST)] == [0.0] * BURST
    assert [take(buckets, 5.0) for _ in range(3)] == pytest.approx([0.5, 1.0, 1.5]), "each has a turn of its own"
    assert take(buckets, 5.5) == 0.0
    assert take(buckets, 5.9) > 0


def test_the_wait_grows_with_the_excess_up_to_the_longest_hint_and_no_further():
    buckets = Buckets()
    waits = [take(buckets, 0.0) for _ in range(BURST + 300)][BURST:]
    assert waits[:3] == pytest.approx([0.5, 1.0, 1.5])
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(DEBT)


def test_a_key_whose_turns_reach_as_far_as_the_longest_hint_is_locked_until_it_leaves_off():
    buckets = Buckets()
    for _ in range(300):
        take(buckets, 0.0)
    passed = sum(not take(buckets, number / 10) for number in range(1, 600))
    assert passed == 0
    assert take(buckets, 59.9 + 1 / RATE) == 0.0


@pytest.mark.parametrize("crowd", [30, 60, 300])
def test_clients_behind_one_key_that_come_when_they_are_told_enter_at_the_rate(crowd):
    """A crowd that comes at once, none of which has authenticated."""
    buckets, rng = Buckets(), random.Random(1)
    arrivals, entered = [(0.0, number) for number in range(crowd)], []
    while arrivals:
        now, client = min(arrivals)
        arrivals.remove((now, client))
        wait = take(buckets, now)
        if wait:
            wait = wait if wait < DEBT else rng.uniform(DEBT / 2, DEBT)
            arrivals.append((now + max(1.0, wait) + rng.uniform(0, 0.1), client))
        else:
            entered.append(now)
    assert entered[-1] <= 1.2 * (crowd - BURST) / RATE + 2


def test_many_at_once_count_as_one_after_the_other():
    buckets, other = Buckets(), Buckets()
    for _ in range(30):
        take(other, 0.0)
    take(buckets, 0.0, number=30)
    assert buckets._sets == other._sets


def test_a_rate_slower_than_the_longest_hint_keeps_to_its_rate():
    buckets = Buckets()
    assert take(buckets, 0.0, rate=0.01, burst=1) == 0.0
    assert take(buckets, 10.0, rate=0.01, burst=1) == pytest.approx(60.0)
    assert take(buckets, 70.0, rate=0.01, burst=1) == pytest.approx(30.0)
    assert take(buckets, 100.0, rate=0.01, burst=1) == 0.0


@given(
    gaps=some.lists(some.floats(0, 3), min_size=1, max_size=200),
    rate=some.floats(0.05, 50),
    burst=some.integers(1, 40),
    debt=some.floats(0.5, 120),
)
def test_what_passes_in_any_window_is_at_most_the_burst_and_the_rate(gaps, rate, burst, debt):
    buckets, now, passed = Buckets(), 0.0, []
    for gap in gaps:
        now += gap
        wait = take(buckets, now, rate=rate, burst=burst, debt=debt)
        assert 0 <= wait <= max(debt, 1 / rate) + 1e-6
        if not wait:
            passed.append(now)
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + rate * (passed[last] - passed[first]) + 1e-3


@given(some.integers(0, 10**6), some.integers(BURST, 400))
def test_whoever_waits_as_long_as_told_gets_through(client, tries):
    buckets = Buckets()
    wait = max(take(buckets, 0.0, client=client) for _ in range(tries + 1))
    assert take(buckets, wait, client=client) == 0.0


def test_a_million_keys_need_no_more_room_and_lock_nobody_out():
    buckets = Buckets(4)
    for _ in range(BURST + 1):
        take(buckets, 0.0, client=10**6)
    for number in range(1000):
        assert take(buckets, 0.0, client=number) == 0.0
    assert len(buckets) == 4 * WAYS
    assert take(buckets, 0.0, client=10**6) > 0, "what owes most is remembered the longest"


def test_full_buckets_make_room_first():
    buckets = Buckets(1)
    for number in range(WAYS):
        take(buckets, 0.0, client=number)
    take(buckets, 10.0, client=99)
    assert len(buckets) == 1


def test_a_bucket_that_owes_more_than_any_may_is_taken_for_full():
    buckets = Buckets(1)
    take(buckets, 0.0)
    for damage in (LONGEST + 1, float("nan"), float("inf"), -5.0, DEBT * 2 + BURST):
        for both in ((damage, damage), (damage, 0.0), (0.0, damage)):
            buckets._sets[0] = {key(0): both}
            assert take(buckets, 0.0) == 0.0


# A worker by itself


@pytest.fixture
def own(admission):
    def make(quotas=(ADDRESS,), **keys):
        return Attempts(admission(QUOTAS=list(quotas), **keys).pool("default"))

    return make


def reasons(verdicts):
    return [verdict and verdict.reason for verdict in verdicts]


def test_a_worker_alone_has_its_part_of_the_rate(own):
    attempts = own()
    verdicts = [attempts.alone((key(0),), 0.0, 4) for _ in range(BURST)]
    assert reasons(verdicts) == [None] * 5 + ["attempts:address"] * 15
    assert attempts.alone((key(1),), 0.0, 4) is None


def test_a_part_of_a_slow_rate_is_kept_to_by_however_many_workers(own):
    attempts = own([{"key": "address", "rate": 0.001, "burst": 1}])
    verdicts = [attempts.alone((key(0),), float(now), 100) for now in range(5)]
    assert reasons(verdicts) == [None] + ["attempts:address"] * 4


def test_a_key_that_the_ledger_has_locked_is_refused_without_asking_until_it_leaves_off(own):
    attempts = own()
    attempts.learn(Over("attempts:address", 3.0), (key(0),), 100.0)
    assert attempts.known((key(0),), 100.0) is None, "it may pass when its turn has come"
    attempts.learn(Over("attempts:address", 60.0), (key(0),), 100.0)
    assert attempts.known((key(1),), 100.0) is None
    for number in range(5):
        assert attempts.known((key(0),), 100.4 + 0.4 * number) == Over("attempts:address", 60.0)
    assert attempts.known((key(0),), 102.6) is None
    assert [tuple(each) for each in attempts.tell()] == [(0, key(0), 5)]
    assert attempts.tell() == ()


def test_the_first_quota_that_refuses_keeps_the_attempt_from_the_others(own):
    attempts = own([ADDRESS, {"key": "user", "rate": 1, "burst": 5}])
    for _ in range(5):
        attempts.alone((key(0), key(1)), 0.0, 4)
    assert attempts.alone((key(0), None), 0.0, 4).reason == "attempts:address"
    attempts.tell()
    assert attempts.alone((key(0), key(2)), 0.0, 4).reason == "attempts:address"
    assert {each.key for each in attempts.tell()} <= {key(0)}
    assert attempts.alone((key(9), key(2)), 0.0, 4) is None


def test_what_a_worker_remembers_is_bounded(own):
    attempts = own()
    for number in range(MOST_KNOWN + 500):
        attempts.learn(Over("attempts:address", 60.0), (key(number),), 0.0)
        attempts.known((key(number),), 0.0)
    assert len(attempts._until) == MOST_KNOWN
    assert len(attempts._untold) == MOST_KNOWN
    assert len(attempts.tell()) == TOLD_PER_CALL
    assert len(attempts._untold) == MOST_KNOWN - TOLD_PER_CALL
    for _ in range(MOST_TOLD + 500):
        attempts.known((key(MOST_KNOWN + 499),), 0.0)
    assert attempts._untold[0, key(MOST_KNOWN + 499)] <= MOST_TOLD
