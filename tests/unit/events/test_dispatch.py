"""One queue of events for each limiter: its bound, its order, what a drop leaves behind, and what may hold it up."""

import asyncio
import time
from collections import Counter
from contextvars import ContextVar

import pytest

from channels_admission import signals
from channels_admission.core.levels import Edge, Level
from channels_admission.core.protocol import Refusal
from channels_admission.events import dispatch
from channels_admission.events.dispatch import Events
from channels_admission.events.webhook import Sender
from channels_admission.runtime.faults import Faults
from channels_admission.runtime.identity import Worker

from support.signals import listening
from support.waiting import eventually

WORKER = Worker()
WARNING, FULL = Edge(Level.CALM, Level.WARNING, 7, 10), Edge(Level.WARNING, Level.FULL, 10, 10)
CALM = Edge(Level.FULL, Level.CALM, 0, 10)
SEEN: ContextVar[str] = ContextVar("seen", default="nothing")


class Receiver:
    """Notes what each signal says; holds up the first until it may go on."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.contexts: list[str] = []
        self.may_go_on = asyncio.Event()

    async def hear(self, signal, **details):
        self.contexts.append(SEEN.get())
        self.told.append(details.get("reason") or details.get("edge") or details.get("error") or "regained")
        await self.may_go_on.wait()


@pytest.fixture
async def receiver():
    receiver = Receiver()
    names = [name for name in dir(signals) if name.startswith(("capacity_", "ledger_", "connection_"))]
    assert len(names) == 8
    with listening(*((getattr(signals, name), receiver.hear) for name in names)):
        yield receiver
        receiver.may_go_on.set()


@pytest.fixture
def events(admission, monkeypatch):
    """The events of a limiter in a process with a sender of its own; three may wait."""
    monkeypatch.setattr(dispatch, "MOST_WAITING", 3)
    monkeypatch.setattr(dispatch, "sender", Sender())

    def make(**keys) -> Events:
        settings, counters = admission(**keys), Counter()
        return Events(settings.pool("default"), settings.alerts, counters, Faults("a pool", counters))

    return make


def refuse(events, *reasons):
    for reason in reasons:
        events.tell_verdict(Refusal(reason, 1.0), WORKER)


async def test_a_flood_of_verdicts_drops_no_news_of_the_pool(events, receiver):
    events = events()
    refuse(events, "first")
    await eventually(lambda: receiver.told)
    refuse(events, *"abcdefg")
    events.level(WARNING, WORKER)
    events.ledger_lost("gone", WORKER)
    refuse(events, *"hij")
    receiver.may_go_on.set()
    await eventually(lambda: events._task is None)
    assert receiver.told == ["first", WARNING, "gone", "a"]
    assert events._counters == {"events.dropped": 9}


async def test_news_beyond_the_bound_are_dropped_where_only_news_wait(events, receiver):
    events = events()
    events.level(WARNING, WORKER)
    await eventually(lambda: receiver.told)
    for _ in range(2):
        events.ledger_lost("gone", WORKER)
        events.ledger_regained(WORKER)
    receiver.may_go_on.set()
    await eventually(lambda: events._task is None)
    assert receiver.told == [WARNING, "gone", "regained", "gone"]
    assert events._counters == {"events.dropped": 1}


async def test_verdicts_and_news_each_keep_their_order(events, receiver):
    events = events()
    receiver.may_go_on.set()
    for _ in range(2):
        refuse(events, "a")
        events.level(WARNING, WORKER)
        events.level(FULL, WORKER)
        await eventually(lambda: events._task is None)
        refuse(events, "b", "c")
        events.level(CALM, WORKER)
        await eventually(lambda: events._task is None)
    assert receiver.told == [WARNING, FULL, "a", CALM, "b", "c"] * 2
    assert not events._counters


async def test_drops_are_logged_once_until_all_that_waited_is_told(events, receiver, caplog):
    events = events()
    for dropped in (5, 10):
        receiver.may_go_on.clear()
        told = len(receiver.told)
        refuse(events, "first")
        await eventually(lambda told=told: len(receiver.told) > told)
        refuse(events, *"abcdefgh")
        receiver.may_go_on.set()
        await eventually(lambda: events._task is None)
        assert events._counters == {"events.dropped": dropped}
    line = "Receivers of signals are too slow: events of pool 'default' are dropped."
    assert caplog.messages == [line] * 2


async def test_alerts_that_the_sender_has_no_room_for_are_counted_and_logged_once(events, caplog, monkeypatch):
    monkeypatch.setattr("channels_admission.events.webhook.MOST_WAITING", 1)
    monkeypatch.setattr(dispatch, "sender", Sender())
    monkeypatch.setattr(dispatch.sender, "_run", lambda: None)
    events = events(ALERTS={"MAIL_ADMINS": True, "LEDGER": True})
    for _ in range(3):
        events.ledger_lost("gone", WORKER)
    events.ledger_regained(WORKER)
    assert events._counters == {"events.dropped": 3}
    assert caplog.messages == ["Mail or webhook is too slow: alerts of pool 'default' are dropped."]
    assert dispatch.sender._waiting.get_nowait().text == f"Worker {WORKER.id} has lost the ledger for pool 'default'."


async def test_a_receiver_sees_nothing_of_the_handshake_that_came_first(events, receiver):
    events = events()
    receiver.may_go_on.set()
    token = SEEN.set("a handshake")
    refuse(events, "full")
    SEEN.reset(token)
    await eventually(lambda: receiver.contexts)
    assert receiver.contexts == ["nothing"]


async def test_receivers_have_half_a_second_when_a_limiter_ends(events, receiver):
    events = events()
    refuse(events, "a", "b")
    started = time.monotonic()
    await events.aclose()
    assert 0.5 <= time.monotonic() - started < 5
    assert receiver.told == ["a"]
    receiver.may_go_on.set()
    refuse(events, "c")
    await events.aclose()
    assert receiver.told == ["a", "b", "c"]
    await events.aclose()


async def test_a_receiver_that_never_ends_holds_up_the_next_signal_until_the_deadline(events, receiver, monkeypatch):
    monkeypatch.setattr(dispatch, "DEADLINE", 0.05)
    events = events()
    refuse(events, "a")
    events.level(WARNING, WORKER)
    await eventually(lambda: receiver.told == [WARNING, "a"] and events._task is None)
    assert events._counters == {"fault:TimeoutError": 2}


async def test_what_fails_in_an_event_is_counted_and_breaks_nothing(events, receiver):
    events = events()
    receiver.may_go_on.set()
    events.tell_verdict(Refusal("full", 1.0), None)  # type: ignore[arg-type]
    events.level(None, WORKER)  # type: ignore[arg-type]
    events.ledger_lost("gone", None)  # type: ignore[arg-type]
    events.ledger_regained(None)  # type: ignore[arg-type]
    refuse(events, "full")
    await eventually(lambda: receiver.told == ["full"])
    assert events._counters == {"fault:AttributeError": 4}
