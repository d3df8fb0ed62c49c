"""The line as arithmetic: what is kept for tickets, what others get, and how much is remembered."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels_admission.core.herd.line import ASSUMED, EARLY, GRACE, LEAST, LONGEST, WIDE, WIDTH, Line, is_again, is_due
from channels_admission.core.herd.tickets import Ticket

START = 1_700_000_000.0
STEP = st.tuples(
    st.sampled_from(["promise", "again", "series", "show", "pass", "pass", "share", "share"]),
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(-2000, 8000),
)


def of(now: float = START) -> Line:
    line = Line()
    line.advance(now)
    return line


def buckets(line: Line) -> int:
    kinds = (line._first, line._again)
    return sum(len(kind.promised) + len(kind.shown) for kind in kinds) + len(line._wide)


def test_an_empty_line_gives_all_to_anybody():
    line = of()
    assert (line.is_empty, line.overbooked, line.expected(START), line.ahead) == (True, ASSUMED, 0.0, 0.0)
    assert line.share_out(START, 5, 0, 9) == (0, 5)
    assert line.share_out(START, 5, 2, 9) == (2, 3)


def test_what_is_promised_is_kept_from_its_time_until_its_grace_is_over():
    line = of()
    line.promise(START + 1, 10)
    expected = []
    for half in range(10):
        line.advance(START + half / 2)
        expected.append(line.expected(START + half / 2))
    begin = 5 * ASSUMED
    first, then = 10 * (begin * 0.6) / (5 * 0.6 + 5), 10 * (begin * 0.6) / (5 * 0.6 + 10)
    assert expected[:7] == pytest.approx([0, 0, 0, first, then, then, 0])
    assert (line.is_empty, line.share) == (True, ASSUMED)


def test_others_get_what_is_not_kept_and_a_tenth_at_least_in_each_grace():
    line = of()
    line.promise(START + 1, 40)
    line.advance(START + 1.25)  # half of them are due
    assert line.share_out(START + 1.25, 50, 0, 40) == (0, 50 - round(20 * ASSUMED))
    assert line.share_out(START + 1.25, 19, 0, 40) == (0, 0)
    assert line.share_out(START + 1.25, 40, 20, 0) == (20, 0)
    assert line.share_out(START + 1.25, 20, 0, 30) == (0, 2)


def test_others_get_what_need_not_be_kept_unless_tickets_use_it():
    line = of()
    line.promise(START + 1, 40)
    line.advance(START + 1.25)
    assert line.allow(START + 1.25, 9, 0, 5, 0) == (0, 0)
    assert line.allow(START + 1.25, 9, 0, 5, 1) == (0, 1)
    assert line.allow(START + 1.25, 9, 8, 5, 1) == (8, 1)
    assert line.allow(START + 1.25, 9, 9, 5, 1) == (9, 0)
    assert line.allow(START + 1.25, 9, 0, 0, 1) == (0, 0)


def test_a_ticket_is_likely_from_its_promise_until_it_is_missed_or_its_kind_is():
    line, likely = of(), []
    for half in range(7):
        line.advance(START + half / 2)
        if not half:
            line.promise(START + 1)
        likely.append(line.is_expecting)
    assert likely == [True] * 6 + [False]
    for _ in range(8):
        line.promise(line._now / 1000 + 1, 100)
        line.advance(line._now / 1000 + 1.5)
    line.promise(line._now / 1000 + 1, 100)
    assert (line.is_expecting, line.ahead > 0) == (False, True)
    line.promise(line._now / 1000 + 1, again=True)
    assert line.is_expecting


def test_a_slot_is_kept_for_a_ticket_that_comes_more_likely_than_not():
    line, given = of(), []
    line.promise(START + 1)
    for hundredths in (20, 25, 30, 40):
        line.advance(START + 1 + hundredths / 100)
        given.append(line.allow(START + 1 + hundredths / 100, 1, 0, 1)[1])
    assert given == [1, 1, 0, 0]


def test_of_ten_slots_that_tickets_want_others_get_one():
    line, tickets, others = of(), 0, 0
    for number in range(1, 1001):
        now = START + number / 100
        line.advance(now)
        line.promise(now, 5)
        for _ in range(5):
            line.show(now)
        first, rest = line.share_out(now, 1, 5, 5)
        tickets, others = tickets + first, others + rest
    assert (tickets, others) == (900, 100)


def test_what_nobody_fetched_for_a_grace_is_for_anybody():
    line = of()
    line._first.learn = lambda now: None  # as if nothing were known of them
    line.promise(START + 1, 1000)
    line.advance(START + 1)
    given = []
    for half in range(3, 7):
        now = START + half / 2
        line.advance(now)
        line.promise(now + 0.5, 1000)
        given.append(line.share_out(now, 20, 0, 20)[1])
    assert given == [2, 0, 0, 18]


def test_the_share_of_tickets_that_are_shown_is_learnt_and_the_schedule_overbooked_by_it():
    line, shares = of(), []
    for number in range(100):
        now = START + number / 2
        line.advance(now)
        line.promise(now, 20)
        for _ in range(5):
            line.show(now)
        shares.append(line.overbooked)
    assert shares[0] == ASSUMED
    # A quarter. Of the last ones, half of which count so far, five are too many.
    assert shares[-1] == pytest.approx(5 * 2.5 / (10 + 20 * 1.5), abs=0.001)
    for number in range(100, 200):
        line.advance(START + number / 2)
        line.promise(START + number / 2, 20)
    assert line.overbooked == LEAST


def test_more_than_was_promised_is_never_shown():
    line = of()
    line.promise(START + 1, 3)
    for _ in range(50):
        line.show(START + 1)
        line.show(START + 40)
    line.promise(START + 10)
    line.advance(START + 4)
    assert ASSUMED < line.share < 1.0


def test_tickets_that_were_due_before_are_expected_for_a_grace_before_they_come_again():
    line = of()
    line.promise(START + 1.25, 4)
    line.promise(START + 1.25, 3, again=True)
    assert line.expected(START) == 3 * ASSUMED
    line.show(START + 1.25, again=True)
    line.show(START + 1.25)
    assert line.expected(START) == pytest.approx(3 * ASSUMED - 1)
    line.advance(START + 1.25)
    assert line.expected(START + 1.25) == pytest.approx((2 * ASSUMED - 1) + (3 * ASSUMED - 1))


def test_a_series_is_promised_in_the_buckets_of_its_times():
    line = of(START)
    line.promise_series(400, 1.0, lambda time: math.ceil((time - 1.0) / 0.1 - 1e-6))
    assert line.ahead == pytest.approx(400 * ASSUMED)
    seen = []
    for number in range(2, 83):
        line.advance(START + number / 2 + GRACE)
        seen.append(line._first.promised.get((round(1000 * START) + 500 * number) // 500, 0))
    assert seen[:72] == [5] * 72
    assert sum(seen) > 390


def test_times_beyond_an_hour_or_long_ago_are_not_promised():
    line = of()
    line.promise(START + LONGEST + WIDE)
    line.promise(START - GRACE - WIDTH)
    assert line.is_empty
    line.promise(START + LONGEST - WIDE)
    assert not line.is_empty


@pytest.mark.parametrize("back", [3600.0, 9.0])
def test_a_clock_that_is_put_back_begins_the_line_anew(back):
    line = of()
    line.promise(START + 30, 5)
    line.advance(START - back)
    assert (line.is_empty, line.share) == (True, ASSUMED)


def test_a_clock_that_is_put_forward_leaves_nothing_behind():
    line = of()
    line.promise_series(10_000, 1.0, lambda time: round(5 * time))
    line.advance(START + 2 * LONGEST)
    assert (line.is_empty, line.overbooked) == (True, ASSUMED)


@given(st.lists(STEP, max_size=60))
def test_never_more_is_given_than_is_free_and_no_more_is_remembered_than_is_bounded(steps):
    line, now = of(), START
    for what, first, second, milliseconds in steps:
        time = now + milliseconds / 1000
        match what:
            case "pass":
                now = round(now + abs(milliseconds) / 1000, 3)
                line.advance(now)
            case "promise":
                line.promise(time, first)
            case "again":
                line.promise(time, again=True)
            case "series":
                step = 0.01 * (1 + second)
                line.promise_series(50 * first, 1.0, lambda time, step=step: math.ceil((time - 1) / step))
            case "show":
                line.show(time, again=bool(second % 2))
            case "share":
                tickets, others = line.share_out(now, first, second, first + second)
                assert 0 <= tickets <= second
                assert 0 <= others <= first + second
                assert tickets + others <= first
                assert line._credit >= 0
        assert 0 <= line.share <= 1
        assert line.expected(now) >= 0
        assert line.ahead >= 0
    assert buckets(line) <= 4 * (2 * WIDE + GRACE + WIDTH) / WIDTH + LONGEST / WIDE + 2


@given(st.integers(1, 200), st.lists(st.integers(0, 3), min_size=200, max_size=200))
def test_whatever_is_kept_others_get_a_tenth_over_time(promised, comes):
    """Of the slots that are handed out, while both kinds want more than there are."""
    line, tickets, others = of(), 0, 0
    for number, come in enumerate(comes):
        now = START + number / 50
        line.advance(now)
        line.promise(now + 1, promised)
        first, rest = line.share_out(now, 2, come, 50)
        tickets, others = tickets + first, others + rest
    assert others + 1 >= LEAST * (tickets + others) - 1e-6


def test_a_ticket_is_due_shortly_before_its_place():
    ticket = Ticket(START, START, 1)
    assert [is_due(ticket, START + each) for each in (-2 * EARLY, -EARLY, 0.0, 5.0)] == [False, True, True, True]
    assert [is_again(ticket._replace(due=START + each)) for each in (-10.0, 0.0, 1.0)] == [False, False, True]
