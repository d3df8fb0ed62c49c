"""What a handshake, a message and an open connection may cost, in calls and bytes, on any machine.

The seconds are measured by ``python -m benchmarks``; here stands what they are made of.
"""

import asyncio
import contextvars
import gc
import os
import statistics
import sys
import tracemalloc
from base64 import urlsafe_b64encode
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path

import pytest
from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer

import channels_admission
from channels_admission.conf import ticket_secrets
from channels_admission.consumers import AdmissionMixin
from channels_admission.core.counters import Reason
from channels_admission.core.herd.tickets import Signer, Ticket
from channels_admission.core.levels import RESERVE_PARTS
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.limiter import registry
from channels_admission.limiter.books.reserve import LEAST
from channels_admission.limiter.connections.connection import Connection
from channels_admission.limiter.connections.slot import Held, Slot
from channels_admission.limiter.registry import close_limiters
from channels_admission.middleware import AdmissionMiddleware

from support.faulty import FaultyLedger
from support.limiters import patient_limiter
from support.waiting import eventually

OURS = str(Path(channels_admission.__file__).parent)
CONNECT = {"type": "websocket.connect"}
DISCONNECT = {"type": "websocket.disconnect", "code": 1000}
SCOPE = {
    "type": "websocket", "asgi": {}, "http_version": "1.1", "scheme": "ws", "server": None, "client": ("127.0.0.1", 1),
    "root_path": "", "path": "/", "raw_path": b"/", "query_string": b"", "headers": [], "subprotocols": [], "state": {},
    "extensions": {},
}  # fmt: skip
TERMS = {"MAX_CONNECTIONS": 10_000, "HEARTBEAT": 600, "LEASE": 3600, "PRESSURE": {"lag": None}}
"""Nobody is refused for the lag that a collection of garbage makes."""
PATIENT = {"LEDGER_TIMEOUT": 4}
"""For a Redis, which all who come at once ask, while their memory is traced."""
EVERYTHING = {"MAX_CONNECTION_AGE": 3600, "CONNECT_RATE": 100_000, "CONNECT_BURST": 100_000}
ADMISSION, REFUSAL = 35, 35
"""Calls of our own functions for each, those for the messages included."""
KEPT = 1024
"""Bytes of a connection that waits for a message, beyond what it takes without us."""
QUOTAS = {(3, 11): (136, 96), (3, 14): (142, 96)}
"""More, for the first quota under which it is counted and for each other, from this version of Python on."""
FIRST_QUOTA, OTHER_QUOTA = QUOTAS[max(version for version in QUOTAS if version <= sys.version_info[:2])]
SEVERAL = 500
_clients = count()


class Socket:
    """A server's half of a connection, whose client has said all that it ever will."""

    def __init__(self, *events):
        self.events = list(reversed(events))
        self.sent = 0
        self.leaving = asyncio.Event()

    async def receive(self):
        if self.events:
            return self.events.pop()
        await self.leaving.wait()
        return DISCONNECT

    async def send(self, message):
        self.sent += 1


async def listener(scope, receive, send):
    """Accepts, and answers every message."""
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "text": ""})


async def serve(application, socket):
    await application(dict(SCOPE), socket.receive, socket.send)


@contextmanager
def profiled():
    """Counts the calls of our own functions, by their names."""
    calls = Counter()

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(OURS):
            calls[frame.f_code.co_qualname] += 1

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)


@contextmanager
def untraced():
    """Whoever measures coverage looks away: each frame that is traced takes memory of its own."""
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracer)


@pytest.fixture
def ledgers(monkeypatch):
    """The ledgers that limiters open, each of which notes its reports."""
    opened = []

    def open_ledger(settings):
        opened.append(FaultyLedger(MemoryLedger(settings)))
        return opened[-1]

    monkeypatch.setattr(registry, "open_ledger", open_ledger)
    return opened


@asynccontextmanager
async def at_rest(admission, ledgers, **keys):
    """A limiter that has made its first report, and makes no other unless asked; and the reports from there on."""
    admission(**{**TERMS, **keys})
    limiter = patient_limiter()
    (ledger,) = ledgers
    await eventually(lambda: limiter.state.workers and ledger.reports and limiter.state._met_settled)
    ledger.reports.clear()
    try:
        yield limiter, ledger.reports
    finally:
        await close_limiters()


async def test_a_herd_of_a_thousand_makes_one_call_to_come_and_one_to_go(admission, ledgers):
    async with at_rest(admission, ledgers) as (limiter, reports):
        slots = await asyncio.gather(*(limiter.acquire() for _ in range(1000)))
        assert [report.wanted for report in reports] == [1000 - LEAST]
        for slot in slots:
            slot.release()
        await eventually(lambda: len(reports) == 2)
        assert [report.held - report.reserve for report in reports] == [LEAST, 0]


