"""Refused clients that come back sooner than they were told."""

import random
import tracemalloc

import pytest

from channels_admission.limiter.connections.returns import (
    FEW,
    FORGIVEN,
    LATE,
    MOST_CLIENTS,
    PAGE,
    PROGRAM,
    REMEMBERED,
    SOCKETS,
    Returns,
)
from channels_admission.limiter.refusing import LEAST

TOLD = 10.0
FREE = 1 + int(FEW)
"""Visits of one client that are not held, though each is early: it does not come at once."""
BROWSER = {"user_agent": "Mozilla/5.0 (X11; Linux x86_64)"}
PAUSE = PROGRAM.soon
"""Seconds after which a client does not come at once."""


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


def visit(address="192.0.2.1", path="/", query=b"", **headers):
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "websocket", "client": [address, 40000], "path": path, "query_string": query, "headers": fields}


@pytest.mark.parametrize(("headers", "kind"), [({}, PROGRAM), (BROWSER, PAGE)], ids=["program", "page"])
def test_a_client_that_comes_back_at_once_is_held_from_then_on(returns, clock, headers, kind):
    seen = []
    for _ in range(20):
        seen.append(returns.hold(visit(**headers), 60))
        clock.now += seen[-1] or kind.soon - 1 / 64
    assert seen == [0.0] + [kind.hold] * 19


@pytest.mark.parametrize("headers", [{}, BROWSER], ids=["program", "page"])
def test_one_that_comes_early_but_not_at_once_is_held_after_two_early_visits_and_then_each_time(
    returns, clock, headers
):
    kind = PAGE if headers else PROGRAM
    seen = []
    for _ in range(FREE + 20):
        seen.append(returns.hold(visit(**headers), 60))
        clock.now += PAUSE
    assert seen == [0.0] * FREE + [kind.hold] * 20


PAUSES = {
    "websockets": (0.0, 0.0, 7),
    "phoenix": (0.01, 0.02, 8),
    "robust-websocket": (0.0, 0.01, 8),
    "htmx 2": (0.0, 1.0, 10),
    "htmx 4": (0.35, 0.65, 9),
}
"""How long each client waits after a refusal, from and to, and the most attempts that it makes in 25 seconds."""


def attempts(client, seconds, seed, hold=None):
    """How many it makes by default, or where each refusal is held for half of ``hold`` seconds to all of them."""
    shortest, longest, _ = PAUSES[client]
    headers = {} if client == "websockets" else BROWSER
    clock, rng, made = Clock(), random.Random(seed), 0
    returns, began = Returns(clock), clock.now
    while clock.now < began + seconds:
        made += 1
        held = hold * rng.uniform(0.5, 1) if hold else returns.hold(visit(**headers), 60) * rng.uniform(LEAST, 1)
        clock.now += 0.002 + held + rng.uniform(shortest, longest)
    return made


@pytest.mark.parametrize("client", PAUSES)
def test_clients_that_hammer_make_few_attempts_in_25_seconds(client):
    assert max(attempts(client, 25, seed) for seed in range(200)) == PAUSES[client][-1]


@pytest.mark.parametrize("client", PAUSES)
def test_and_in_five_minutes_a_tenth_fewer_than_if_all_were_held_for_two_to_four_seconds(client):
    by_default = sum(attempts(client, 300, seed) for seed in range(20))
    assert by_default < 0.9 * sum(attempts(client, 300, seed, hold=4.0) for seed in range(20))


def test_the_sockets_of_a_page_at_other_urls_of_one_path_are_not_early(returns):
    seen = [returns.hold(visit(query=b"room=%d" % number, **BROWSER), TOLD) for number in range(SOCKETS + 2)]
    assert seen == [0.0] * SOCKETS + [PAGE.hold] * 2


def test_other_urls_do_not_help_a_client_that_hammers(returns, clock):
    hold = 0.0
    for number in range(100):
        hold = returns.hold(visit(query=b"time=%d" % number, **BROWSER), 60)
        clock.now += hold or 0.02
    assert hold == PAGE.hold
    assert clock.now - 1000 > (100 - SOCKETS - 1) * PAGE.hold


