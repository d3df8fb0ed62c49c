"""Refused clients that come back sooner than they were told."""

import tracemalloc

import pytest

from channels_admission.limiter.connections.returns import (
    FEW,
    FORGIVEN,
    MOST_CLIENTS,
    PAGE,
    PROGRAM,
    REMEMBERED,
    SOON,
    Returns,
)
from channels_admission.limiter.refusing import LEAST

TOLD = 10.0
FREE = PROGRAM.tolerated + int(FEW)
"""Visits of one client that are not held, though each is early: it does not come at once."""


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def returns(clock):
    return Returns(clock)


def visit(address="192.0.2.1", path="/", **headers):
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "websocket", "client": [address, 40000], "path": path, "headers": fields}


def test_a_client_that_comes_back_at_once_is_held_from_then_on(returns, clock):
    seen = []
    for _ in range(PROGRAM.tolerated + 20):
        seen.append(returns.hold(visit(), 60))
        clock.now += seen[-1] or SOON - 0.125
    assert seen == [0.0] * PROGRAM.tolerated + [PROGRAM.hold] * 20


def test_one_that_comes_early_but_not_at_once_is_held_after_a_few_visits_and_then_each_time(returns, clock):
    seen = []
    for _ in range(FREE + 20):
        seen.append(returns.hold(visit(), TOLD))
        clock.now += SOON
    assert seen == [0.0] * FREE + [PROGRAM.hold] * 20


@pytest.mark.parametrize("share", [LEAST, 1.0])
def test_a_program_that_comes_back_at_once_makes_seven_visits_in_25_seconds(returns, clock, share):
    began, visits = clock.now, 0
    while clock.now < began + 25:
        visits += 1
        clock.now += share * returns.hold(visit(), 60) or 0.002
    assert visits == 7


def test_the_sockets_of_a_browser_come_at_once_and_none_of_the_first_is_early(returns):
    browser = visit(user_agent="Mozilla/5.0 (X11; Linux x86_64)")
    seen = [returns.hold(browser, TOLD) for _ in range(PAGE.tolerated + 5)]
    assert seen == [0.0] * PAGE.tolerated + [PAGE.hold] * 5


def test_a_client_that_comes_as_it_was_told_is_no_longer_held(returns, clock):
    for _ in range(FREE + 20):
        returns.hold(visit(), TOLD)
        clock.now += 0.125
    clock.now += TOLD
    assert [returns.hold(visit(), TOLD) for _ in range(PROGRAM.tolerated)] == [0.0] * PROGRAM.tolerated


def test_of_many_that_hammer_each_is_held_after_the_first_visits(returns, clock):
    clients = [visit(f"192.0.2.{number}") for number in range(100)]
    for _ in range(PROGRAM.tolerated):
        assert not any(returns.hold(client, TOLD) for client in clients)
        clock.now += 1
    expected = [0.0] * int(FEW) + [PROGRAM.hold] * (100 - int(FEW))
    assert [returns.hold(client, TOLD) for client in clients] == expected
    assert all(returns.hold(client, TOLD) for client in clients)


def test_a_client_that_is_held_while_it_hammers_is_not_forgotten(returns, clock):
    for _ in range(FREE):
        returns.hold(visit(), 60)
    for _ in range(100):
        clock.now += PROGRAM.hold + 0.2
        assert returns.hold(visit(), 60)


def test_clients_that_come_when_they_were_told_are_never_held(returns, clock):
    for _ in range(100):
        assert not any(returns.hold(visit(f"192.0.2.{number}"), TOLD) for number in range(200))
        clock.now += TOLD


def test_the_sockets_of_a_browser_that_come_when_they_were_told_are_never_held(returns, clock):
    browser = visit(user_agent="Mozilla/5.0 (X11; Linux x86_64)")
    for _ in range(100):
        assert not any(returns.hold(browser, TOLD) for _ in range(PAGE.tolerated))
        clock.now += TOLD


def test_a_herd_of_different_clients_is_not_held(returns):
    assert not any(returns.hold(visit(cookie=f"session={number}"), TOLD) for number in range(10_000))


def test_a_few_early_visits_are_forgotten(returns, clock):
    for _ in range(50):
        for _ in range(FREE):
            assert not returns.hold(visit(), TOLD)
            clock.now += SOON
        clock.now += max(TOLD, FEW / FORGIVEN)


def test_when_the_hammering_ends_all_is_forgotten_in_bounded_time(returns, clock):
    for _ in range(1000):
        returns.hold(visit(), TOLD)
    clock.now += REMEMBERED / FORGIVEN
    for _ in range(FREE):
        assert not returns.hold(visit(), TOLD)
        clock.now += SOON


@pytest.mark.parametrize(
    "other",
    [
        visit("192.0.2.2", cookie="a", user_agent="b"),
        visit(path="/other/", cookie="a", user_agent="b"),
        visit(cookie="b", user_agent="a"),
        visit(cookie="a", user_agent="b", authorization="c"),
        visit(cookie="a", user_agent="b", x_forwarded_for="198.51.100.7"),
        visit(cookie="a", user_agent="b", forwarded="for=198.51.100.7"),
        {"type": "websocket"},
        {"type": "websocket", "client": None, "headers": None},
    ],
)
def test_another_client_is_told_apart(returns, clock, other):
    for _ in range(FREE):
        returns.hold(visit(cookie="a", user_agent="b"), TOLD)
        clock.now += 0.125
    assert not returns.hold(other, TOLD)
    assert returns.hold(visit(cookie="a", user_agent="b"), TOLD)


@pytest.mark.parametrize("unknown", [{}, {"client": None, "headers": [(b"sec-websocket-version", b"13")]}])
def test_clients_of_which_nothing_is_known_do_not_count_as_one(returns, unknown):
    assert not any(returns.hold({"type": "websocket", "path": "/", **unknown}, TOLD) for _ in range(100))


def test_the_port_the_query_and_what_proxies_add_do_not_hide_a_client(returns, clock):
    for number in range(FREE):
        clock.now += 0.125
        scope = visit(cookie="a", sec_websocket_key=str(number), x_request_id=str(number))
        returns.hold({**scope, "client": ["192.0.2.1", number], "query_string": b"id=%d" % number}, TOLD)
    assert returns.hold(visit(cookie="a"), TOLD)


def test_headers_may_be_lists_as_well(returns, clock):
    scope = {**visit(cookie="a"), "headers": [[b"cookie", b"a"]]}
    for _ in range(FREE):
        returns.hold(scope, TOLD)
        clock.now += 0.125
    assert returns.hold(visit(cookie="a"), TOLD)


def test_the_table_does_not_grow_beyond_its_size(returns):
    def many(count):
        for number in range(count):
            returns.hold(visit(cookie=f"{number} " * 1000), TOLD)

    many(MOST_CLIENTS)
    tracemalloc.start()
    try:
        many(3 * MOST_CLIENTS)
        assert tracemalloc.get_traced_memory()[0] < 2**20
    finally:
        tracemalloc.stop()
    assert len(returns._clients) == MOST_CLIENTS


def test_a_client_that_comes_often_stays_in_the_table(returns, clock):
    for number in range(3 * MOST_CLIENTS):
        returns.hold(visit(cookie=str(number)), TOLD)
        if number % 100 == 0:
            clock.now += 0.125
            returns.hold(visit(), TOLD)
    assert returns.hold(visit(), TOLD)
