"""Refused clients that come back sooner than they were told."""

import random
import tracemalloc

import pytest

from channels_admission.limiter.connections import returns as module
from channels_admission.limiter.connections.returns import (
    AGAIN,
    FEW,
    FORGIVEN,
    LATE,
    MOST_CLIENTS,
    NO_HOLD,
    PAGE,
    PROGRAM,
    REMEMBERED,
    SOCKETS,
    SOON,
    SOONEST,
    Hold,
    Returns,
    client_of,
)

TOLD = 10.0
FREE = 1 + int(FEW)
"""Visits of one client that are not held, though each is early: none is a return."""
BROWSER = {"user_agent": "Mozilla/5.0 (X11; Linux x86_64)"}
PAUSE = SOON
"""Seconds after which a visit is not taken for a return."""
SHORTEST = 1.0
"""The lower bound of RETRY_AFTER."""
HELD_OPEN = Hold(AGAIN, is_open=True)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Table(Returns):
    def visit(self, scope, retry_after, least=SHORTEST):
        """The hold of a client."""
        client = client_of(scope)
        return NO_HOLD if client is None else self.hold(client, scope, retry_after, least)

    def seconds(self, scope, retry_after):
        """How long it is held."""
        return self.visit(scope, retry_after).seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def returns(clock, monkeypatch):
    monkeypatch.setattr(module.random, "uniform", lambda _, longest: longest)
    return Table(clock)


def visit(address="192.0.2.1", path="/", query=b"", **headers):
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "websocket", "client": [address, 40000], "path": path, "query_string": query, "headers": fields}


def come(returns, clock, pauses, told=60.0, **headers):
    """The holds of a client that comes so long after each answer."""
    seen = []
    for pause in pauses:
        clock.now += pause
        seen.append(returns.visit(visit(**headers), told))
        clock.now += seen[-1].seconds
    return seen


def test_a_program_that_comes_back_at_once_is_held_and_from_its_second_return_on_open(returns, clock):
    seen = come(returns, clock, [SOON - 1 / 64] * 20)
    assert seen == [NO_HOLD, Hold(PROGRAM.hold)] + [HELD_OPEN] * 18


def test_a_browser_is_held_from_its_third_visit_on(returns, clock):
    seen = come(returns, clock, [PAGE.together + 1 / 64] * 20, **BROWSER)
    assert seen == [NO_HOLD, NO_HOLD, Hold(PAGE.hold)] + [HELD_OPEN] * 17


def test_three_tabs_that_connect_at_the_same_time_are_not_held_but_what_comes_after_them_is(returns, clock):
    seen = come(returns, clock, [1 / 64] * 20, **BROWSER)
    assert seen == [NO_HOLD] * 3 + [Hold(PAGE.hold)] + [HELD_OPEN] * 16


@pytest.mark.parametrize("headers", [{}, BROWSER], ids=["program", "page"])
def test_one_that_comes_early_but_later_is_held_after_two_early_visits_and_never_open(returns, clock, headers):
    kind = PAGE if headers else PROGRAM
    seen = come(returns, clock, [PAUSE] * (FREE + 5), **headers)
    assert seen == [NO_HOLD] * FREE + [Hold(kind.hold)] * 5


def test_one_that_cannot_be_held_open_is_held_before_its_answer_each_time(returns, clock):
    for _ in range(2):
        returns.visit(visit(), 60)
    clock.now += PROGRAM.hold
    assert returns.visit(visit(), 60, None) == Hold(PROGRAM.hold)


def test_no_answer_comes_too_late_for_its_retry_time_unless_it_is_held_open(returns, clock):
    seen = come(returns, clock, [0.25] * 4, told=2.0, **BROWSER)
    assert seen == [NO_HOLD] * 3 + [Hold(2.0 - SOONEST)]
    clock.now += 0.25
    assert returns.visit(visit(**BROWSER), 2.0) == HELD_OPEN


def test_a_client_that_was_held_open_beyond_its_time_is_in_time_after_the_shortest_one(returns, clock):
    come(returns, clock, [0.0] * 3, told=2.0)
    clock.now += SHORTEST - 1 / 64
    assert come(returns, clock, [0.0], told=2.0) == [HELD_OPEN]
    assert come(returns, clock, [SHORTEST], told=2.0) == [NO_HOLD]


def test_one_that_waits_out_its_hold_and_comes_in_time_hammers_if_it_comes_back_at_once_after_that(returns, clock):
    come(returns, clock, [0.25] * 4, told=2.0, **BROWSER)
    assert come(returns, clock, [SOONEST, 0.25], told=2.0, **BROWSER) == [NO_HOLD, HELD_OPEN]


def test_but_not_if_it_comes_as_it_was_told_from_then_on(returns, clock):
    come(returns, clock, [0.25] * 4, told=2.0, **BROWSER)
    assert come(returns, clock, [SOONEST] + [2.0] * 20, told=2.0, **BROWSER) == [NO_HOLD] * 21


