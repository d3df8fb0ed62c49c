"""The line: what is kept for tickets, what others get, and the overbooking."""

import pytest

from channels_admission.core.line import GRACE, Line

NOW = 1_800_000_000.0


@pytest.fixture
def line():
    """Nothing was free until now."""
    line = Line()
    for elapsed in (0, GRACE, 2 * GRACE):
        line.advance(NOW - 2 * GRACE + elapsed)
        line.share_out(NOW - 2 * GRACE + elapsed, 0, 0, 0)
    return line


def promise(line, number):
    """So many tickets for the second after now."""
    for index in range(number):
        line.promise(NOW + index / number)


def test_without_a_ticket_in_sight_others_get_all(line):
    assert line.share_out(NOW, 10, 0, 8) == (0, 8)
    assert line.share_out(NOW, 10, 0, 12) == (0, 10)


def test_due_tickets_go_first(line):
    assert line.share_out(NOW, 10, 7, 8) == (7, 3)


def test_nine_tenths_are_kept_for_tickets_that_have_not_come(line):
    promise(line, 100)
    assert line.share_out(NOW + 1, 20, 0, 30) == (0, 2)


def test_what_a_grace_has_left_free_goes_to_others(line):
    promise(line, 100)
    for tenth in range(1, 12):
        line.advance(NOW + tenth / 4)
        free = line.share_out(NOW + tenth / 4, 20, 0, 0)
    assert free == (0, 0)
    line.advance(NOW + 3 + GRACE)
    assert line.share_out(NOW + 3 + GRACE, 20, 0, 30) == (0, 20)


@pytest.mark.parametrize(("shown", "overbooked"), [(100, 1.0), (0, 0.1)])
def test_the_schedule_is_overbooked_by_what_was_shown_but_never_tenfold(line, shown, overbooked):
    promise(line, 100)
    for index in range(shown):
        line.show(NOW + index / 100)
    line.promise(NOW + 60)
    line.advance(NOW + 10)
    assert line.overbooked == overbooked
