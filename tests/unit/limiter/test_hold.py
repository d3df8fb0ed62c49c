"""Refused clients that are kept a while before the close."""

import asyncio
from itertools import pairwise

import pytest

from channels_admission.limiter.connections import returns
from channels_admission.limiter.connections.returns import AGAIN, LEAST, PROGRAM, SOONEST
from channels_admission.limiter.limiter import Slot
from channels_admission.limiter.registry import close_limiters, limiter_of
from channels_admission.middleware import AdmissionMiddleware
from channels_admission.overload.manager import OverloadManager

from support.virtual import in_virtual_time
from support.waiting import eventually


async def never(scope, receive, send):
    raise AssertionError("a refused connection reached the application")


class Visitor:
    """A client of the middleware: what it is sent, and when."""

    def __init__(self, **scope) -> None:
        self.events: asyncio.Queue = asyncio.Queue()
        self.events.put_nowait({"type": "websocket.connect"})
        self.sent: list[tuple[dict, float]] = []
        scope = {"type": "websocket", "path": "/", **scope}
        self.task = asyncio.ensure_future(AdmissionMiddleware(never)(scope, self.events.get, self.send))

    async def send(self, message):
        self.sent.append((message, asyncio.get_running_loop().time()))

    @property
    def types(self):
        return [message["type"] for message, _ in self.sent]

    @property
    def held(self):
        (_, opened), (_, closed) = self.sent
        return closed - opened

    @property
    def hint(self):
        return float(self.sent[-1][0]["reason"].rpartition("=")[2])


@pytest.fixture
def refusing(admission):
    return lambda **keys: admission(**{"MAX_CONNECTIONS": 0, "REFUSAL_HOLD": 0.4, "RETRY_AFTER": (1, 1), **keys})


@in_virtual_time
async def test_a_refused_client_is_kept_between_half_of_the_hold_and_all_of_it(refusing):
    refusing()
    visitors = [Visitor() for _ in range(20)]
    await asyncio.gather(*(visitor.task for visitor in visitors))
    assert all(0.2 <= visitor.held <= 0.401 for visitor in visitors)
    assert len({round(visitor.held, 3) for visitor in visitors}) > 5
    assert limiter_of("default")._refuser.held == 0
    await close_limiters()


@in_virtual_time
async def test_at_most_so_many_are_kept_and_the_others_closed_at_once(refusing):
    refusing(MAX_REFUSALS_HELD=3, REFUSAL_HOLD=30)
    tasks = [Visitor().task for _ in range(10)]
    await eventually(lambda: sum(task.done() for task in tasks) == 7)
    await asyncio.sleep(0.1)
    assert limiter_of("default")._refuser.held == 3
    for task in tasks:
        task.cancel()
    assert sorted(task.done() for task in tasks) == [False] * 3 + [True] * 7
    await asyncio.wait(tasks)
    await close_limiters()


@in_virtual_time
async def test_what_a_held_client_sends_is_thrown_away_and_when_it_leaves_it_is_sent_no_more(refusing):
    refusing(REFUSAL_HOLD=30)
    visitor = Visitor()
    for _ in range(100):
        visitor.events.put_nowait({"type": "websocket.receive", "text": "let me in"})
    visitor.events.put_nowait({"type": "websocket.disconnect", "code": 1001})
    await asyncio.wait_for(visitor.task, 2)
    assert visitor.types == ["websocket.accept"]
    assert limiter_of("default")._refuser.held == 0
    await close_limiters()


@in_virtual_time
async def test_the_hint_names_the_same_time_as_without_the_hold(refusing):
    refusing(REFUSAL_HOLD=0.4, RETRY_AFTER=(0.5, 3600), CONNECT_RATE=1, MAX_CONNECTIONS=10)
    assert isinstance(await limiter_of("default").acquire(), Slot)
    visitors = [Visitor() for _ in range(5)]
    await asyncio.gather(*(visitor.task for visitor in visitors))
    began = min(opened for visitor in visitors for _, opened in visitor.sent[:1])
    times = sorted(visitor.sent[-1][1] - began + visitor.hint for visitor in visitors)
    steps = [later - earlier for earlier, later in pairwise(times[1:])]
    assert all(1 / 0.97 - 0.2 <= step <= 1 / 0.97 + 0.2 for step in steps)
    await close_limiters()


