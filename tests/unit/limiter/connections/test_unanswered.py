"""Slots of handshakes that nobody accepts, and of handlers whose client has left."""

import asyncio
import re
import threading

import pytest
from asgiref.sync import sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer

from channels_admission.consumers import AdmissionMixin
from channels_admission.limiter import lookout
from channels_admission.limiter.connections.ahead import MOST_BYTES, MOST_EVENTS, Ahead
from channels_admission.limiter.registry import close_limiters, limiter_of
from channels_admission.middleware import AdmissionMiddleware

from support.clients import shows
from support.waiting import eventually

CONNECT = {"type": "websocket.connect"}
DISCONNECT = {"type": "websocket.disconnect", "code": 1001}


class Client:
    """The server's side of a connection."""

    def __init__(self, application, **scope) -> None:
        self.events: asyncio.Queue = asyncio.Queue()
        self.sent: list[dict] = []
        self.feed(CONNECT)
        self.task = asyncio.ensure_future(
            application({"type": "websocket", "path": "/", **scope}, self._get, self._send)
        )

    async def _get(self):
        return await self.events.get()

    async def _send(self, message) -> None:
        self.sent.append(message)

    def feed(self, *events) -> None:
        for event in events:
            self.events.put_nowait(event)

    @property
    def types(self) -> list[str]:
        return [message["type"].removeprefix("websocket.") for message in self.sent]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lookout, "PERIOD", 0.1)
    monkeypatch.setattr(lookout, "LOOKS", 1000)


async def forever(scope, receive, send):
    await receive()
    await asyncio.Event().wait()


class Listens(AsyncWebsocketConsumer):
    """Leaves the answer to somebody who never gives it, and listens."""

    codes: list[int] = []

    async def connect(self):
        pass

    async def disconnect(self, code):
        self.codes.append(code)


class Blocks(WebsocketConsumer):
    leave = threading.Event()

    def connect(self):
        self.leave.wait(10)
        self.accept()


APPLICATIONS = {
    "an application": lambda: AdmissionMiddleware(forever),
    "a consumer that listens": lambda: AdmissionMiddleware(Listens.as_asgi()),
    "the mixin": type("Mixed", (AdmissionMixin, Listens), {}).as_asgi,
    "a blocked thread": lambda: AdmissionMiddleware(Blocks.as_asgi()),
    "both": lambda: AdmissionMiddleware(type("Mixed", (AdmissionMixin, Blocks), {}).as_asgi()),
}


@pytest.mark.parametrize("kind", APPLICATIONS)
async def test_a_slot_that_nobody_accepts_is_given_back_and_the_handshake_refused(admission, kind):
    admission(LEDGER_TIMEOUT=4, ACCEPT_DEADLINE=1, HEARTBEAT=0.1, LEASE=1, RETRY_AFTER=(2, 2))
    Blocks.leave.clear()
    client = Client(APPLICATIONS[kind](), subprotocols=["chat"])
    limiter = limiter_of("default")
    try:
        await eventually(lambda: limiter.state.held == 1)
        await eventually(lambda: limiter.state.held == 0)
        accept, close = client.sent
        assert accept == {"type": "websocket.accept", "subprotocol": "chat"}
        assert (close["type"], close["code"]) == ("websocket.close", 1013)
        assert re.fullmatch(r"Try Again Later; ticket=[\w-]{24}; retry-after=2", close["reason"])
        await asyncio.wait_for(client.task, 5)
        assert limiter.connections == {}
        await eventually(lambda: shows(lambda pool: (pool.unaccepted, pool.admitted, pool.refused) == (1, 1, {})))
    finally:
        Blocks.leave.set()
        # The thread goes on to answer by way of this event loop, which must not end before it.
        await asyncio.wait_for(sync_to_async(int)(), 5)
    await close_limiters()


async def test_those_that_wait_are_shown_with_the_jobs_behind_which_they_do(admission):
    admission(LEDGER_TIMEOUT=4, HEARTBEAT=0.1, LEASE=1)
    Blocks.leave.clear()
    application = AdmissionMiddleware(Blocks.as_asgi())
    clients = [Client(application) for _ in range(3)]

    def waits(accepting: int, jobs: int, busy: int):
        def seen(pool) -> bool:
            return [(each.accepting, each.jobs_waiting, each.threads_busy) for each in pool.workers] == [
                (accepting, jobs, busy)
            ]

        return seen

    try:
        await eventually(lambda: shows(waits(3, 2, 1)))
    finally:
        Blocks.leave.set()
    await eventually(lambda: shows(waits(0, 0, 0)))
    assert [client.types for client in clients] == [["accept"]] * 3
    for client in clients:
        client.feed(DISCONNECT)
        await asyncio.wait_for(client.task, 5)
    await close_limiters()