async def test_clients_that_come_one_after_another_make_no_call(admission, ledgers):
    async with at_rest(admission, ledgers) as (limiter, reports):
        for _ in range(1000):
            (await limiter.acquire()).release()
        assert len(reports) == 0


async def test_without_a_reserve_one_that_comes_alone_makes_a_call_to_come_and_one_to_go(admission, ledgers):
    async with at_rest(admission, ledgers, MAX_CONNECTIONS=RESERVE_PARTS - 1) as (limiter, reports):
        for number in range(3):
            (await limiter.acquire()).release()
            await eventually(lambda: len(reports) == 2 * (number + 1))  # noqa: B023


async def test_the_refused_of_a_full_pool_make_fifty_calls_a_second_at_the_most(admission, ledgers):
    async with at_rest(admission, ledgers, MAX_CONNECTIONS=0) as (limiter, reports):
        began, loop = limiter._loop.time(), limiter._loop
        for _ in range(1000):
            await limiter.acquire()
        assert len(reports) <= 1 + 50 * (loop.time() - began)


async def test_an_admission_takes_few_calls(admission, ledgers):
    async with at_rest(admission, ledgers, **EVERYTHING) as (limiter, reports):
        application = AdmissionMiddleware(listener)
        await asyncio.gather(*(limiter.acquire() for _ in range(2)))
        limiter.state.allowance = limiter.state.reserve.grants = 10
        socket = Socket(CONNECT, DISCONNECT)
        with profiled() as calls:
            await serve(application, socket)
        assert calls.total() <= ADMISSION, calls
        assert len(reports) == 1


@pytest.mark.parametrize("hold", [0, None])
async def test_a_refusal_takes_few_calls_and_none_of_the_application(admission, ledgers, hold):
    async def never(scope, receive, send):
        raise AssertionError("the application ran")

    async with at_rest(admission, ledgers, MAX_CONNECTIONS=0, REFUSAL_HOLD=hold) as (limiter, _):
        application = AdmissionMiddleware(never)
        await limiter.acquire()
        limiter.decisions.shortage._until[0] = float("inf"), "full"
        limiter.decisions._verdicts.refuse("full")  # begins to wait for the next line of the log
        socket = Socket(CONNECT)
        with profiled() as calls:
            await serve(application, socket)
        assert socket.sent == 2
        assert calls.total() <= REFUSAL, calls


@pytest.mark.parametrize("number", [9_999, pytest.param(1_000_002, marks=pytest.mark.long)])
async def test_forged_tickets_make_no_call(admission, ledgers, number):
    async def never(scope, receive, send):
        raise AssertionError("the application ran")

    async with at_rest(admission, ledgers, MAX_CONNECTIONS=0, REFUSAL_HOLD=0) as (limiter, reports):
        application = AdmissionMiddleware(never)
        limiter.decisions.shortage._until[0] = float("inf"), "full"
        for each, text in enumerate(forged(number, limiter.places.clock.time())):
            socket = Socket(CONNECT)
            query, headers = f"admission_ticket={text}".encode(), [(b"admission-ticket", text.encode())]
            shown = {"query_string": query} if each % 2 else {"headers": headers}
            await application({**SCOPE, **shown}, socket.receive, socket.send)
            assert socket.sent == 2
        assert reports == []
        counters = limiter.state.counters
        assert (counters["full"], counters["redeemed"], counters["missed"]) == (number, 0, 0)


def forged(number: int, now: float):
    """Texts that look like tickets that are due: of another pool, by another secret, and at random."""
    signers = [Signer("another", ticket_secrets()), Signer("default", [b"another"])]
    for each in range(0, number, 3):
        ticket = Ticket(now, now, each)
        yield from [*(signer.write(ticket) for signer in signers), urlsafe_b64encode(os.urandom(18)).decode()]


async def test_a_message_takes_two_calls(admission, ledgers):
    async with at_rest(admission, ledgers, **EVERYTHING):
        application = AdmissionMiddleware(listener)

        async def calls_for(messages):
            socket = Socket(CONNECT, *[{"type": "websocket.receive"}] * messages, DISCONNECT)
            with profiled() as calls:
                await serve(application, socket)
            return calls

        few, many = await calls_for(0), await calls_for(100)
        # One comes on a slot that is still counted, and one perhaps not, and a report may be made meanwhile.
        of_messages = {name: count - few[name] for name, count in many.items() if count - few[name] >= 50}
        assert of_messages == {"Connection.receive": 100, "Connection.send": 100}


class Consumer(AsyncConsumer):
    async def websocket_connect(self, message):
        await self.send({"type": "websocket.accept"})

    async def websocket_disconnect(self, message):
        raise StopConsumer


class Limited(AdmissionMixin, Consumer):
    pass


