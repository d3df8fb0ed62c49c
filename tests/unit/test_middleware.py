"""However a connection ends, its slot comes back: every path, for both faces, async and sync consumers."""

import asyncio
from contextlib import suppress

import pytest
from channels.exceptions import AcceptConnection, ChannelFull, DenyConnection, StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer

from channels_admission.consumers import AdmissionMixin
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.limiter.registry import close_limiters, limiter_of
from channels_admission.middleware import AdmissionMiddleware

from support.clients import shows
from support.effort import some_of
from support.limiters import patient_limiter
from support.waiting import eventually

CONNECT = {"type": "websocket.connect"}
TEXT = {"type": "websocket.receive", "text": "hello"}
CLEAN = {"type": "websocket.disconnect", "code": 1000}
RESET = {"type": "websocket.disconnect", "code": 1006}
MANY = some_of(500)
"""Connections at once."""


class Trouble(Exception):
    """What the consumers of these tests raise."""


def behaviour(where: str, what: type[BaseException] | str) -> dict[str, object]:
    """The methods of a sync consumer that raises, or closes, in one of its handlers."""

    def act(self, *args, **kwargs):
        if what == "close":
            self.close()
        else:
            raise what()

    return {where: act}


def consumer(kind: str, face: str, where: str | None, what: object):
    """A consumer class of the given kind, behind the given face, as an ASGI application."""
    methods = behaviour(where, what) if where else {}
    if kind == "async":
        methods = {name: _awaited(name, what) for name in methods}
    base = AsyncWebsocketConsumer if kind == "async" else WebsocketConsumer
    bases = (AdmissionMixin, base) if face != "middleware" else (base,)
    application = type("Consumer", bases, methods).as_asgi()
    return AdmissionMiddleware(application) if face != "mixin" else application


def _awaited(name: str, what: object):
    async def act(self, *args, **kwargs):
        if what == "close":
            await self.close()
        else:
            raise what()

    return act


class Client:
    """The server's side of one connection: feeds events, records what is sent."""

    def __init__(self, application) -> None:
        self.events: asyncio.Queue = asyncio.Queue()
        self.sent: list[dict] = []
        scope = {"type": "websocket", "path": "/", "headers": [], "subprotocols": [], "extensions": {}}
        self.task = asyncio.ensure_future(application(scope, self.events.get, self._send))

    async def _send(self, message) -> None:
        self.sent.append(message)

    def feed(self, *events) -> None:
        for event in events:
            self.events.put_nowait(event)


PATHS = {
    "clean close": (None, None, [CONNECT, TEXT, CLEAN]),
    "reset": (None, None, [CONNECT, RESET]),
    "gone before connect": (None, None, [CLEAN]),
    "close during connect": ("connect", "close", [CONNECT, CLEAN]),
    "close while receiving": ("receive", "close", [CONNECT, TEXT, CLEAN]),
    "exception in connect": ("connect", Trouble, [CONNECT]),
    "exception in receive": ("receive", Trouble, [CONNECT, TEXT]),
    "exception in disconnect": ("disconnect", Trouble, [CONNECT, CLEAN]),
    "StopConsumer in connect": ("connect", StopConsumer, [CONNECT]),
    "StopConsumer in receive": ("receive", StopConsumer, [CONNECT, TEXT]),
    "StopConsumer in disconnect": ("disconnect", StopConsumer, [CONNECT, CLEAN]),
    "DenyConnection": ("connect", DenyConnection, [CONNECT, CLEAN]),
    "AcceptConnection": ("connect", AcceptConnection, [CONNECT, CLEAN]),
    "unknown event": (None, None, [CONNECT, {"type": "websocket.nonsense"}]),
}


@pytest.fixture(autouse=True)
def _in_force(admission):
    admission(MAX_CONNECTIONS=500, HEARTBEAT=5, LEASE=50)


@pytest.fixture(params=["middleware", "mixin", "both"])
def face(request):
    return request.param


@pytest.fixture(params=["async", "sync"])
def kind(request):
    return request.param


