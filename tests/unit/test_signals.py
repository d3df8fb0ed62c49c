"""The signals of real limiters: what receivers are told, and that no handshake waits for them."""

import asyncio
import logging
import re
import threading
from collections import Counter

import pytest

from channels_admission import signals
from channels_admission.core.levels import Edge, Level
from channels_admission.events import dispatch
from channels_admission.events.dispatch import Events
from channels_admission.exceptions import LedgerUnavailable
from channels_admission.limiter.limiter import Slot
from channels_admission.limiter.registry import close_limiters, limiter_of
from channels_admission.middleware import AdmissionMiddleware
from channels_admission.runtime.faults import Faults
from channels_admission.runtime.identity import Worker
from channels_admission.signals import connection_admitted, connection_refused

from demo.servers import Workers
from support import TESTS
from support.clients import enter_many, leave_all
from support.signals import listening
from support.waiting import eventually

WARNING = Edge(Level.CALM, Level.WARNING, 70, 100)


class Visitors:
    """Handshakes at the middleware, one after the other; those let in stay until all leave."""

    def __init__(self) -> None:
        self.sent: list[dict] = []
        self._left = asyncio.Event()
        self._tasks: list[asyncio.Task] = []

    async def come(self, count: int = 1, path: str = "/") -> None:
        async def stay(scope, receive, send):
            await self._left.wait()

        for _ in range(count):
            seen = len(self.sent)
            visit = AdmissionMiddleware(stay)({"type": "websocket", "path": path}, self._receiver(), self._send)
            self._tasks.append(asyncio.ensure_future(visit))
            held = limiter_of("default").state.held
            await eventually(lambda seen=seen, held=held: self._is_decided(seen, held))

    def _is_decided(self, seen: int, held: int) -> bool:
        return len(self.sent) == seen + 2 or limiter_of("default").state.held > held

    async def leave(self) -> None:
        self._left.set()
        await asyncio.gather(*self._tasks)

    def _receiver(self):
        events = [{"type": "websocket.connect"}]

        async def receive():
            if not events:
                await self._left.wait()
                events.append({"type": "websocket.disconnect"})
            return events.pop()

        return receive

    async def _send(self, message):
        self.sent.append(message)


@pytest.fixture
async def visitors():
    visitors = Visitors()
    yield visitors
    await visitors.leave()
    await close_limiters()


async def test_receivers_are_told_each_verdict_and_nothing_of_the_client(admission, visitors):
    admission(MAX_CONNECTIONS=2)
    told = []

    def sync(**details):
        told.append(("sync", details))

    async def coroutine(**details):
        told.append(("async", details))

    with listening((connection_admitted, sync), (connection_refused, sync), (connection_refused, coroutine)):
        await visitors.come(3)
        await eventually(lambda: len(told) == 4)
    worker = limiter_of("default").state.worker.id
    admitted = {"signal": connection_admitted, "sender": None, "pool": "default", "worker": worker, "class_name": None}
    assert told[:2] == [("sync", admitted)] * 2
    refused = dict(told[2:])
    assert set(refused) == {"sync", "async"}
    for details in refused.values():
        assert 1 <= details.pop("retry_after") <= 60
        assert details == {**admitted, "signal": connection_refused, "reason": "full"}


def by_path(scope):
    return scope["path"].strip("/") or None


async def test_receivers_are_told_of_the_class(admission, visitors):
    admission(MAX_CONNECTIONS=10, CLASSIFY=f"{__name__}.by_path", SHARES={"guest": 0.1})
    told = []

    def note(signal, class_name, **details):
        told.append((signal is connection_admitted, class_name))

    with listening((connection_admitted, note), (connection_refused, note)):
        for path in ("/guest", "/guest", "/", "/exempt"):
            await visitors.come(path=path)
        await eventually(lambda: len(told) == 4)
    assert told == [(True, "guest"), (False, "guest"), (True, None), (True, "exempt")]


async def test_a_receiver_that_fails_breaks_no_handshake_and_is_logged(admission, visitors, caplog):
    admission(MAX_CONNECTIONS=1)
    told = []

    def failing(**details):
        raise RuntimeError("no luck")

    async def failing_too(**details):
        raise RuntimeError("no luck either")

    def last(**details):
        told.append(details)

    with listening(*((connection_refused, receiver) for receiver in (failing, failing_too, last))):
        await visitors.come(3)
        await eventually(lambda: len(told) == 2)
    assert [message["code"] for message in visitors.sent if message["type"] == "websocket.close"] == [1013] * 2
    assert sum("no luck" in record.getMessage() for record in caplog.records) == 4