@in_virtual_time
async def test_a_cancelled_hold_is_counted_no_more(refusing):
    refusing(REFUSAL_HOLD=30)
    visitor = Visitor()
    await eventually(lambda: limiter_of("default")._refuser.held == 1)
    visitor.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await visitor.task
    assert limiter_of("default")._refuser.held == 0
    await close_limiters()


@in_virtual_time
async def test_an_http_refusal_is_never_held(refusing):
    refusing(REFUSE_WITH="http")
    visitor = Visitor(extensions={"websocket.http.response": {}})
    await visitor.task
    assert visitor.held < 0.1
    await close_limiters()


@in_virtual_time
async def test_a_worker_in_trouble_holds_nobody(refusing, monkeypatch):
    refusing(MAX_CONNECTIONS=10)
    monkeypatch.setattr(limiter_of("default").overload, "refusing", lambda: "descriptors")
    monkeypatch.setattr(OverloadManager, "refuses", True)
    visitor = Visitor()
    await visitor.task
    assert visitor.held < 0.1
    assert limiter_of("default").state.counters == {"descriptors": 1, "promised": 1}
    await close_limiters()


@in_virtual_time
async def test_a_drain_closes_those_that_are_held(refusing):
    refusing(REFUSAL_HOLD=30, RETRY_AFTER=(1, 60))
    visitors = [Visitor() for _ in range(5)]
    limiter = limiter_of("default")
    await eventually(lambda: limiter._refuser.held == 5)
    limiter.closer.drain_for_good(0.2)
    async with asyncio.timeout(2):
        await asyncio.gather(*(visitor.task for visitor in visitors))
    for visitor in visitors:
        assert visitor.types == ["websocket.accept", "websocket.close"]
    assert limiter._refuser.held == 0
    await close_limiters()


@in_virtual_time
async def test_after_a_hold_that_a_drain_cuts_short_the_hint_names_the_same_time(refusing):
    refusing(REFUSAL_HOLD=30, RETRY_AFTER=(20, 20))
    visitor = Visitor()
    limiter = limiter_of("default")
    await eventually(lambda: limiter._refuser.held == 1)
    limiter.closer.drain_for_good(0)
    await asyncio.wait_for(visitor.task, 2)
    assert visitor.held < 1
    assert 19 <= visitor.hint <= 20
    await close_limiters()


# By itself


def hammering(**scope):
    """One client that comes back at once, each time to the same URL."""
    same = {"client": ["192.0.2.1", 40000], "headers": [(b"cookie", b"a=1")], "query_string": b""}
    return Visitor(**{**same, **scope})


async def early(number: int, **scope) -> None:
    """Have so many visits of one client, none of which is held."""
    for _ in range(number):
        visitor = hammering(**scope)
        await asyncio.wait_for(visitor.task, 2)
        assert visitor.held < 0.1
    assert "refusals.held" not in limiter_of("default").state.counters


async def is_held(*visitors):
    """Wait until these are held, before their answer."""
    await eventually(lambda: limiter_of("default")._refuser.held == len(visitors))
    assert [visitor.types for visitor in visitors] == [[]] * len(visitors)


NONE_HELD = 1
"""Visits of one program that comes back at once, before its next one is held."""
BY_ITSELF = {"REFUSAL_HOLD": None, "RETRY_AFTER": (20, 20)}


@in_virtual_time
async def test_by_itself_a_worker_holds_a_client_that_comes_back_again_and_again(refusing):
    refusing(**BY_ITSELF)
    await early(NONE_HELD)
    visitor, other = hammering(), Visitor(client=["192.0.2.2", 40000])
    await asyncio.wait_for(other.task, 2)
    await is_held(visitor)
    (hold,) = limiter_of("default")._refuser._holds
    assert LEAST * PROGRAM.hold - 0.5 <= hold.when() - asyncio.get_running_loop().time() <= PROGRAM.hold
    assert limiter_of("default").state.counters["refusals.held"] == 1
    limiter_of("default").closer.drain_for_good(0)
    await asyncio.wait_for(visitor.task, 2)
    assert visitor.types == ["websocket.accept", "websocket.close"]
    await close_limiters()