def test_a_visit_during_a_hold_is_of_another_client_so_that_none_is_held_open(returns, clock):
    for _ in range(20):
        hold = returns.visit(visit(), 60)
        assert not hold.is_open
        clock.now += hold.seconds / 2


@pytest.mark.parametrize("told", [1.0, 4.0, 8.0])
def test_of_a_herd_behind_one_address_none_is_answered_too_late_for_its_time(returns, clock, told):
    rng = random.Random(1013)
    for _ in range(600):
        hold = returns.visit(visit(), told)
        assert not hold.is_open
        assert hold.seconds <= told - SOONEST
        clock.now += rng.uniform(0, 0.05)


PAUSES = {
    "websockets": (0.0, 0.0, 6),
    "phoenix": (0.01, 0.02, 8),
    "phoenix, on a slow machine": (0.05, 0.25, 8),
    "robust-websocket": (0.0, 0.01, 8),
    "htmx 2": (0.0, 1.0, 7),
    "htmx 4": (0.35, 0.65, 6),
}
"""How long each client waits after a refusal, from and to, and the most attempts that it makes in 25 seconds."""


def attempts(client, seconds, seed, hold=None):
    """How many it makes by default, or where each refusal is held for half of ``hold`` seconds to all of them."""
    shortest, longest, _ = PAUSES[client]
    headers = {} if client == "websockets" else BROWSER
    random.seed(seed)
    clock, rng, made = Clock(), random.Random(seed), 0
    returns, began = Table(clock), clock.now
    while clock.now < began + seconds:
        made += 1
        held = hold * rng.uniform(0.5, 1) if hold else returns.seconds(visit(**headers), 60)
        clock.now += 0.002 + held + rng.uniform(shortest, longest)
    return made


@pytest.mark.parametrize("client", PAUSES)
def test_clients_that_hammer_make_few_attempts_in_25_seconds(client):
    assert max(attempts(client, 25, seed) for seed in range(200)) == PAUSES[client][-1]


@pytest.mark.parametrize("client", PAUSES)
def test_and_in_five_minutes_about_half_as_many_as_if_all_were_held_for_two_to_four_seconds(client):
    by_default = sum(attempts(client, 300, seed) for seed in range(20))
    assert by_default < 0.6 * sum(attempts(client, 300, seed, hold=4.0) for seed in range(20))


def test_the_sockets_of_a_page_at_other_urls_of_one_path_are_not_early(returns):
    seen = [returns.seconds(visit(query=b"room=%d" % number, **BROWSER), TOLD) for number in range(SOCKETS + 4)]
    assert seen == [0.0] * (SOCKETS + 2) + [PAGE.hold] * 2


def test_other_urls_do_not_help_a_client_that_hammers(returns, clock):
    hold = 0.0
    for number in range(100):
        hold = returns.seconds(visit(query=b"time=%d" % number, **BROWSER), 60)
        clock.now += hold or 0.02
    assert hold == AGAIN
    assert clock.now - 1000 > (100 - SOCKETS - 3) * AGAIN


@pytest.mark.parametrize("sockets", range(1, SOCKETS + 1))
def test_the_sockets_of_a_browser_that_each_come_when_they_were_told_are_never_held(returns, clock, sockets):
    rng = random.Random(sockets)
    due = {}
    for number in range(sockets):
        # As tabs are opened.
        clock.now += 1 / FORGIVEN
        due[number] = clock.now + 60
        assert not returns.seconds(visit(**BROWSER), 60)
    for _ in range(500):
        number = min(due, key=due.get)
        clock.now = max(clock.now, due[number] + 0.05)
        told = rng.uniform(4, 60)
        due[number] = clock.now + told
        assert not returns.seconds(visit(**BROWSER), told)


def test_three_tabs_that_connect_together_are_not_held_and_the_fourth_only_until_the_first_may_come(returns, clock):
    for _ in range(3):
        assert not returns.seconds(visit(**BROWSER), 2)
        clock.now += 0.25
    assert returns.seconds(visit(**BROWSER), 60) == 2 - 3 * 0.25 + LATE


def test_the_holds_after_the_first_do_not_end_for_the_time_of_the_client_itself(returns, clock):
    for _ in range(10):
        hold = returns.visit(visit(), 5, None)
        clock.now += hold.seconds
    assert hold.seconds == PROGRAM.hold


def test_a_client_that_comes_as_it_was_told_is_not_held(returns, clock):
    for _ in range(20):
        returns.seconds(visit(), TOLD)
        clock.now += 0.125
    clock.now += TOLD
    assert returns.seconds(visit(), TOLD) == 0