async def test_a_slow_receiver_holds_up_no_handshake_and_misses_what_is_too_much(
    admission, visitors, caplog, monkeypatch
):
    monkeypatch.setattr(dispatch, "MOST_WAITING", 3)
    caplog.set_level(logging.WARNING, "channels_admission")
    admission(MAX_CONNECTIONS=1)
    told, go_on = [], threading.Event()

    def slow(**details):
        go_on.wait(10)
        told.append(details)

    with listening((connection_refused, slow)):
        await visitors.come(8)
        go_on.set()
        await eventually(lambda: limiter_of("default").events._task is None)
        assert len(told) == 4
        await visitors.come()
        await eventually(lambda: len(told) == 5)
    assert limiter_of("default").state.counters["events.dropped"] == 3
    assert [record.getMessage() for record in caplog.records if "too slow" in record.getMessage()] == [
        "Receivers of signals are too slow: events of pool 'default' are dropped."
    ]


async def test_where_nobody_listens_nothing_is_made(admission, monkeypatch):
    admission()
    limiter = limiter_of("default")
    monkeypatch.setattr(type(limiter.state.worker), "id", property(lambda self: pytest.fail("asked for its name")))
    slot = Slot(limiter)
    limiter.events.tell_verdict(slot, limiter.state.worker)
    assert (len(limiter.events._waiting), limiter.events._task) == (0, None)
    monkeypatch.undo()
    await close_limiters()


async def test_every_edge_has_its_signal_and_its_line(admission, caplog):
    admission(MAX_CONNECTIONS=10, HEARTBEAT=0.1, LEASE=1)
    heard = []

    def hear(name):
        def receiver(sender, **details):
            heard.append((name, details["pool"], details["edge"], details["worker"] == limiter.state.worker.id))

        return getattr(signals, f"capacity_{name}"), receiver

    limiter = limiter_of("default")
    with listening(*map(hear, ("warning", "critical", "full", "recovered"))):
        slots = [await limiter.acquire() for _ in range(10)]
        await eventually(lambda: len(heard) == 3)
        for slot in slots:
            slot.release()
        await eventually(lambda: heard[-1][0] == "recovered" and heard[-1][2].level is Level.CALM)
    assert [name for name, *_ in heard[:3]] == ["warning", "critical", "full"]
    assert {(pool, ours) for _, pool, _, ours in heard} == {("default", True)}
    assert "Pool 'default' has risen to warning: 7 of 10 slots held." in caplog.messages
    assert "Pool 'default' is back at calm: 0 of 10 slots held." in caplog.messages
    await close_limiters()


async def test_a_receiver_that_fails_or_blocks_harms_nobody(admission, caplog):
    heard, loop_thread = [], threading.current_thread()
    release = threading.Event()

    def fails(**details):
        raise ValueError("a receiver's own")

    def blocks(**details):
        heard.append(threading.current_thread() is loop_thread)
        release.wait(5)

    async def listens(**details):
        heard.append(details["edge"])

    settings = admission()
    events = Events(settings.pool("default"), settings.alerts, Counter(), Faults("a pool"))
    with listening(*((signals.capacity_warning, each) for each in (fails, blocks, listens))):
        events.level(WARNING, Worker())
        await eventually(lambda: heard)
        release.set()
        await eventually(lambda: len(heard) == 2)
        await events.aclose()
    assert {*heard} == {False, WARNING}
    assert caplog.messages[0] == "Pool 'default' has risen to warning: 70 of 100 slots held."


async def test_a_ledger_lost_and_regained_is_told_by_each_worker(admission):
    admission(HEARTBEAT=0.1, LEASE=1)
    heard = []
    limiter = limiter_of("default")
    await eventually(lambda: limiter.state.controls is not None and limiter.state.calls.made)
    real = limiter.reconciler.ledger.reconcile

    async def away(pool, report):
        raise LedgerUnavailable("the road is closed")

    with (
        listening(
            (signals.ledger_lost, lambda **details: heard.append(("lost", details["pool"], details["error"]))),
            (signals.ledger_regained, lambda **details: heard.append(("regained", details["pool"]))),
        ),
    ):
        limiter.reconciler.ledger.reconcile = away
        await eventually(lambda: limiter.state.away)
        limiter.reconciler.ledger.reconcile = real
        await eventually(lambda: len(heard) == 2)
    assert heard == [("lost", "default", "the road is closed"), ("regained", "default")]
    await close_limiters()


@pytest.mark.integration
async def test_a_real_worker_tells_its_receivers(admission, prefix, redis_server):
    keys = {"LEDGER": redis_server.url, "PREFIX": prefix, "MAX_CONNECTIONS": 3}
    with Workers(
        "uvicorn", 1, redis_url=redis_server.url, settings=keys, application="support.listening:application",
        args=["--app-dir", str(TESTS)],
    ) as workers:  # fmt: skip
        clients = await enter_many(5, workers.origins)
        assert sorted(client.code or 0 for client in clients) == [0, 0, 0, 1013, 1013]

        def told() -> list[str]:
            log = workers.logs[0].read_text()
            return re.findall(r"^(admitted to default by \S+:\d+:\w+|refused by default for full)", log, re.MULTILINE)

        lines = await eventually(lambda: len(told()) == 5 and told())
        assert sorted(line.split()[0] for line in lines) == ["admitted"] * 3 + ["refused"] * 2
        await leave_all(clients)
