"""The rules that a herd can follow, and what a simulation of the package's own pace says of them."""

import pytest

from benchmarks.simulation import simulate

from demo.rules import RULES


def waits(name, draw, failures, hint=None):
    return [RULES[name].wait(number, hint, draw) for number in failures]


@pytest.mark.parametrize(
    ("name", "shortest", "longest"),
    [
        ("hint", [0.5, 0.5, 0.5, 0.5], [1.0, 2.0, 32.0, 60.0]),
        ("spread", [0.5, 0.5, 0.5, 0.5], [1.0, 2.0, 32.0, 60.0]),
        ("full-jitter", [0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 32.0, 60.0]),
        ("doubling", [1.0, 2.0, 32.0, 60.0], [2.0, 3.0, 33.0, 61.0]),
        ("patient-doubling", [1.0, 2.0, 32.0, 60.0], [2.0, 3.0, 33.0, 61.0]),
        ("naive", [0.1, 0.2, 3.2, 60.0], [0.1, 0.2, 3.2, 60.0]),
    ],
)
def test_waits_grow_up_to_the_cap(name, shortest, longest):
    failures = [1, 2, 6, 100]
    assert waits(name, 0.0, failures) == pytest.approx(shortest)
    assert waits(name, 1.0, failures) == pytest.approx(longest)


@pytest.mark.parametrize("name", RULES)
def test_only_our_own_clients_follow_a_hint(name):
    follows = name in ("hint", "spread")
    assert (waits(name, 0.3, [4], hint=12.3) == [12.3]) is follows
    assert (waits(name, 0.3, [4], hint=0.1) == [0.5]) is follows


@pytest.mark.simulation
def test_ten_thousand_clients_that_follow_the_hint_are_back_in_little_more_than_the_ideal_time():
    herd = simulate(RULES["hint"], 10_000, 200.0)
    assert herd.until(0.99) <= 1.08 * herd.ideal
    assert herd.per_client <= 2.0
    assert herd.per_second()[0] == 10_000
    assert herd.per_second()[1:].max() <= 200


@pytest.mark.simulation
def test_nobody_who_follows_the_hint_is_refused_twice():
    herd = simulate(RULES["hint"], 1000, 200.0, seed=7)
    assert herd.attempts.sum() == 1000 + 999


@pytest.mark.simulation
@pytest.mark.parametrize(("name", "at_least", "attempts"), [("full-jitter", 1.4, 5), ("patient-doubling", 10, 8)])
def test_the_other_rules_are_slower_and_ask_more(name, at_least, attempts):
    herd = simulate(RULES[name], 10_000, 200.0)
    assert herd.until(0.99) >= at_least * herd.ideal
    assert herd.per_client >= attempts