@pytest.mark.parametrize("sockets", range(1, SOCKETS + 1))
def test_the_sockets_of_a_browser_that_each_come_when_they_were_told_are_never_held(returns, clock, sockets):
    rng = random.Random(sockets)
    due = {}
    for number in range(sockets):
        # As tabs are opened.
        clock.now += 1 / FORGIVEN
        due[number] = clock.now + 60
        assert not returns.hold(visit(**BROWSER), 60)
    for _ in range(500):
        number = min(due, key=due.get)
        clock.now = max(clock.now, due[number] + 0.05)
        told = rng.uniform(4, 60)
        due[number] = clock.now + told
        assert not returns.hold(visit(**BROWSER), told)


def test_three_tabs_that_connect_together_are_not_held_and_the_fourth_only_until_the_first_may_come(returns, clock):
    for _ in range(3):
        assert not returns.hold(visit(**BROWSER), 2)
        clock.now += 0.25
    assert returns.hold(visit(**BROWSER), 60) == 2 - 3 * 0.25 + LATE


def test_the_holds_after_the_first_do_not_end_for_the_time_of_the_client_itself(returns, clock):
    for _ in range(10):
        hold = returns.hold(visit(), 5)
        clock.now += hold
    assert hold == PROGRAM.hold


def test_a_client_that_comes_as_it_was_told_is_not_held(returns, clock):
    for _ in range(20):
        returns.hold(visit(), TOLD)
        clock.now += 0.125
    clock.now += TOLD
    assert returns.hold(visit(), TOLD) == 0


def test_but_its_next_early_visit_is(returns, clock):
    for _ in range(FREE + 1):
        returns.hold(visit(**BROWSER), TOLD)
        clock.now += PAUSE
    clock.now += TOLD - PAUSE
    assert returns.hold(visit(**BROWSER), TOLD) == 0
    clock.now += PAUSE
    assert returns.hold(visit(**BROWSER), TOLD) == 0
    clock.now += PAUSE
    assert returns.hold(visit(**BROWSER), TOLD) == PAGE.hold


def test_of_many_that_hammer_each_is_held_after_the_first_visit(returns, clock):
    clients = [visit(f"192.0.2.{number}") for number in range(100)]
    assert not any(returns.hold(client, TOLD) for client in clients)
    clock.now += PAUSE
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


def test_a_herd_of_different_clients_is_not_held(returns):
    assert not any(returns.hold(visit(cookie=f"session={number}"), TOLD) for number in range(10_000))


def test_a_few_early_visits_are_forgotten(returns, clock):
    for _ in range(50):
        for _ in range(FREE):
            assert not returns.hold(visit(), TOLD)
            clock.now += PAUSE
        clock.now += max(TOLD, FEW / FORGIVEN)


@pytest.mark.parametrize("headers", [{}, BROWSER], ids=["program", "page"])
def test_when_the_hammering_ends_all_is_forgotten_in_bounded_time(returns, clock, headers):
    for _ in range(1000):
        returns.hold(visit(**headers), TOLD)
    clock.now += REMEMBERED / FORGIVEN
    for _ in range(FREE):
        assert not returns.hold(visit(**headers), TOLD)
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
        returns.hold(visit(cookie="a", user_agent="b"), TOLD)
        clock.now += 0.125
    assert not returns.hold(other, TOLD)
    assert returns.hold(visit(cookie="a", user_agent="b"), TOLD)


@pytest.mark.parametrize("unknown", [{}, {"client": None, "headers": [(b"sec-websocket-version", b"13")]}])
def test_clients_of_which_nothing_is_known_do_not_count_as_one(returns, unknown):
    assert not any(returns.hold({"type": "websocket", "path": "/", **unknown}, TOLD) for _ in range(100))


def test_the_port_and_what_proxies_add_do_not_hide_a_client(returns, clock):
    for number in range(FREE):
        clock.now += 0.125
        scope = visit(cookie="a", sec_websocket_key=str(number), x_request_id=str(number))
        returns.hold({**scope, "client": ["192.0.2.1", number]}, TOLD)
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
            for query in (b"1", b"2"):
                returns.hold(visit(cookie=f"{number} " * 1000, query=query * 1000), TOLD)

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
        returns.hold(visit(query=b"%d" % number, **BROWSER), TOLD)
    ((*_, promised),) = returns._clients.values()
    assert len(promised) <= SOCKETS


def test_a_client_that_comes_often_stays_in_the_table(returns, clock):
    for number in range(3 * MOST_CLIENTS):
        returns.hold(visit(cookie=str(number)), TOLD)
        if number % 100 == 0:
            clock.now += 0.125
            returns.hold(visit(), TOLD)
    assert returns.hold(visit(), TOLD)
