"""However the package ends a connection, its slot is free within a bound, whatever server and application do."""

import asyncio
from contextlib import suppress

import pytest
from asgiref.compatibility import is_double_callable
from channels.consumer import AsyncConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer, WebsocketConsumer
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from django.urls import path

from channels_admission.consumers import AdmissionMixin
from channels_admission.controls import achange
from channels_admission.limiter.connections import connection
from channels_admission.limiter.connections.connection import ABANDONED, CLOSING, GRACE
from channels_admission.limiter.registry import close_limiters, limiter_of
from channels_admission.middleware import AdmissionMiddleware

from support.waiting import eventually

SHORT = {"GRACE": 0.2, "CLOSING": 0.1, "ABANDONED": 0.05}
BOUND = sum(SHORT.values())
LATE = 3.0
"""Seconds that a busy machine may be late."""


class Blocked(Exception):
    """What a server's send raises."""


@pytest.fixture
def short(monkeypatch):
    """The package's timeout is :data:`SHORT`."""
    for name, seconds in SHORT.items():
        monkeypatch.setattr(connection, name, seconds)


class Server:
    """A server whose client reads nothing once it is accepted."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.accepted = self.is_aborted = False
        self.transport = self
        self.ignored: set[asyncio.Task] = set()
        self.events: asyncio.Queue = asyncio.Queue()
        self.events.put_nowait({"type": "websocket.connect"})

    def abort(self) -> None:
        self.is_aborted = True

    async def send(self, message) -> None:
        if message["type"] == "websocket.accept":
            self.accepted = True
            return
        if self.fault == "raises" and message["type"] == "websocket.close":
            raise Blocked
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if self.fault == "never returns" or task in self.ignored:
                    raise
                self.ignored.add(task)


def serve(application, server: Server) -> asyncio.Task:
    running = AdmissionMiddleware(application)({"type": "websocket"}, server.events.get, server.send)
    return asyncio.ensure_future(running)


async def sends(scope, receive, send):
    """A handler that sends, and never listens."""
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        await send({"type": "websocket.send", "text": "x" * 65536})


async def listens(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def goes_on(scope, receive, send):
    """Ignores its first cancellation, and ends some time after the slot must be free."""
    await receive()
    await send({"type": "websocket.accept"})
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    await asyncio.Event().wait()


async def by_age(limiter):
    for each in list(limiter.connections):
        limiter.closer.grow_old(each)


async def by_a_drain(limiter):
    limiter.drain(0)


async def by_an_enforced_limit(limiter):
    await achange("default", limit=0, over=0, by="test")


async def by_memory(limiter):
    limiter.closer._end_least(100, None)


async def by_the_deadline(limiter):
    """``PENDING_DEADLINE``."""


ENDINGS = {
    by_age: {},
    by_a_drain: {},
    by_an_enforced_limit: {},
    by_memory: {},
    by_the_deadline: {"PENDING_DEADLINE": 0.1},
}
FAULTS = ("never returns", "raises", "ignores its first cancellation")
APPLICATIONS = (sends, listens, goes_on)


@pytest.mark.parametrize("ending", ENDINGS)
async def test_the_slots_are_free_within_their_bound(admission, short, ending):
    admission(LEDGER_TIMEOUT=4, HEARTBEAT=0.1, LEASE=1, **ENDINGS[ending])
    limiter = limiter_of("default")
    each = [(Server(fault), application) for fault in FAULTS for application in APPLICATIONS]
    tasks = [serve(application, server) for server, application in each]
    await eventually(lambda: all(server.accepted for server, _ in each))
    ours = list(limiter.connections)
    assert len(ours) == len(each)
    await ending(limiter)
    await eventually(lambda: all(connection.is_ending for connection in ours), 2)
    await eventually(lambda: limiter.state.held == 0, BOUND + LATE)
    assert limiter.connections == {}
    await asyncio.wait(tasks, timeout=1)
    assert [task for task in tasks if not task.done()] == []
    assert [server.fault for server, _ in each if not server.is_aborted] == []
    await close_limiters()


def test_the_bound_is_as_documented():
    assert GRACE + CLOSING + ABANDONED == 12.5


async def test_an_application_that_ignores_every_cancellation_runs_on_without_its_slot(admission, short):
    admission(LEDGER_TIMEOUT=4, MAX_CONNECTION_AGE=1)
    leave = asyncio.Event()

    async def stubborn(scope, receive, send):
        while not leave.is_set():
            with suppress(asyncio.CancelledError):
                await leave.wait()

    server = Server("never returns")
    task = serve(stubborn, server)
    limiter = limiter_of("default")
    await eventually(lambda: limiter.state.held == 1)
    await eventually(lambda: limiter.state.held == 0, 1.1 + BOUND + LATE)
    assert limiter.state.counters["released"] == 1
    assert not task.done()
    leave.set()
    await task
    assert limiter.state.counters["released"] == 1
    await close_limiters()


async def test_a_cancellation_by_the_server_while_the_close_is_sent_is_the_servers(admission, monkeypatch):
    monkeypatch.setattr(connection, "GRACE", 0.05)
    admission(LEDGER_TIMEOUT=4, MAX_CONNECTION_AGE=1)
    server = Server("never returns")
    task = serve(goes_on, server)
    await eventually(lambda: server.accepted)
    limiter_of("default").drain(0)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=1)
    assert task.cancelled()
    assert limiter_of("default").state.held == 0
    await close_limiters()


KINDS = [AsyncConsumer, AsyncWebsocketConsumer, AsyncJsonWebsocketConsumer, WebsocketConsumer]


@pytest.mark.parametrize("kind", KINDS)
def test_a_consumer_with_the_mixin_is_the_same_kind_of_application_as_without(kind):
    chat = type("Chat", (AdmissionMixin, kind), {})
    for entrance in (lambda each: each, lambda each: each(), lambda each: each.as_asgi()):
        assert is_double_callable(entrance(chat)) == is_double_callable(entrance(kind))


ENTRANCES = {
    "instance": lambda chat: chat(),
    "as_asgi()": lambda chat: chat.as_asgi(),
    "nested": lambda chat: AdmissionMiddleware(chat.as_asgi()),
    "nested instance": lambda chat: URLRouter([path("", AdmissionMiddleware(chat()))]),
}


@pytest.mark.parametrize("kind", [AsyncWebsocketConsumer, WebsocketConsumer])
@pytest.mark.parametrize("entrance", ENTRANCES)
async def test_every_entrance_of_a_consumer_holds_one_slot(admission, entrance, kind):
    admission(LEDGER_TIMEOUT=4)
    chat = type("Chat", (AdmissionMixin, kind), {})
    client = WebsocketCommunicator(ENTRANCES[entrance](chat), "/")
    assert await client.connect() == (True, None)
    assert limiter_of("default").state.held == 1
    await client.disconnect()
    assert limiter_of("default").state.held == 0
    await close_limiters()


async def test_a_class_is_no_application_with_the_mixin_or_without(admission):
    admission(LEDGER_TIMEOUT=4)
    errors = []
    for bases in [(AsyncWebsocketConsumer,), (AdmissionMixin, AsyncWebsocketConsumer)]:
        client = WebsocketCommunicator(type("Chat", bases, {}), "/")
        with pytest.raises(TypeError) as raised:
            await client.connect(timeout=1)
        errors.append(str(raised.value).rpartition(".")[2])
    assert errors[0] == errors[1]
