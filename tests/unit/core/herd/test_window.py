"""The window of an entrance and its pace, turn by turn."""

import pytest

from channels_admission.core.herd.window import START, TARGET, Pacer, Window


@pytest.fixture
def window():
    """A window into which as many as it holds have just gone."""
    window = Window(0.0)
    assert window.room(0, 0.0) == START
    window.learn(0.0, START, START, 0.002, is_awaited=True)
    return window


def test_a_long_turn_counts_against_clients_that_were_answered_in_it(window):
    window.room(START, 0.002)
    window.learn(2 * TARGET, 0, 0, 0.082, is_awaited=True)
    assert window.size == START / 2


def test_clients_answered_in_a_long_turn_do_not_let_it_grow(window):
    window.room(START, 0.002)
    window.learn(0.75 * TARGET, 0, 0, 0.032, is_awaited=True)
    assert window.room(0, 0.032) == START
    window.learn(0.0, START, START, 0.034, is_awaited=True)
    assert window.size == START


def test_clients_answered_in_a_short_turn_let_it_grow(window):
    window.room(START, 0.002)
    window.learn(0.0, 0, 0, 0.004, is_awaited=True)
    assert window.size == 2 * START


def test_the_pace_follows_the_greatest_rate_of_late():
    pacer = Pacer(0.0)
    pacer.learn(100, 0.1)
    pacer.learn(1, 0.2)
    assert pacer.room(0.2) == pytest.approx(20.0)


def test_without_an_answer_there_is_no_pace():
    pacer = Pacer(0.0)
    pacer.learn(0, 0.1)
    assert pacer.room(0.2) == float("inf")
