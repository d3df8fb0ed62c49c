"""When a refused client should come again, for every reason."""

from heapq import heappop, heappush
from types import SimpleNamespace

import pytest

from channels_admission.core.counters import ADMITTED, DRAINED, SHED, UNACCEPTED, Reason
from channels_admission.core.herd.rate import PROBING
from channels_admission.core.protocol import RetryTimes
from channels_admission.limiter.books.state import State
from channels_admission.limiter.line.retries import CALM, RetrySchedule
from channels_admission.runtime.identity import Worker

STEP = 1 / (0.97 * 10)
PROBED = 1 / (0.97 * PROBING)


@pytest.fixture
def schedule_of(admission):
    """A schedule for these settings, with the state of its limiter."""

    def make(**settings) -> SimpleNamespace:
        state = State(admission(**settings).pool("default"), Worker())
        return SimpleNamespace(state=state, schedule=RetrySchedule(state, heartbeat=3.0))

    return make


@pytest.fixture
def made(schedule_of):
    """That of one of four workers, in a pool with a rate of ten."""
    made = schedule_of(CONNECT_RATE=10)
    made.state.workers = 4
    return made


def waits(schedule, reason, now, number) -> list[float]:
    return [schedule.retry_after(reason, now) for _ in range(number)]


# By reason

POOL, MONITOR, QUOTA, LEDGER = "the pool's", "a monitor's", "a quota's", "without a ledger"
SOURCES = {
    Reason.FULL: POOL,
    Reason.SETTLING: POOL,
    Reason.RATE: POOL,
    Reason.CROWD: POOL,
    Reason.SHARE: POOL,
    Reason.PAUSED: POOL,
    Reason.DRAINING: POOL,
    Reason.WORKER: POOL,
    UNACCEPTED: POOL,
    DRAINED: POOL,
    Reason.LEDGER: LEDGER,
    "lag": MONITOR,
    "memory": MONITOR,
    "descriptors": MONITOR,
    "queue-of-orders": MONITOR,
    SHED: MONITOR,
    "quota:user": QUOTA,
}
BESIDE_THE_LEDGER = {
    POOL: [2.0 + n * STEP for n in range(3)],
    MONITOR: [2.0 + n * STEP for n in range(3)],
    LEDGER: [2.0 + n * STEP for n in range(3)],
    QUOTA: [1.0 + n / PROBING for n in range(3)],
}
"""Where an offer has three retry times for this worker."""
ALONE = {
    POOL: [1.0 + 4 * n * STEP for n in range(3)],
    MONITOR: [1.0 + 4 * n * STEP for n in range(3)],
    LEDGER: [1.0 + 4 * n * STEP for n in range(3)],
    QUOTA: [1.0 + n / PROBING for n in range(3)],
}
"""Where it goes by its part of the rate, a quarter."""
UNRESERVED = {POOL: 3, MONITOR: 3, LEDGER: 3, QUOTA: 0}


def test_every_reason_has_a_source():
    assert {*Reason} - {Reason.ENTRANCE} < {*SOURCES}


@pytest.mark.parametrize("reason", [Reason.ENTRANCE, "attempts:user"])
def test_a_refusal_with_a_wait_of_its_own_is_told_it_within_the_bounds(made, reason):
    assert [made.schedule.retry_after(reason, 0.0, wait) for wait in (0.2, 7.5)] == [1.0, 7.5]
    assert all(30.5 <= made.schedule.retry_after(reason, 0.0, 61.0) <= 60.0 for _ in range(50))
    assert made.schedule.unreserved == 0


@pytest.mark.parametrize("reason", SOURCES)
def test_a_reason_has_the_retry_times_of_its_source(made, reason):
    made.schedule.renew(RetryTimes(12.0, STEP, 10.0), 3, now=500.0)
    assert waits(made.schedule, reason, 500.0, 3) == pytest.approx(BESIDE_THE_LEDGER[SOURCES[reason]])
    assert made.schedule.unreserved == 0


@pytest.mark.parametrize("reason", SOURCES)
def test_before_the_ledgers_times_they_follow_the_workers_part_of_the_rate(made, reason):
    assert waits(made.schedule, reason, 500.0, 3) == pytest.approx(ALONE[SOURCES[reason]])
    assert made.schedule.unreserved == UNRESERVED[SOURCES[reason]]


@pytest.mark.parametrize("reason", SOURCES)
def test_where_nothing_is_known_it_probes_and_chance_has_no_part_in_it(reason, schedule_of):
    first, second = (waits(schedule_of().schedule, reason, 500.0, 200) for _ in range(2))
    assert first == second == sorted(first)
    assert (first[0], first[-1]) == (1.0, pytest.approx(1.0 + 199 / PROBING, rel=0.05))


# The pool's retry times