@in_virtual_time
async def test_an_http_refusal_is_held_before_its_status(refusing):
    refusing(**BY_ITSELF, REFUSE_WITH="http")
    extensions = {"websocket.http.response": {}}
    await early(NONE_HELD, extensions=extensions)
    visitor = hammering(extensions=extensions)
    await is_held(visitor)
    limiter_of("default").closer.drain_for_good(0)
    await asyncio.wait_for(visitor.task, 2)
    assert visitor.types == ["websocket.http.response.start", "websocket.http.response.body"]
    assert visitor.held < 0.1
    await close_limiters()


@in_virtual_time
async def test_a_client_that_leaves_before_its_answer_is_sent_none(refusing):
    refusing(**BY_ITSELF)
    await early(NONE_HELD)
    visitor = hammering()
    await is_held(visitor)
    visitor.events.put_nowait({"type": "websocket.disconnect", "code": 1006})
    await asyncio.wait_for(visitor.task, 2)
    assert visitor.types == []
    assert limiter_of("default")._refuser.held == 0
    await close_limiters()


@in_virtual_time
async def test_by_itself_it_holds_nobody_for_so_long_that_the_place_is_missed(refusing):
    refusing(REFUSAL_HOLD=None, RETRY_AFTER=(1, 1))
    await early(NONE_HELD)
    began, visitor = asyncio.get_running_loop().time(), hammering()
    await asyncio.wait_for(visitor.task, 2)
    assert visitor.sent[0][1] - began == pytest.approx(SOONEST, abs=0.02)
    assert visitor.hint == SOONEST
    await close_limiters()


@in_virtual_time
async def test_by_itself_it_holds_nobody_that_is_told_to_come_at_once(refusing):
    refusing(REFUSAL_HOLD=None, RETRY_AFTER=(SOONEST, SOONEST))
    await early(NONE_HELD + 10)
    await close_limiters()


@in_virtual_time
async def test_a_client_that_was_held_is_told_the_same_time_as_without(refusing):
    refusing(REFUSAL_HOLD=None, RETRY_AFTER=(0.5, 3600), MAX_CONNECTIONS=10, CONNECT_RATE=1)
    assert isinstance(await limiter_of("default").acquire(), Slot)
    began = asyncio.get_running_loop().time()
    visitors = [hammering() for _ in range(6)]
    await eventually(lambda: limiter_of("default")._refuser.held == 6 - NONE_HELD)
    await asyncio.gather(*(visitor.task for visitor in visitors))
    times = sorted(visitor.sent[-1][1] - began + visitor.hint for visitor in visitors)
    steps = [later - earlier for earlier, later in pairwise(times)]
    assert all(1 / 0.97 - 0.2 <= step <= 1 / 0.97 + 0.2 for step in steps)
    await close_limiters()


@in_virtual_time
async def test_by_itself_it_holds_at_most_so_many(refusing):
    refusing(**BY_ITSELF, MAX_REFUSALS_HELD=3)
    await early(NONE_HELD)
    visitors = [hammering() for _ in range(10)]
    done, waiting = await asyncio.wait([visitor.task for visitor in visitors], timeout=0.3)
    assert (len(done), len(waiting)) == (7, 3)
    limiter_of("default").closer.drain_for_good(0)
    await asyncio.wait_for(asyncio.gather(*waiting), 2)
    await close_limiters()


@pytest.mark.parametrize("late", [0, 60], ids=["in time", "late"])
@in_virtual_time
async def test_by_itself_it_holds_no_client_that_shows_a_ticket(refusing, late):
    refusing(**BY_ITSELF, CONNECT_RATE=1)
    await early(NONE_HELD)
    places = limiter_of("default").places
    ticket = places.read(places.refuse("full").ticket)
    ticket = places._signer.write(ticket._replace(place=ticket.place - late, due=ticket.due - late))
    visitor = hammering(query_string=f"admission_ticket={ticket}".encode())
    await asyncio.wait_for(visitor.task, 2)
    assert limiter_of("default").state.counters["refusals.held"] == 0
    await close_limiters()