async def test_it_is_refused_as_configured(admission):
    admission(LEDGER_TIMEOUT=4, ACCEPT_DEADLINE=1, REFUSE_WITH="http", RETRY_AFTER=(2, 2))
    client = Client(AdmissionMiddleware(forever), extensions={"websocket.http.response": {}})
    await asyncio.wait_for(client.task, 5)
    assert client.types == ["http.response.start", "http.response.body"]
    assert (client.sent[0]["status"], dict(client.sent[0]["headers"])[b"retry-after"]) == (503, b"2")
    await close_limiters()


async def test_a_dry_run_counts_it_once_and_refuses_nobody(admission):
    admission(LEDGER_TIMEOUT=4, ACCEPT_DEADLINE=1, DISCONNECT_GRACE=0, DRY_RUN=True)
    client = Client(AdmissionMiddleware(forever))
    limiter = limiter_of("default")
    await eventually(lambda: limiter.state.counters["dry:unaccepted"] == 1)
    client.feed(DISCONNECT)
    await eventually(lambda: limiter.state.counters["dry:outlived"] == 1)
    await asyncio.sleep(0.3)
    assert limiter.state.counters == {"admitted": 1, "dry:unaccepted": 1, "dry:outlived": 1}
    assert (limiter.state.held, client.sent) == (1, [])
    client.task.cancel()
    await asyncio.wait([client.task])
    await close_limiters()


async def test_one_that_has_answered_is_never_refused(admission):
    async def answers(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.Event().wait()

    admission(LEDGER_TIMEOUT=4, ACCEPT_DEADLINE=1)
    client = Client(AdmissionMiddleware(answers))
    await asyncio.sleep(1.4)
    assert (client.types, limiter_of("default").state.held) == (["accept"], 1)
    client.task.cancel()
    await asyncio.wait([client.task])
    await close_limiters()


async def test_without_a_deadline_it_waits(admission):
    admission(LEDGER_TIMEOUT=4, ACCEPT_DEADLINE=None)
    client = Client(AdmissionMiddleware(forever))
    await asyncio.sleep(1.4)
    assert (client.types, limiter_of("default").state.held) == ([], 1)
    client.task.cancel()
    await asyncio.wait([client.task])
    await close_limiters()


async def test_a_handshake_whose_client_has_left_is_dropped_at_once(admission):
    admission(LEDGER_TIMEOUT=4)
    client = Client(AdmissionMiddleware(forever))
    limiter = limiter_of("default")
    await eventually(lambda: limiter.state.held == 1)
    client.feed(DISCONNECT)
    await eventually(lambda: limiter.state.held == 0)
    await asyncio.wait_for(client.task, 5)
    assert client.sent == []
    assert limiter.state.counters["outlived"] == 1
    await close_limiters()


async def test_a_consumer_that_hears_of_it_before_its_accept_may_clean_up(admission):
    class Tidy(Listens):
        async def disconnect(self, code):
            await asyncio.sleep(0.2)
            self.codes.append(code)

    Tidy.codes = []
    admission(LEDGER_TIMEOUT=4, DISCONNECT_GRACE=5)
    client = Client(AdmissionMiddleware(Tidy.as_asgi()))
    limiter = limiter_of("default")
    await eventually(lambda: limiter.state.held == 1 and client.events.empty())
    client.feed(DISCONNECT)
    await asyncio.wait_for(client.task, 5)
    assert (Tidy.codes, limiter.state.held, limiter.state.counters["outlived"]) == ([1001], 0, 0)
    await close_limiters()


class Busy(AsyncWebsocketConsumer):
    """In the middle of a long handler from its first message on."""

    async def receive(self, text_data=None, bytes_data=None):
        await self.send("busy")
        await asyncio.sleep(45)


@pytest.mark.parametrize("before", [0, 3, MOST_EVENTS - 1])
async def test_a_handler_that_outlives_its_client_is_cancelled_after_its_grace(admission, before):
    admission(LEDGER_TIMEOUT=4, DISCONNECT_GRACE=0.5)
    client = Client(AdmissionMiddleware(Busy.as_asgi()))
    client.feed({"type": "websocket.receive", "text": "go"})
    limiter = limiter_of("default")
    await eventually(lambda: client.types == ["accept", "send"])
    client.feed(*[{"type": "websocket.receive", "text": "more"}] * before, DISCONNECT)
    await asyncio.sleep(0.4)
    assert limiter.state.held == 1
    await eventually(lambda: limiter.state.held == 0)
    await asyncio.wait_for(client.task, 5)
    assert limiter.state.counters["outlived"] == 1
    assert limiter.connections == {}
    await close_limiters()


async def test_a_consumer_that_has_heard_of_the_end_has_the_same_grace(admission):
    class Slow(AsyncWebsocketConsumer):
        async def disconnect(self, code):
            await asyncio.sleep(45)

    admission(LEDGER_TIMEOUT=4, DISCONNECT_GRACE=0.3)
    client = Client(AdmissionMiddleware(Slow.as_asgi()))
    limiter = limiter_of("default")
    await eventually(lambda: client.types == ["accept"])
    client.feed(DISCONNECT)
    await eventually(lambda: limiter.state.held == 0)
    await asyncio.wait_for(client.task, 5)
    await close_limiters()


async def test_a_server_that_has_told_of_the_end_is_asked_nothing_more(admission):
    class Slow(AsyncWebsocketConsumer):
        async def disconnect(self, code):
            await asyncio.sleep(0.5)  # for some looks at what it does

    class Strict(Client):
        is_over = False

        async def _get(self):
            assert not self.is_over
            event = await super()._get()
            self.is_over = event["type"] == "websocket.disconnect"
            return event

    admission(LEDGER_TIMEOUT=4)
    client = Strict(AdmissionMiddleware(Slow.as_asgi()))
    await eventually(lambda: client.types == ["accept"])
    (connection,) = limiter_of("default").connections
    client.feed(DISCONNECT)
    await eventually(lambda: client.is_over)
    await asyncio.sleep(0.35)
    assert connection._receive == client._get
    await asyncio.wait_for(client.task, 5)
    await close_limiters()


async def test_without_a_grace_it_goes_on(admission):
    admission(LEDGER_TIMEOUT=4, DISCONNECT_GRACE=None)
    client = Client(AdmissionMiddleware(Busy.as_asgi()))
    client.feed({"type": "websocket.receive", "text": "go"}, DISCONNECT)
    await eventually(lambda: client.events.empty())
    await asyncio.sleep(0.5)
    assert limiter_of("default").state.held == 1
    client.task.cancel()
    await asyncio.wait([client.task])
    await close_limiters()


async def test_without_a_grace_the_server_tells_one_that_only_sends(admission):
    class Gone(Client):
        async def _send(self, message) -> None:
            if len(self.sent) > 1 and self.events.empty():
                raise OSError("The client has left.")
            await super()._send(message)

    async def pushes(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "text": "news"})
            await asyncio.sleep(0.3)

    admission(LEDGER_TIMEOUT=4, DISCONNECT_GRACE=None)
    client = Gone(AdmissionMiddleware(pushes))
    client.feed(DISCONNECT)
    with pytest.raises(OSError, match="The client has left"):
        await asyncio.wait_for(client.task, 5)
    assert limiter_of("default").state.held == 0
    await close_limiters()