def test_those_beyond_what_is_reserved_are_unreserved_and_leave_room_for_the_other_workers(made):
    made.schedule.renew(RetryTimes(12.0, 0.1, 10.0), 3, now=500.0)
    assert waits(made.schedule, "rate", 500.5, 6) == pytest.approx([1.5, 1.6, 1.7, 1.8, 2.2, 2.6])
    assert made.schedule.unreserved == 3


def test_a_retry_time_that_has_come_is_the_earliest_there_may_be_and_the_next_one_follows_it(made):
    made.schedule.renew(RetryTimes(1.0, 0.1, 0.0), 50, now=500.0)
    assert waits(made.schedule, "rate", 504.0, 3) == pytest.approx([1.0, 1.1, 1.2])


def test_times_that_are_older_than_two_heartbeats_say_nothing(made):
    made.schedule.renew(RetryTimes(50.0, 10.0, 0.0), 50, now=500.0)
    assert made.schedule.retry_after("lag", 506.0) == pytest.approx(44.0)
    assert made.schedule.retry_after("lag", 506.1) == pytest.approx(1.0)


def test_what_lies_beyond_the_bounds_is_left_to_chance_in_their_upper_half(made):
    made.schedule.renew(RetryTimes(55.0, 1.0, 0.0), 1000, now=0.0)
    told = waits(made.schedule, "rate", 0.0, 1000)
    assert told[:5] == [55.0, 56.0, 57.0, 58.0, 59.0]
    assert all(30.5 <= wait <= 60.0 for wait in told[5:])
    assert len({round(wait) for wait in told[5:]}) > 25


@pytest.mark.parametrize("slow_start", [0.0, 20.0])
def test_alone_a_worker_gives_retry_times_at_its_part_of_the_rate(slow_start, schedule_of):
    made = schedule_of(CONNECT_RATE=10, SLOW_START=slow_start)
    made.state.workers = 4
    made.schedule.renew(RetryTimes(50.0, 1.0, 0.0), 9, now=1.0)
    made.schedule.go_alone(7.0)
    assert waits(made.schedule, "rate", 7.0, 3) == pytest.approx([1.0, 1.0 + 4 * STEP, 1.0 + 8 * STEP])


def test_alone_the_lower_of_its_part_of_the_rate_and_the_speed_of_its_entrance_holds(made):
    made.state.entrance_speed = 100.0
    assert made.schedule.retry_after("rate", 0.0) == 1.0
    assert made.schedule.retry_after("rate", 0.0) == pytest.approx(1.0 + 4 * STEP)
    made.state.entrance_speed = 1.0
    assert made.schedule.retry_after("rate", 0.0) == pytest.approx(1.0 + 8 * STEP)
    assert made.schedule.retry_after("rate", 0.0) == pytest.approx(1.0 + 8 * STEP + 1 / 0.97)


# A monitor's


def test_a_monitor_follows_the_speed_of_the_entrance(schedule_of):
    made = schedule_of()
    made.schedule.renew(RetryTimes(1.0, 1e-4, 0.0), 1000, now=0.0)
    made.state.entrance_speed = 20.0
    assert waits(made.schedule, "lag", 0.0, 4) == pytest.approx([1.0, 1.05, 1.1, 1.15])


def test_without_an_entrance_a_monitor_follows_the_admissions_beside_its_refusals(schedule_of):
    made = schedule_of()
    made.state.counters[ADMITTED] = 700
    made.schedule.renew(RetryTimes(1.0, 1e-4, 0.0), 1000, now=0.0)
    assert waits(made.schedule, "memory", 0.0, 2) == pytest.approx([1.0, 1.0 + 1 / PROBING])
    made.state.counters[ADMITTED] += 8
    made.schedule.retry_after("memory", 2.0)
    assert made.schedule.retry_after("memory", 2.0) == pytest.approx(1.25)


def test_the_next_overload_is_measured_anew(schedule_of):
    made = schedule_of()
    made.schedule.retry_after("memory", 0.0)
    made.state.counters[ADMITTED] = 3
    made.schedule.retry_after("memory", CALM + 0.1)
    made.schedule.renew(RetryTimes(1.0, 1e-4, 0.0), 1000, now=CALM + 0.1)
    assert made.schedule.retry_after("memory", CALM + 0.1) == pytest.approx(1.0 + 1 / PROBING)


# A quota's, and without a ledger


@pytest.mark.parametrize("reason", ["quota:user", Reason.LEDGER])
def test_they_move_away_with_the_length_of_it(reason, schedule_of):
    made = schedule_of()
    told = [made.schedule.retry_after(reason, float(now)) for now in (0, 2, 10, 40, 100)]
    assert told == pytest.approx([1, 1, 5, 20, 50])
    assert 30.5 <= made.schedule.retry_after(reason, 130.0) <= 60.0