def test_but_its_next_early_visit_is(returns, clock):
    for _ in range(FREE + 1):
        returns.seconds(visit(**BROWSER), TOLD)
        clock.now += PAUSE
    clock.now += TOLD - PAUSE
    assert returns.seconds(visit(**BROWSER), TOLD) == 0
    clock.now += PAUSE
    assert returns.seconds(visit(**BROWSER), TOLD) == 0
    clock.now += PAUSE
    assert returns.seconds(visit(**BROWSER), TOLD) == PAGE.hold


def test_of_many_that_hammer_each_is_held_after_the_first_visit(returns, clock):
    clients = [visit(f"192.0.2.{number}") for number in range(100)]
    assert not any(returns.seconds(client, TOLD) for client in clients)
    clock.now += PAUSE
    expected = [0.0] * int(FEW) + [PROGRAM.hold] * (100 - int(FEW))
    assert [returns.seconds(client, TOLD) for client in clients] == expected
    assert all(returns.seconds(client, TOLD) for client in clients)


def test_a_client_that_is_held_while_it_hammers_is_not_forgotten(returns, clock):
    for _ in range(FREE):
        returns.seconds(visit(), 60)
    for _ in range(100):
        clock.now += PROGRAM.hold + 0.2
        assert returns.seconds(visit(), 60)


def test_clients_that_come_when_they_were_told_are_never_held(returns, clock):
    for _ in range(100):
        assert not any(returns.seconds(visit(f"192.0.2.{number}"), TOLD) for number in range(200))
        clock.now += TOLD


def test_a_herd_of_different_clients_is_not_held(returns):
    assert not any(returns.seconds(visit(cookie=f"session={number}"), TOLD) for number in range(10_000))


def test_a_few_early_visits_are_forgotten(returns, clock):
    for _ in range(50):
        for _ in range(FREE):
            assert not returns.seconds(visit(), TOLD)
            clock.now += PAUSE
        clock.now += max(TOLD, FEW / FORGIVEN)


@pytest.mark.parametrize("headers", [{}, BROWSER], ids=["program", "page"])
def test_when_the_hammering_ends_all_is_forgotten_in_bounded_time(returns, clock, headers):
    for _ in range(1000):
        returns.seconds(visit(**headers), TOLD)
    clock.now += REMEMBERED / FORGIVEN
    for _ in range(FREE):
        assert not returns.seconds(visit(**headers), TOLD)
        clock.now += PAUSE


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
        returns.seconds(visit(cookie="a", user_agent="b"), TOLD)
        clock.now += 0.125
    assert not returns.seconds(other, TOLD)
    assert returns.seconds(visit(cookie="a", user_agent="b"), TOLD)


@pytest.mark.parametrize("unknown", [{}, {"client": None, "headers": [(b"sec-websocket-version", b"13")]}])
def test_clients_of_which_nothing_is_known_do_not_count_as_one(returns, unknown):
    assert not any(returns.seconds({"type": "websocket", "path": "/", **unknown}, TOLD) for _ in range(100))


def test_the_port_and_what_proxies_add_do_not_hide_a_client(returns, clock):
    for number in range(FREE):
        clock.now += 0.125
        scope = visit(cookie="a", sec_websocket_key=str(number), x_request_id=str(number))
        returns.seconds({**scope, "client": ["192.0.2.1", number]}, TOLD)
    assert returns.seconds(visit(cookie="a"), TOLD)


def test_headers_may_be_lists_as_well(returns, clock):
    scope = {**visit(cookie="a"), "headers": [[b"cookie", b"a"]]}
    for _ in range(FREE):
        returns.seconds(scope, TOLD)
        clock.now += 0.125
    assert returns.seconds(visit(cookie="a"), TOLD)


def test_the_table_does_not_grow_beyond_its_size(returns):
    def many(count):
        for number in range(count):
            for query in (b"1", b"2"):
                returns.seconds(visit(cookie=f"{number} " * 1000, query=query * 1000), TOLD)

    many(MOST_CLIENTS)
    tracemalloc.start()
    try:
        many(3 * MOST_CLIENTS)
        assert tracemalloc.get_traced_memory()[0] < 2**20
    finally:
        tracemalloc.stop()
    assert len(returns._clients) == MOST_CLIENTS


def test_no_client_makes_its_line_of_the_table_grow(returns):
    for number in range(1000):
        returns.seconds(visit(query=b"%d" % number, **BROWSER), TOLD)
    ((*_, promised),) = returns._clients.values()
    assert len(promised) <= SOCKETS


def test_a_client_that_comes_often_stays_in_the_table(returns, clock):
    for number in range(3 * MOST_CLIENTS):
        returns.seconds(visit(cookie=str(number)), TOLD)
        if number % 100 == 0:
            clock.now += 0.125
            returns.seconds(visit(), TOLD)
    assert returns.seconds(visit(), TOLD)
