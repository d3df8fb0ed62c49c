"""Simulated herds against the package's own limiters: ``connect()`` at a cost, and several rules in one herd."""

import pytest

from benchmarks.world import Scene, play
from channels_admission.core.herd.window import START, TARGET
from channels_admission.ledger.memory import MemoryLedger

from demo.returns import echo_figures, ideal_by_rate, ideal_by_slots
from demo.sites import WITHOUT_ADMISSION

COST = 0.01


def test_without_admission_the_connected_wait_for_the_whole_herd():
    outcome = play(Scene({"hint": 60}, WITHOUT_ADMISSION, workers=1, cost=COST))
    assert outcome.groups["hint"].back == pytest.approx([COST * number for number in range(1, 61)])
    assert outcome.groups["hint"].per_client == 1.0
    assert outcome.waits[-1] == pytest.approx(60 * COST, abs=0.02)


def test_by_default_they_wait_for_a_few_and_the_herd_is_hardly_later():
    outcome = play(Scene({"hint": 150}, workers=1, cost=COST))
    assert outcome.per_client == 1.0
    assert 150 * COST <= outcome.until(1.0) <= 1.05 * 150 * COST
    assert START * COST <= echo_figures(outcome.waits)["echo_max"] <= 2 * TARGET


def test_workers_that_share_the_herd_take_no_time_of_each_other():
    one, four = (play(Scene({"hint": 200}, workers=number, cost=COST)) for number in (1, 4))
    assert one.until(1.0) == pytest.approx(200 * COST, rel=0.05)
    assert four.until(1.0) < one.until(1.0) / 3


def test_the_same_seed_gives_the_same_herd():
    scene = Scene({"hint": 50, "hammer": 50}, {"CONNECT_RATE": 50}, arrive_within=0.5)
    first, second = play(scene), play(scene)
    assert first == second
    assert first != play(Scene({"hint": 50, "hammer": 50}, {"CONNECT_RATE": 50}, arrive_within=0.5, seed=1))


def test_each_group_follows_its_own_rule():
    rate, burst = 100, 25
    scene = Scene({"hint": 200, "hammer": 200, "gone": 100}, {"CONNECT_RATE": rate}, arrive_within=0.5)
    groups = play(scene).groups
    assert [len(groups[name].back) for name in ("hint", "hammer")] == [200, 200]
    assert (groups["gone"].attempts, groups["gone"].until(0.99)) == (100, None)
    assert groups["hammer"].until(0.99) < groups["hint"].until(0.99)
    assert groups["hint"].per_client < 2.6 < groups["hammer"].per_client
    back = sorted(time for group in groups.values() for time in group.back)
    for more in (0, 1, 10, 100):
        assert all(last - first > more / rate for first, last in zip(back, back[burst + more :], strict=False))


def test_clients_that_leave_make_room_for_others():
    outcome = play(Scene({"hint": 60}, {"MAX_CONNECTIONS": 20}, workers=2, stay=3.0))
    back = outcome.groups["hint"].back
    assert len(back) == 60
    assert back[19] < 2.999 < back[20]
    assert back[39] < 5.999 < back[40]


def test_a_herd_that_never_comes_back_ends(monkeypatch):
    monkeypatch.setattr("benchmarks.world.LIMIT", 5.0)
    outcome = play(Scene({"hammer": 5}, {"MAX_CONNECTIONS": 2}))
    assert (len(outcome.groups["hammer"].back), outcome.until(0.99)) == (2, None)
    assert outcome.per_client == pytest.approx(2 / 5 + 3 / 5 * 11, abs=0.3)


@pytest.mark.parametrize(
    "groups",
    [
        {"ticket": 380, "hammer": 20},
        {"ticket": 200, "hammer": 200},
        {"ticket": 20, "hammer": 380},
        {"ticket": 130, "gone": 70, "hammer": 200},
    ],
)
@pytest.mark.simulation
def test_a_ticket_loses_nothing_to_clients_that_hammer(groups):
    ticket = play(Scene(groups, {"CONNECT_RATE": 50}, arrive_within=0.5)).groups["ticket"]
    assert ticket.until(0.99) <= 1.15 * ideal_by_rate(groups, 50)
    assert ticket.per_client <= 2.1


@pytest.mark.simulation
def test_tickets_of_a_full_pool_go_first():
    groups = {"ticket": 300, "hammer": 300}
    found = play(Scene(groups, {"MAX_CONNECTIONS": 200}, arrive_within=0.3, stay=3.0)).groups
    late = found["ticket"].until(0.99)
    assert late <= 1.5 * ideal_by_slots(groups, 200, 3.0)
    assert late <= found["hammer"].until(0.99)


@pytest.mark.parametrize(("longest", "order"), [(30, 0.99), (8, 0.95)])
@pytest.mark.simulation
def test_a_line_keeps_its_order_and_nearly_where_it_is_longer_than_the_longest_hint(longest, order):
    groups = {"ticket": 1500, "hint": 150}
    found = play(Scene(groups, {"CONNECT_RATE": 100, "RETRY_AFTER": (1, longest)}, arrive_within=0.5)).groups
    assert found["ticket"].until(0.99) <= 1.15 * ideal_by_rate(groups, 100)
    assert found["ticket"].order > order


@pytest.mark.simulation
def test_a_herd_is_back_as_fast_where_the_ledger_has_just_started(monkeypatch):
    """Its clients wait for the rate, not for the end of settling."""
    monkeypatch.setattr(MemoryLedger, "volatile", True)
    groups = {"hint": 1000}
    outcome = play(Scene(groups, {"CONNECT_RATE": 100}, arrive_within=0.2))
    assert outcome.until(0.99) <= 1.15 * ideal_by_rate(groups, 100)
    assert outcome.per_client <= 2.4


@pytest.mark.simulation
def test_a_full_pool_is_used_again_soon_by_clients_that_know_nothing_but_the_hint(monkeypatch):
    monkeypatch.setattr(MemoryLedger, "volatile", True)
    groups = {"hint": 600}
    outcome = play(Scene(groups, {"MAX_CONNECTIONS": 200}, arrive_within=0.2, stay=3.0))
    assert outcome.until(0.99) <= 1.3 * ideal_by_slots(groups, 200, 3.0)
    assert outcome.per_client <= 3.6