async def test_what_is_read_ahead_reaches_the_application_in_order_and_whole(admission):
    heard, go_on = [], asyncio.Event()

    async def slow(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await go_on.wait()
        while (event := await receive())["type"] != "websocket.disconnect":
            heard.append(event["text"])
            if len(heard) % 10 == 0:
                await asyncio.sleep(0.25)

    admission(LEDGER_TIMEOUT=4)
    client = Client(AdmissionMiddleware(slow))
    texts = [str(number) for number in range(40)]
    client.feed(*({"type": "websocket.receive", "text": text} for text in texts))
    await eventually(lambda: client.events.qsize() == 40 - MOST_EVENTS)
    await asyncio.sleep(0.2)
    assert client.events.qsize() == 40 - MOST_EVENTS
    go_on.set()
    await eventually(lambda: heard == texts)
    client.feed(DISCONNECT)
    await asyncio.wait_for(client.task, 5)
    await close_limiters()


async def test_no_more_is_read_ahead_than_so_many_bytes():
    events: asyncio.Queue = asyncio.Queue()
    for _ in range(3):
        events.put_nowait({"type": "websocket.receive", "bytes": b"x" * (MOST_BYTES // 2), "text": None})
    ahead = Ahead(events.get, lambda: None, lambda receive: None)
    ahead.read()
    await asyncio.sleep(0.05)
    assert events.qsize() == 1


async def test_one_that_is_cancelled_while_it_waits_for_what_is_read_ahead_costs_no_message():
    events: asyncio.Queue = asyncio.Queue()
    drained = []
    ahead = Ahead(events.get, lambda: None, drained.append)
    ahead.read()
    waiting = asyncio.ensure_future(ahead.receive())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    events.put_nowait({"type": "websocket.receive", "text": "first"})
    assert await asyncio.wait_for(ahead.receive(), 1) == {"type": "websocket.receive", "text": "first"}
    assert drained == [events.get]


async def test_what_the_server_raises_reaches_the_application():
    async def broken():
        raise OSError("gone")

    ended = []
    ahead = Ahead(broken, lambda: ended.append(True), lambda receive: None)
    ahead.read()
    await eventually(lambda: ended == [True])
    with pytest.raises(OSError, match="gone"):
        await ahead.receive()


async def test_nothing_is_read_ahead_for_an_application_that_has_returned():
    events: asyncio.Queue = asyncio.Queue()
    ahead = Ahead(events.get, lambda: None, lambda receive: None)
    ahead.read()
    await asyncio.sleep(0)
    events.put_nowait({"type": "websocket.receive", "text": "last"})
    reading = ahead._reading
    while not reading.done():
        await asyncio.sleep(0)
    ahead.stop()  # before it is heard that the message has come
    await asyncio.sleep(0.05)
    assert ahead._reading is None