@pytest.mark.parametrize("trouble", ["refuses", "is_tight"])
@in_virtual_time
async def test_by_itself_it_holds_nobody_in_trouble(refusing, monkeypatch, trouble):
    refusing(**BY_ITSELF)
    await early(NONE_HELD)
    monkeypatch.setattr(OverloadManager, trouble, True)
    await early(10)
    await close_limiters()


async def held_once(**scope) -> None:
    """Have a client hammer until its first hold has ended."""
    await early(NONE_HELD, **scope)
    visitor = hammering(**scope)
    await asyncio.wait_for(visitor.task, 2)
    assert limiter_of("default").state.counters["refusals.held"] == 1


async def held_open(refusing) -> Visitor:
    """A client that hammers, once it is held open."""
    refusing(REFUSAL_HOLD=None, RETRY_AFTER=(1, 1))
    await held_once()
    visitor = hammering()
    await eventually(lambda: limiter_of("default")._refuser.held == 1 and visitor.types)
    assert visitor.types == ["websocket.accept"]
    return visitor


@in_virtual_time
async def test_a_client_that_comes_back_at_once_after_a_hold_is_held_open(refusing):
    visitor = await held_open(refusing)
    (hold,) = limiter_of("default")._refuser._holds
    assert LEAST * AGAIN - 0.5 <= hold.when() - asyncio.get_running_loop().time() <= AGAIN
    limiter_of("default").closer.drain_for_good(0)
    await asyncio.wait_for(visitor.task, 2)
    assert visitor.types == ["websocket.accept", "websocket.close"]
    assert limiter_of("default")._refuser._open == {}
    await close_limiters()


@pytest.mark.parametrize("shows", [False, True], ids=["without a ticket", "with a ticket"])
@in_virtual_time
async def test_until_another_client_comes_that_looks_alike(refusing, shows):
    visitor = await held_open(refusing)
    ticket = f"admission_ticket={limiter_of('default').places.refuse('full').ticket}" if shows else "other"
    other = hammering(query_string=ticket.encode())
    await asyncio.wait_for(visitor.task, 2)
    assert visitor.types == ["websocket.accept", "websocket.close"]
    assert 0.5 <= visitor.hint <= 1
    await asyncio.wait_for(other.task, 2)
    assert other.types == ["websocket.accept", "websocket.close"]
    await close_limiters()


@in_virtual_time
async def test_one_that_was_held_open_beyond_its_time_is_told_the_shortest_one(refusing, monkeypatch):
    monkeypatch.setattr(returns, "AGAIN", 0.9)
    refusing(REFUSAL_HOLD=None, RETRY_AFTER=(1, 1))
    await held_once()
    visitor = hammering()
    await asyncio.wait_for(visitor.task, 2)
    assert visitor.held >= 0.8
    assert visitor.hint == 1
    await close_limiters()


@in_virtual_time
async def test_a_client_that_leaves_while_it_is_held_open_is_sent_no_more(refusing):
    visitor = await held_open(refusing)
    visitor.events.put_nowait({"type": "websocket.disconnect", "code": 1001})
    await asyncio.wait_for(visitor.task, 2)
    assert visitor.types == ["websocket.accept"]
    assert limiter_of("default")._refuser._open == {}
    await close_limiters()


@in_virtual_time
async def test_an_http_refusal_is_held_before_its_status_again_and_again(refusing):
    refusing(REFUSAL_HOLD=None, RETRY_AFTER=(1, 1), REFUSE_WITH="http")
    extensions = {"websocket.http.response": {}}
    await held_once(extensions=extensions)
    visitor = hammering(extensions=extensions)
    await is_held(visitor)
    await asyncio.wait_for(visitor.task, 2)
    assert visitor.types == ["websocket.http.response.start", "websocket.http.response.body"]
    await close_limiters()


@in_virtual_time
async def test_with_0_nobody_is_held(refusing):
    refusing(REFUSAL_HOLD=0, RETRY_AFTER=(20, 20))
    await early(NONE_HELD + 10)
    await close_limiters()