def test_a_worker_that_admits_somebody_without_the_ledger_is_worth_asking_soon(schedule_of):
    made = schedule_of()
    assert [made.schedule.retry_after(Reason.LEDGER, float(now)) for now in (0, 50)] == pytest.approx([1, 25])
    made.state.counters[ADMITTED] += 1
    assert made.schedule.retry_after(Reason.LEDGER, 51.0) == pytest.approx(1.0)


def test_alone_they_go_on_where_they_were_however_long_the_ledger_is_away(schedule_of):
    made = schedule_of(CONNECT_RATE=1)
    made.schedule.go_alone(0.0)
    told = [now + made.schedule.retry_after(Reason.RATE, now) for now in (0.0, 0.1, 8.0, 8.1)]
    assert told == pytest.approx([1.0, 1.0 + 1 / 0.97, 9.0, 9.0 + 1 / 0.97])


# Where a ticket was due


def short_waits(schedule, reason, now, number) -> list[float]:
    return [schedule.short(reason, now) for _ in range(number)]


def test_where_a_ticket_was_due_it_waits_by_this_workers_speed_for_five_seconds_at_the_most(made):
    made.schedule.renew(RetryTimes(12.0, STEP, 10.0), 3, now=500.0)
    told = short_waits(made.schedule, Reason.CROWD, 500.0, 20)
    assert told[:3] == pytest.approx([1.0 + 4 * n * STEP for n in range(3)])
    assert max(told) == pytest.approx(5.0, abs=4 * STEP)
    assert made.schedule.unreserved == 0


def test_where_a_monitor_refuses_it_waits_by_the_speed_of_the_entrance(made):
    made.state.entrance_speed = 20.0
    assert short_waits(made.schedule, "lag", 0.0, 3) == pytest.approx([1.0, 1.05, 1.1])


@pytest.mark.parametrize("reason", ["lag", Reason.LEDGER, Reason.DRAINING, Reason.RATE])
def test_where_a_worker_has_long_admitted_nobody_it_waits_by_the_schedule(made, reason):
    told = [made.schedule.short(reason, float(now)) for now in range(0, 14, 2)]
    assert told == [1.0, 1.0, 2.0, 3.0, 4.0, 5.0, None]
    made.state.counters[ADMITTED] += 1
    assert made.schedule.short(reason, 14.0) == 1.0


@pytest.mark.parametrize("reason", [Reason.PAUSED, Reason.ENTRANCE, "attempts:user"])
def test_in_a_pause_and_where_a_refusal_has_a_wait_of_its_own_it_is_not_told_another(made, reason):
    assert made.schedule.short(reason, 0.0) is None


# The ends of connections


def test_one_whose_connection_is_ended_comes_soon_where_there_is_no_rate(schedule_of):
    told = [schedule_of().schedule.soon() for _ in range(100)]
    assert all(1.0 <= wait <= 2.0 for wait in told)
    assert len(set(told)) == 100


# A herd, simulated


def knock(wait, shut_for: float, number: int = 200) -> tuple[list[float], int]:
    """When each of so many comes for the first time after ``shut_for`` seconds, and all attempts before."""
    coming, attempts = [0.0] * number, 0
    while coming[0] < shut_for:
        now = heappop(coming)
        attempts += 1
        heappush(coming, now + wait(now))
    return sorted(coming), attempts


@pytest.mark.parametrize(
    ("reason", "shut_for", "latest", "attempts_each"),
    [
        ("lag", 1.0, 6.0, 2),
        ("lag", 8.0, 13.0, 4),
        ("ledger", 20.0, 30.0, 8),
        ("ledger", 60.0, 90.0, 10),
        ("quota:user", 20.0, 30.0, 8),
        ("paused", 3.0, 9.0, 3),
    ],
)
def test_two_hundred_whom_a_worker_refuses_alone_are_back_soon_after_it_admits(
    schedule_of, reason, shut_for, latest, attempts_each
):
    """At fifty a second two hundred need four seconds and the first hint."""
    coming, attempts = knock(lambda now, schedule=schedule_of().schedule: schedule.retry_after(reason, now), shut_for)
    assert coming[-1] <= latest
    assert attempts / 200 + 1 <= attempts_each


@pytest.mark.parametrize(("shut_for", "latest", "attempts_each"), [(1.0, 6.0, 2), (8.0, 13.0, 4)])
def test_two_hundred_whose_tickets_are_due_keep_their_distance_while_a_worker_refuses(
    schedule_of, shut_for, latest, attempts_each
):
    coming, attempts = knock(lambda now, schedule=schedule_of().schedule: schedule.short("lag", now), shut_for)
    assert coming[-1] <= latest
    assert attempts / 200 + 1 <= attempts_each
    assert all(later - earlier >= 0.9 for earlier, later in zip(coming, coming[50:], strict=False))
