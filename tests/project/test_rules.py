"""The rules that a herd can follow, and what a simulation of the package's own pace says of them."""

from argparse import ArgumentTypeError
from collections import Counter

import pytest

from benchmarks.simulation import simulate

from demo import options
from demo.returns import ideal_by_rate, ideal_by_slots
from demo.rules import RULES

TICKET = "AbCdEfGhIjKlMnOpQrStUv-_"


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
        ("ticket", [0.5, 0.5, 0.5, 0.5], [1.0, 2.0, 32.0, 60.0]),
        ("hammer", [0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]),
        ("naive", [0.1, 0.2, 3.2, 60.0], [0.1, 0.2, 3.2, 60.0]),
    ],
)
def test_waits_grow_up_to_the_cap(name, shortest, longest):
    failures = [1, 2, 6, 100]
    assert waits(name, 0.0, failures) == pytest.approx(shortest)
    assert waits(name, 1.0, failures) == pytest.approx(longest)


@pytest.mark.parametrize("name", RULES)
def test_only_our_own_clients_follow_a_hint(name):
    follows = name in ("hint", "spread", "ticket")
    assert (waits(name, 0.3, [4], hint=12.3) == [12.3]) is follows
    assert (waits(name, 0.3, [4], hint=0.1) == [0.5]) is (follows or name == "hammer")


@pytest.mark.parametrize(
    ("reason", "query"),
    [
        (f"Try Again Later; ticket={TICKET}; retry-after=16.4", f"admission_ticket={TICKET}"),
        (f"ticket={TICKET}; retry-after=16.4", f"admission_ticket={TICKET}"),
        ("Try Again Later; retry-after=16.4", ""),
        (f"Try Again Later; ticket={TICKET[1:]}; retry-after=1", ""),
        (f"Try Again Later; ticket={TICKET}", ""),
        ("", ""),
    ],
)
def test_our_own_clients_hand_back_the_ticket_of_a_refusal(reason, query):
    handed = {name: rule.query(reason) for name, rule in RULES.items()}
    assert {name for name in handed if handed[name]} == ({"ticket", "spread"} if query else set())
    assert handed["ticket"] == query


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("ticket=600,hammer=600", {"ticket": 600, "hammer": 600}),
        (" hint=1, gone=2", {"hint": 1, "gone": 2}),
    ],
)
def test_a_mix_names_the_clients_of_each_rule(text, groups):
    assert options.mix(text) == groups


@pytest.mark.parametrize("text", ["", "hint", "hint=0", "hint=-1", "hint=1,hint=2", "nonsense=1", "gone=5", "hint=1,"])
def test_a_mix_that_makes_no_herd_is_refused(text):
    with pytest.raises(ArgumentTypeError):
        options.mix(text)


def test_the_rules_of_a_mix_are_spread_evenly():
    names = [rule.name for rule in options.rules_of({"hint": 2, "hammer": 6})]
    assert Counter(names) == {"hint": 2, "hammer": 6}
    assert names[:4].count("hint") == names[4:].count("hint") == 1


@pytest.mark.parametrize(("text", "seconds"), [("10ms", 0.01), ("0.5s", 0.5), ("2", 2.0), ("0", 0.0)])
def test_a_time_has_a_unit_or_is_in_seconds(text, seconds):
    assert options.seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "ms", "-1s", "1m", "1e3", "٣"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ArgumentTypeError):
        options.seconds(text)


def test_the_ideal_is_that_of_a_herd_in_which_all_come_back():
    assert ideal_by_rate({"hint": 500, "gone": 100, "hammer": 600}, 100) == pytest.approx(11.88)
    assert ideal_by_slots({"hint": 300, "hammer": 300}, 200, 3.0) == 6.0
    assert ideal_by_slots({"hint": 200}, 200, 3.0) == 0.0


@pytest.mark.simulation
def test_ten_thousand_clients_that_follow_the_hint_are_back_in_little_more_than_the_ideal_time():
    herd = simulate(RULES["hint"], 10_000, 200.0)
    assert herd.until(0.99) <= 1.08 * herd.ideal
    assert herd.per_client <= 2.05
    assert herd.per_second()[0] == 10_000
    assert herd.per_second()[1:].max() <= 210


@pytest.mark.simulation
def test_one_in_a_hundred_that_follow_the_hint_is_refused_twice():
    """The schedule is a little denser than admissions until the first tickets are due."""
    herd = simulate(RULES["hint"], 1000, 200.0, seed=7)
    assert 0 <= herd.attempts.sum() - (1000 + 999) <= 10


@pytest.mark.simulation
@pytest.mark.parametrize(("name", "at_least", "attempts"), [("full-jitter", 1.4, 5), ("patient-doubling", 10, 8)])
def test_the_other_rules_are_slower_and_ask_more(name, at_least, attempts):
    herd = simulate(RULES[name], 10_000, 200.0)
    assert herd.until(0.99) >= at_least * herd.ideal
    assert herd.per_client >= attempts
