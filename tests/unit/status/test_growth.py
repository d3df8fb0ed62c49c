"""When a pool reaches its limit: by a slope that few wild minutes do not change, and only as far as was seen."""

import random

import pytest

from channels_admission.status.growth import ENOUGH, HORIZON, STEP, WINDOW, growth
from channels_admission.status.growth import collect as collect_growths
from channels_admission.status.history import History, Series

DAY = 24 * 60


def past(held, limit: int | None = 1000) -> History:
    """A history of so many last minutes; those before are unknown."""
    held = [None] * (DAY - len(held)) + list(held)
    limits = [None if each is None else limit for each in held]
    return History("default", 0, Series(1), Series(60, 0, tuple(held), tuple(limits)))


def test_a_steady_growth_reaches_the_limit_when_it_says():
    found = growth(past([100 + minute for minute in range(WINDOW)]))
    assert (found.pool, found.limit, found.per_hour) == ("default", 1000, 60.0)
    assert found.held == pytest.approx(100 + WINDOW, abs=STEP)
    assert found.reached_in == pytest.approx(60 * (1000 - found.held), rel=0.01)


def test_a_herd_and_a_restart_change_little():
    calm = [200 + minute // 2 for minute in range(WINDOW)]
    wild = list(calm)
    wild[40:46], wild[200:207], wild[300:307] = [0] * 6, [990] * 7, [0] * 7
    assert growth(past(wild)).per_hour == pytest.approx(growth(past(calm)).per_hour, rel=0.05)


def test_noise_is_no_promise_far_ahead():
    rng = random.Random(7)
    found = growth(past([500 + rng.randrange(-20, 20) for _ in range(WINDOW)]))
    assert abs(found.per_hour) < 5
    assert found.reached_in is None


@pytest.mark.parametrize("minutes", [0, 1, ENOUGH * STEP - STEP // 2 - 1])
def test_a_short_history_promises_nothing(minutes):
    found = growth(past(range(minutes)))
    assert (found.per_hour, found.reached_in) == (None, None)
    assert growth(past(range(ENOUGH * STEP))).per_hour is not None


def test_a_pool_that_falls_or_stays_reaches_nothing():
    assert growth(past([900 - minute for minute in range(WINDOW)])).reached_in is None
    assert growth(past([900] * WINDOW)).per_hour == 0.0
    assert growth(past([900] * WINDOW)).reached_in is None


def test_a_limit_beyond_what_the_observed_time_can_tell_is_left_open():
    slow, fast = ([minute / 10 + 500 for minute in range(WINDOW)] for _ in range(2))
    assert growth(past(slow, 100_000)).reached_in is None
    assert growth(past(fast, 550)).reached_in < HORIZON * 6 * 3600


def test_a_full_pool_that_still_grows_has_reached_it():
    assert growth(past([800 + minute for minute in range(WINDOW)], 1000)).reached_in == 0


def test_a_history_that_has_ended_promises_nothing():
    found = growth(past([*range(WINDOW - 60), *[None] * 60]))
    assert (found.held, found.per_hour) == (None, None)


async def test_every_pool_is_looked_at(admission, monkeypatch):
    async def collect(name, settings):
        return History(name, 0, Series(1), past([100 + minute for minute in range(WINDOW)]).minutes)

    monkeypatch.setattr("channels_admission.status.history.collect", collect)
    found = await collect_growths(admission(POOLS={"chat": {}}))
    assert [(each.pool, each.per_hour) for each in found] == [("default", 60.0), ("chat", 60.0)]


def test_without_any_history():
    found = growth(History("chat", 0, Series(1), Series(60), "away"))
    assert (found.pool, found.held, found.limit, found.hours, found.per_hour) == ("chat", None, None, 0.0, None)
