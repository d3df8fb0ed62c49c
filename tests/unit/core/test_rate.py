"""The pace as arithmetic: the slow start, the bucket, the schedule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_admission.core.protocol import Offer, Terms
from channels_admission.core.rate import Bucket, Pace, RetrySchedule, paced, unpaced

SECONDS = st.floats(0, 10_000)
TERMS = Terms(rate=10.0, burst=5, retry_after=(1.0, 60.0))


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
    bucket = Bucket(10.0, 3, now=100.0)
    assert [bucket.take(100.0), bucket.take(100.1), bucket.take(100.1)] == [False, True, False]
    assert [bucket.take(200.0) for _ in range(5)] == [True, True, True, False, False]


def test_a_pace_begins_with_one_admission():
    pace = Pace(50.0, TERMS)
    assert pace.admit(9, 50.0, TERMS, empty=True) == 1
    assert pace.admit(9, 50.35, TERMS, empty=False) == 3
    assert pace.admit(9, 90.0, TERMS, empty=False) == 5


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


def test_moments_follow_one_another_a_little_slower_than_admissions_could():
    pace = Pace(0.0, TERMS)
    offer = pace.offer(0.0, TERMS, 10, 0, full=False)
    step = 1 / (0.97 * 10)
    assert offer == Offer(1.0, pytest.approx(step), 0.0)
    later = pace.offer(0.5, TERMS, 10, 3, full=False)
    assert (later.first, later.elapsed) == (pytest.approx(1.0 + 13 * step), 0.5)


def test_the_tail_stays_within_the_bounds():
    pace = Pace(0.0, TERMS)
    pace.offer(0.0, TERMS, 10_000, 0, full=False)
    assert pace.offer(1.0, TERMS, 1, 0, full=False).first == 60.0


def test_a_full_pool_goes_by_those_who_leave():
    terms = Terms()
    pace = Pace(0.0, terms)
    assert pace.offer(1.0, terms, 5, 0, full=True) is None
    pace.measure(2.0, 8, every=1.0)
    assert pace.offer(2.0, terms, 5, 0, full=True).step == pytest.approx(1 / (0.97 * 4))
    pace.measure(2.5, 1000, every=1.0)
    pace.measure(4.0, 8, every=1.0)
    assert pace.offer(4.0, terms, 5, 0, full=True).step == pytest.approx(1 / (0.97 * 2))


def test_promises_of_a_full_pool_do_not_hold_up_those_who_come_when_it_has_room():
    pace = Pace(0.0, TERMS)
    pace.measure(3.0, 1, every=0.5)
    assert pace.offer(3.0, TERMS, 50, 0, full=True).first == 4.0
    assert pace.offer(4.0, TERMS, 1, 0, full=True).first == 63.0
    assert pace.offer(5.0, TERMS, 100, 0, full=False).first == 6.0
    assert pace.offer(5.0, TERMS, 1, 0, full=False).first == pytest.approx(6.0 + 100 / (0.97 * 10))


def test_of_the_rate_and_those_who_leave_a_full_pool_goes_by_the_slower():
    pace = Pace(0.0, TERMS)
    assert pace.offer(1.0, TERMS, 5, 0, full=True) is None
    pace.measure(2.0, 1000, every=1.0)
    assert pace.offer(2.0, TERMS, 5, 0, full=True).step == pytest.approx(1 / (0.97 * 10))


def test_a_schedule_gives_each_client_a_moment_of_its_own_and_counts_those_it_owes():
    schedule = RetrySchedule(TERMS)
    schedule.renew(Offer(12.0, 0.1, 10.0), 3, now=500.0)
    assert [schedule.next(500.5) for _ in range(5)] == pytest.approx([1.5, 1.6, 1.7, 1.8, 1.9])
    assert schedule.owed == 2


def test_a_moment_that_has_come_is_the_earliest_there_may_be():
    schedule = RetrySchedule(TERMS)
    schedule.renew(Offer(1.0, 0.1, 0.0), 3, now=500.0)
    assert schedule.next(530.0) == 1.0


def test_what_lies_beyond_the_bounds_is_left_to_chance_in_their_upper_half():
    schedule = RetrySchedule(TERMS)
    schedule.renew(Offer(55.0, 1.0, 0.0), 1000, now=0.0)
    moments = [schedule.next(0.0) for _ in range(1000)]
    assert moments[:6] == [55.0, 56.0, 57.0, 58.0, 59.0, 60.0]
    assert all(30.5 <= moment <= 60.0 for moment in moments[6:])
    assert len({round(moment) for moment in moments[6:]}) > 25


def test_without_an_offer_chance_spreads_over_all_the_bounds():
    moments = [RetrySchedule(TERMS).next(0.0) for _ in range(1000)]
    assert min(moments) < 5 < 55 < max(moments)
    assert all(1.0 <= moment <= 60.0 for moment in moments)


@pytest.mark.parametrize("slow_start", [0.0, 20.0])
def test_alone_a_worker_gives_moments_at_its_part_of_the_rate(slow_start):
    schedule = RetrySchedule(Terms(rate=10.0, burst=5, slow_start=slow_start))
    schedule.go_alone(4, now=7.0)
    step = 4 / (0.97 * 10)
    assert [schedule.next(7.0) for _ in range(3)] == pytest.approx([1.0, 1.0 + step, 1.0 + 2 * step])


def test_alone_without_a_rate_chance_spreads():
    schedule = RetrySchedule(Terms())
    schedule.go_alone(4, now=7.0)
    assert len({schedule.next(7.0) for _ in range(10)}) == 10
