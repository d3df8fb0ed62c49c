"""Refused clients that are kept a while before the close."""

import asyncio
import time
from itertools import pairwise

import pytest

from channels_admission.limiter.limiter import Slot
from channels_admission.limiter.registry import close_limiters, limiter_of
from channels_admission.middleware import AdmissionMiddleware


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
        self.sent.append((message, time.monotonic()))

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


async def test_a_refused_client_is_kept_between_half_of_the_hold_and_all_of_it(refusing):
    refusing()
    visitors = [Visitor() for _ in range(20)]
    await asyncio.gather(*(visitor.task for visitor in visitors))
    assert all(0.19 <= visitor.held <= 0.6 for visitor in visitors)
    assert len({round(visitor.held, 3) for visitor in visitors}) > 5
    assert limiter_of("default")._refuser.held == 0
    await close_limiters()


async def test_at_most_so_many_are_kept_and_the_others_closed_at_once(refusing):
    refusing(MAX_REFUSALS_HELD=3)
    visitors = [Visitor() for _ in range(10)]
    done, waiting = await asyncio.wait([visitor.task for visitor in visitors], timeout=0.15)
    assert (len(done), len(waiting)) == (7, 3)
    assert limiter_of("default")._refuser.held == 3
    await asyncio.wait(waiting)
    await close_limiters()


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


async def test_the_hint_names_the_same_moment_as_without_the_hold(refusing):
    refusing(REFUSAL_HOLD=0.4, RETRY_AFTER=(0.5, 3600), CONNECT_RATE=1, MAX_CONNECTIONS=10)
    assert isinstance(await limiter_of("default").acquire(), Slot)
    visitors = [Visitor() for _ in range(5)]
    await asyncio.gather(*(visitor.task for visitor in visitors))
    began = min(opened for visitor in visitors for _, opened in visitor.sent[:1])
    moments = sorted(visitor.sent[-1][1] - began + visitor.hint for visitor in visitors)
    steps = [later - earlier for earlier, later in pairwise(moments[1:])]
    assert all(1 / 0.97 - 0.2 <= step <= 1 / 0.97 + 0.2 for step in steps)
    await close_limiters()


async def test_a_cancelled_hold_is_counted_no_more(refusing):
    refusing(REFUSAL_HOLD=30)
    visitor = Visitor()
    await asyncio.sleep(0.05)
    assert limiter_of("default")._refuser.held == 1
    visitor.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await visitor.task
    assert limiter_of("default")._refuser.held == 0
    await close_limiters()


async def test_an_http_refusal_is_never_held(refusing):
    refusing(REFUSE_WITH="http")
    visitor = Visitor(extensions={"websocket.http.response": {}})
    await visitor.task
    assert visitor.held < 0.1
    await close_limiters()


async def test_a_worker_in_trouble_holds_nobody(refusing, monkeypatch):
    refusing(MAX_CONNECTIONS=10)
    monkeypatch.setattr(limiter_of("default").overload, "refusing", lambda: "descriptors")
    visitor = Visitor()
    await visitor.task
    assert visitor.held < 0.1
    assert limiter_of("default").state.counters == {"descriptors": 1, "promised": 1}
    await close_limiters()