@pytest.mark.parametrize(
    ("bare", "ours"),
    [
        (listener, AdmissionMiddleware(listener)),
        (Consumer.as_asgi(), Limited.as_asgi()),
        (Consumer.as_asgi(), AdmissionMiddleware(Limited.as_asgi())),
    ],
    ids=["the middleware", "the mixin", "both"],
)
async def test_an_open_connection_keeps_little_memory(admission, ledgers, bare, ours):
    async with at_rest(admission, ledgers, **EVERYTHING):
        # Where a herd waits for its verdict before any consumer has run, CPython gives each a dict of its own.
        await serve(ours, Socket(CONNECT, DISCONNECT))
        with untraced():
            before = await usually_kept(bare)
            after = await least_kept(ours, 6, enough=before + KEPT)
        assert after - before <= KEPT


async def test_a_client_that_has_claimed_all_keeps_no_more_by_the_mixin(admission, ledgers):
    async with at_rest(admission, ledgers, QUOTAS=[{"key": "address", "max": 10_000}]):
        applications = [AdmissionMiddleware(each.as_asgi()) for each in (Consumer, Limited)]
        with untraced():
            before = await usually_kept(applications[0])
            after = await least_kept(applications[1], 3, enough=before + 48)
        assert after - before <= 48


def client_of(scope):
    """Another one for every handshake."""
    return str(next(_clients))


async def test_what_a_connection_claims_keeps_little(admission, redis_server):
    async def kept_with(*quotas):
        admission(**{**TERMS, **PATIENT, "LEDGER": redis_server.url, "QUOTAS": quotas})
        limiter = patient_limiter()
        await eventually(lambda: limiter.state.calls.made)
        with untraced():
            size = await kept(AdmissionMiddleware(listener), by_us)
        assert not +Counter({name: limiter.state.counters[name] for name in Reason})
        await close_limiters()
        return size

    client = {"key": f"{__name__}.client_of", "max": 1}
    none, first, second = [await kept_with(*quotas) for quotas in ([], [client], [client, {**client, "name": "other"}])]
    assert first - none <= FIRST_QUOTA
    assert second - first <= OTHER_QUOTA


async def test_a_deadline_that_was_met_keeps_nothing(admission, ledgers):
    async def known(scope, receive, send):
        for slot in scope["admission"].values():
            slot.authenticated()
        await listener(scope, receive, send)

    application = AdmissionMiddleware(known)
    async with at_rest(admission, ledgers):
        with untraced():
            before = await usually_kept(application)
    ledgers.clear()
    async with at_rest(admission, ledgers, PENDING_DEADLINE=0.1):
        with untraced():
            after = await least_kept(application, 3, enough=before + 48)
    assert after - before <= 48


async def test_connections_that_have_ended_leave_nothing(admission, ledgers):
    def alive():
        gc.collect()
        return [each for each in gc.get_objects() if isinstance(each, Connection | Slot | Held)]

    async with at_rest(admission, ledgers, **EVERYTHING) as (limiter, _):
        # An exception that another test keeps may hold some of its own.
        others = alive()
        before = set(map(id, others))
        await kept(AdmissionMiddleware(listener))
        assert [each for each in alive() if id(each) not in before] == []
        assert not limiter.connections


def by_all() -> int:
    """Bytes allocated since they are traced."""
    return tracemalloc.get_traced_memory()[0]


def by_us() -> int:
    """The same in our own lines: what CPython keeps of freed tasks and contexts is not in it."""
    ours = tracemalloc.Filter(True, f"{OURS}/*")
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([ours]).traces)


async def usually_kept(application) -> float:
    """The median of some: now and then what others have left is freed meanwhile, or a table grows."""
    return statistics.median([await kept(application) for _ in range(5)])


async def least_kept(application, tries: int, enough: float) -> float:
    """The least of some: now and then a table grows that all of them share. It ends as soon as one is ``enough``."""
    least = await kept(application)
    for _ in range(tries - 1):
        if least <= enough:
            break
        least = min(least, await kept(application))
    return least


async def kept(application, allocated=by_all) -> float:
    """Bytes of each of several connections that wait for a message."""
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    gc.collect()
    before = allocated()
    sockets = [Socket(CONNECT) for _ in range(SEVERAL)]
    # asgiref copies each variable that other tests have left in this test's context into those of its threads' callers.
    create = asyncio.get_running_loop().create_task
    tasks = [create(serve(application, socket), context=contextvars.Context()) for socket in sockets]
    await eventually(lambda: all(socket.sent for socket in sockets))
    await asyncio.sleep(0.2)
    gc.collect()
    size = allocated() - before
    if not was_tracing:
        tracemalloc.stop()
    for socket in sockets:
        socket.leaving.set()
    await asyncio.gather(*tasks)
    return size / SEVERAL