async def nothing_is_held() -> None:
    """Within moments neither the limiter nor the ledger counts a slot."""
    limiter = limiter_of("default")

    async def zero():
        (reading,) = await MemoryLedger(limiter.settings).read(("default",))
        return limiter.state.held == 0 and sum(worker.held for worker in reading.workers) == 0

    await eventually(zero)
    await close_limiters()


@pytest.mark.parametrize("path", PATHS)
async def test_a_connection_that_ends_by_itself(path, kind, face):
    where, what, events = PATHS[path]
    client = Client(consumer(kind, face, where, what))
    client.feed(*events)
    with suppress(Trouble, ValueError):
        await asyncio.wait_for(client.task, 5)
    assert client.task.done()
    assert limiter_of("default").state.counters["admitted"] == 1
    await nothing_is_held()


@pytest.mark.parametrize("count", [1, MANY])
@pytest.mark.parametrize("when", ["before", "during", "after"])
async def test_a_connection_that_is_cancelled(when, count, kind, face):
    application = consumer(kind, face, None, None)
    patient_limiter()
    clients = [Client(application) for _ in range(count)]
    if when == "during":
        await asyncio.sleep(0)
    if when == "after":
        for client in clients:
            client.feed(CONNECT)
        await eventually(lambda: all(client.sent for client in clients), seconds=30)
        assert limiter_of("default").state.held == count
    for client in clients:
        client.task.cancel()
    await asyncio.gather(*(client.task for client in clients), return_exceptions=True)
    assert all(client.task.cancelled() for client in clients)
    await nothing_is_held()


async def test_an_application_that_returns_early():
    async def application(scope, receive, send):
        assert scope["admission"]["default"].pool == "default"

    client = Client(AdmissionMiddleware(application))
    await client.task
    await nothing_is_held()


async def test_an_application_that_never_reads_again_holds_its_slot_until_it_ends():
    leave = asyncio.Event()

    async def application(scope, receive, send):
        await leave.wait()

    client = Client(AdmissionMiddleware(application))
    client.feed(CONNECT, CLEAN)
    await eventually(lambda: limiter_of("default").state.held == 1)
    leave.set()
    await client.task
    await nothing_is_held()


async def test_many_at_once(kind, face):
    patient_limiter()
    application = consumer(kind, face, "receive", Trouble)
    clients = [Client(application) for _ in range(MANY)]
    for client in clients:
        client.feed(CONNECT)
    await eventually(lambda: all(client.sent for client in clients), seconds=30)
    assert limiter_of("default").state.held == MANY
    for client in clients:
        client.feed(TEXT)
    results = await asyncio.gather(*(client.task for client in clients), return_exceptions=True)
    assert all(isinstance(result, Trouble) for result in results)
    await nothing_is_held()


async def test_a_client_gone_while_it_waited_for_the_ledger(kind, face):
    client = Client(consumer(kind, face, None, None))
    client.feed(CONNECT, RESET)
    await asyncio.wait_for(client.task, 5)
    await nothing_is_held()


async def test_a_refused_client_that_is_gone_already_is_sent_nothing(admission):
    admission(MAX_CONNECTIONS=0)
    client = Client(AdmissionMiddleware(consumer("async", "mixin", None, None)))
    client.feed(CLEAN)
    await asyncio.wait_for(client.task, 5)
    assert client.sent == []
    await nothing_is_held()


async def test_a_user_that_cannot_be_read(admission):
    class User:
        @property
        def is_authenticated(self):
            raise Trouble

    admission(PENDING_DEADLINE=5)
    scope = {"type": "websocket", "path": "/", "user": User()}
    with pytest.raises(Trouble):
        await AdmissionMiddleware(consumer("async", "mixin", None, None))(scope, None, None)
    assert not limiter_of("default").connections
    await nothing_is_held()


async def test_a_consumer_that_a_full_channel_ends_is_counted(admission):
    async def send_too_much(scope, receive, send):
        raise ChannelFull

    admission(HEARTBEAT=0.1, LEASE=1)
    for _ in range(2):
        with pytest.raises(ChannelFull):
            await AdmissionMiddleware(send_too_much)({"type": "websocket", "path": "/"}, None, None)
    await eventually(lambda: shows(lambda pool: (pool.channels_full, pool.refused, pool.held) == (2, {}, 0)))
    await close_limiters()
