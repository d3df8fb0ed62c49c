"""The pace as arithmetic: the slow start, the bucket, the schedule."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_admission.core.counters import Reason
from channels_admission.core.herd.bucket import TokenBucket
from channels_admission.core.herd.line import ASSUMED
from channels_admission.core.herd.rate import (
    MOST_SPEED,
    PROBING,
    SCHEDULED,
    Drought,
    Pace,
    Situation,
    bounded,
    paced,
    unpaced,
)
from channels_admission.core.protocol import RetryTimes, Terms

SECONDS = st.floats(0, 10_000)
TERMS = Terms(rate=10.0, burst=5, retry_after=(1.0, 60.0))


def step_of(speed: float) -> float:
    """From one retry time to the next, while nothing is known of the tickets for them."""
    return ASSUMED / (SCHEDULED * speed)


@pytest.mark.parametrize(
    ("elapsed", "slow_start", "passed"), [(0, 0, 0), (7, 0, 7), (0, 10, 0), (5, 10, 1.25), (10, 10, 5), (30, 10, 25)]
)
def test_pace_time_passes_at_the_share_of_the_rate_in_force(elapsed, slow_start, passed):
    assert paced(elapsed, slow_start) == passed
    assert unpaced(passed, slow_start) == elapsed


@given(SECONDS, st.floats(0, 3600))
def test_pace_time_can_be_turned_back(elapsed, slow_start):
    assert unpaced(paced(elapsed, slow_start), slow_start) == pytest.approx(elapsed, abs=1e-3)


def test_a_bucket_begins_empty_and_fills_up_to_its_burst():
    bucket = TokenBucket(10.0, 3, now=100.0)
    assert [bucket.take(100.0), bucket.take(100.1), bucket.take(100.1)] == [False, True, False]
    assert [bucket.take(200.0) for _ in range(5)] == [True, True, True, False, False]


def test_a_pace_begins_with_one_admission():
    pace = Pace(50.0, TERMS)
    assert pace.admit(9, 50.0, TERMS, empty=True) == 1
    assert pace.admit(9, 50.35, TERMS, empty=False) == 3
    assert pace.admit(9, 90.0, TERMS, empty=False) == 5


@pytest.mark.parametrize(("burst", "full"), [(5, 50.4), (2, 50.1), (1, 50.1)])
def test_a_slot_is_spare_where_the_bucket_is_full_and_with_a_burst_of_one_once_a_token_is_lost(burst, full):
    terms = Terms(rate=10.0, burst=burst)
    pace = Pace(50.0, terms)
    assert pace.spare(burst, full - 0.01, terms) == 0
    assert pace.spare(burst, full, terms) == 1
    assert pace.spare(burst - 1, full, terms) == 0
    pace.admit(1, full, terms, empty=False)
    assert pace.spare(burst, full, terms) == 0
    assert pace.spare(9, full, Terms()) == 0


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 20)), max_size=60))
def test_no_window_sees_more_than_its_rate_and_one_burst(calls):
    """``calls`` are milliseconds from one to the next, and handshakes."""
    pace, clock, granted = Pace(0.0, TERMS), 0.0, []
    for pause, wanted in calls:
        clock += pause / 1000
        granted.append((clock, pace.admit(wanted, clock, TERMS, empty=False)))
    for number, (begin, _) in enumerate(granted):
        total = 0
        for end, count in granted[number:]:
            total += count
            assert total <= TERMS.burst + TERMS.rate * (end - begin) + 1e-6


def lowest_level(draw, *, has_lost):
    """Of the bucket that all windows allow, while workers of an earlier pool use reserves that a pool does not know.

    A worker admits by its reserve, or reports and asks for more; a new one, the last, only asks. In a new pool, each
    that has admitted so reports before the pool has settled.
    """
    terms, settled, clock = Terms(rate=10.0, burst=12), 1.5, 0.0
    reserves = [draw.randint(0, 2) for _ in range(3)]
    pace, known, heard, using = Pace(0.0, terms), dict[int, int](), set[int](), set[int]()
    level = lowest = sum(reserves) + 1.0  # the tokens of the earlier pool are lost, and one is new
    if has_lost:
        pace.empty(0.0, terms)
        known = {worker: reserve // 2 for worker, reserve in enumerate(reserves)}  # by what was saved

    def report(worker, wanted):
        is_earlier, is_settling = worker < 3 and worker not in known, clock < settled
        pace.set_aside(clock, terms, is_settling=is_settling, is_earlier=is_earlier)
        pace.hold(sum(known.values()), clock, terms, is_settling=is_settling)
        if worker < 3:
            known[worker] = reserves[worker]
            heard.add(worker)
        pace.hold(sum(known.values()), clock, terms, is_settling=is_settling)
        return pace.admit(wanted, clock, terms, empty=False)

    for _ in range(20):
        pause = draw.choice((0, 0, 0, 0.1, 0.5))
        if clock < settled <= clock + pause:
            for worker in using - heard if not has_lost else ():
                report(worker, 0)
            reserves = [each if worker in heard else 0 for worker, each in enumerate(reserves)]  # others are dead
        clock, level = clock + pause, min(terms.burst, level + pause * terms.rate)
        worker, number = draw.randint(0, 3), draw.choice((0, 1, 99))
        if worker == 3 or draw.random() < 0.5:
            level -= report(worker, number)
        elif used := min(number, reserves[worker]):
            level -= used
            reserves[worker] -= used
            using.add(worker)
        lowest = min(lowest, level)
    return lowest


@pytest.mark.parametrize("has_lost", [False, True])
def test_no_window_sees_more_where_workers_of_an_earlier_pool_use_reserves_that_are_not_known(has_lost):
    lowest = min(lowest_level(random.Random(seed), has_lost=has_lost) for seed in range(2000))
    assert 0 <= lowest + 1e-6 < 1


def test_an_empty_pool_is_entered_slowly():
    terms = Terms(rate=100.0, burst=25, slow_start=10.0)
    pace = Pace(0.0, terms)
    assert pace.admit(500, 1000.0, terms, empty=True) == 1
    admitted = [pace.admit(500, 1000 + tenth / 10, terms, empty=False) for tenth in range(1, 121)]
    per_second = [sum(admitted[second * 10 : second * 10 + 10]) for second in range(12)]
    # The share of the rate in the middle of each second, then all of it.
    assert per_second == [5, 15, 25, 35, 45, 55, 65, 75, 85, 95, 100, 100]


def test_clients_that_come_and_go_alone_do_not_pass_the_rate_by_starting_over():
    terms = Terms(rate=10.0, burst=5, slow_start=10.0)
    pace, clock = Pace(0.0, terms), 1000.0
    admitted = 0
    for _ in range(1000):
        admitted += pace.admit(1, clock, terms, empty=True)
        clock += 0.01
    assert 2 <= admitted <= 10


def test_an_empty_pool_that_only_refuses_gets_on_nevertheless():
    terms = Terms(rate=1.0, burst=1, slow_start=10.0)
    pace = Pace(0.0, terms)
    assert pace.admit(1, 0.0, terms, empty=True) == 1
    entries = [pace.admit(1, tick / 100, terms, empty=True) for tick in range(1, 1000)]
    assert sum(entries) >= 2


FULL = Situation(Reason.FULL, is_open=False)


@pytest.fixture
def long_full():
    """A pool that has been full for longer than a client may be told to wait, and that one has left."""
    pace = Pace(0.0, TERMS)
    pace.retry_times(0.0, TERMS, 1, 0, FULL)
    pace.retry_times(50.0, TERMS, 1, 0, FULL)
    pace.measure(62.0, 1, every=0.5)
    return pace


def test_retry_times_follow_one_another_a_little_slower_than_admissions_could():
    pace = Pace(0.0, TERMS)
    retry_times = pace.retry_times(0.0, TERMS, 10, 0, Situation())
    step = step_of(10)
    assert retry_times == RetryTimes(1.0, pytest.approx(step), 0.0)
    later = pace.retry_times(0.5, TERMS, 10, 3, Situation())
    assert (later.first, later.elapsed) == (pytest.approx(1.0 + 13 * step), 0.5)


def test_the_next_free_time_stays_within_an_hour():
    pace = Pace(0.0, TERMS)
    pace.retry_times(0.0, TERMS, 100_000, 0, Situation())
    assert pace.retry_times(1.0, TERMS, 1, 0, Situation()).first == 3600.0


def test_without_a_refusal_there_are_no_retry_times():
    assert Pace(0.0, TERMS).retry_times(0.0, TERMS, 0, 0, FULL) is None


@pytest.mark.parametrize(
    ("rate", "why", "entrances", "outflow", "speed"),
    [
        (None, None, 0.0, 0.0, 2 * PROBING),
        (None, None, 7.5, 0.0, 7.5),
        (None, Reason.FULL, 7.5, 0.0, 7.5),
        (None, Reason.FULL, 900.0, 0.0, 2 * PROBING),
        (None, Reason.FULL, 7.5, 4.0, 4.0),
        (None, Reason.FULL, 7.5, 40.0, 7.5),
        (None, Reason.PAUSED, 0.0, 4.0, 2 * PROBING),
        (10.0, None, 0.0, 0.0, 10.0),
        (10.0, Reason.RATE, 12.0, 0.0, 10.0),
        (10.0, Reason.RATE, 7.5, 0.0, 7.5),
        (10.0, Reason.FULL, 7.5, 4.0, 4.0),
        (10.0, Reason.FULL, 0.0, 1000.0, 10.0),
        (1000.0, Reason.FULL, 0.0, 0.0, 2 * PROBING),
        (10.0, Reason.SETTLING, 0.0, 4.0, 10.0),
    ],
)
def test_the_schedule_goes_by_the_lowest_speed_that_is_known(rate, why, entrances, outflow, speed):
    terms = Terms(rate=rate)
    pace = Pace(0.0, terms)
    pace.retry_times(0.0, terms, 1, 0, FULL)
    pace.measure(62.0, round(62 * outflow), every=1.0)
    retry_times = pace.retry_times(62.0, terms, 5, 0, Situation(why, workers=2, speed=entrances))
    assert retry_times.step == pytest.approx(step_of(speed))


def test_the_outflow_is_a_mean_of_heartbeats_and_what_the_present_one_has_seen_counts_at_once():
    pace, terms, steps = Pace(0.0, Terms()), Terms(), []
    pace.retry_times(0.0, terms, 1, 0, FULL)
    pace.measure(60.0, 0, every=1.0)
    for clock, released in ((61.0, 8), (61.5, 20), (62.0, 20), (62.5, 20)):
        pace.measure(clock, released, every=1.0)
        steps.append(step_of(pace.retry_times(clock, terms, 1, 0, FULL).step))
    assert steps == pytest.approx([8, 12, 10, 10])


@pytest.mark.parametrize("full_for", [0.0, 4.0, 20.0])
def test_a_pool_that_has_been_full_for_some_time_promises_no_later_one_as_far_as_probing_allows(full_for):
    pace, terms = Pace(0.0, Terms()), Terms()
    pace.retry_times(0.0, terms, 1, 0, FULL)
    pace.measure(full_for, 1, every=1.0)
    retry_times = pace.retry_times(full_for, terms, 90, 10, FULL)
    last = retry_times.first + 90 * retry_times.step
    assert last - full_for == pytest.approx(max(full_for, 1.0 + 101 * step_of(PROBING)), rel=0.25)


def test_promises_of_a_full_pool_do_not_hold_up_clients_that_come_when_it_has_room(long_full):
    assert long_full.retry_times(63.0, TERMS, 50, 0, FULL).first == pytest.approx(63.0 + 31.5)
    last = 63.0 + 31.5 + 50 * step_of(1 / 62)
    assert long_full.retry_times(64.0, TERMS, 1, 0, FULL).first == pytest.approx(last)
    assert long_full.retry_times(64.5, TERMS, 0, 1, Situation(is_open=False)).first > last
    long_full.admit(1, 65.0, TERMS, empty=False)
    assert long_full.retry_times(65.0, TERMS, 100, 0, Situation(Reason.RATE)).first == 66.0
    assert long_full.retry_times(65.0, TERMS, 1, 0, Situation(Reason.RATE)).first == pytest.approx(
        66.0 + 100 * step_of(10)
    )


def test_promises_of_a_full_pool_end_as_well_where_a_worker_alone_refuses_and_the_pool_has_room(long_full):
    long_full.retry_times(63.0, TERMS, 50, 0, FULL)
    long_full.admit(1, 64.0, TERMS, empty=False)
    assert long_full.retry_times(64.0, TERMS, 0, 1, Situation()).first == pytest.approx(65.0 + step_of(10))


def test_retry_times_move_away_with_the_length_of_a_drought():
    drought, bounds = Drought(), (1.0, 60.0)
    assert [drought.soonest(now, bounds) for now in (100, 101, 104, 150, 210, 230)] == [1, 1, 2, 25, 55, 60]
    drought.end()
    assert drought.soonest(231, bounds) == 1
    assert [drought.soonest(now, bounds) for now in (251, 311, 372)] == [10, 40, 1]


def test_an_admission_ends_a_drought():
    pace, terms = Pace(0.0, Terms()), Terms()
    assert [pace.retry_times(now, terms, 1, 0, FULL).first for now in (0.0, 8.0)] == [1.0, 12.0]
    pace.measure(9.0, 0, every=1.0, admitting=True)
    assert pace.retry_times(50.0, terms, 1, 0, FULL).first == 51.0
    assert pace.retry_times(60.0, terms, 1, 0, FULL).first == 65.0
    assert pace.admit(1, 61.0, terms, empty=False) == 1
    assert pace.retry_times(66.0, terms, 1, 0, FULL).first == 67.0


def test_after_a_loss_of_data_they_begin_when_the_ledger_has_settled():
    assert Pace(0.0, TERMS).retry_times(2.0, TERMS, 1, 0, Situation(Reason.SETTLING, settles_in=4.5)).first == 6.5


@pytest.mark.parametrize(
    ("speed", "told"),
    [(0.0, 0.0), (-1.0, 0.0), (math.nan, 0.0), (math.inf, MOST_SPEED), (1e9, MOST_SPEED), (12.34567, 12.346)],
)
def test_a_speed_is_told_within_its_bounds(speed, told):
    assert bounded(speed) == told
