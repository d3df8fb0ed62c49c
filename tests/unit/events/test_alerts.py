"""Alerts of a pool's level and its ledger: their signals, their log lines, and the setting ``ALERTS``."""

import threading
from collections import Counter
from contextlib import contextmanager

import pytest

from channels_admission import signals
from channels_admission.conf.alerts import Recipients, recipients
from channels_admission.conf.validators import Wrong
from channels_admission.core.levels import Edge, Level
from channels_admission.events.dispatch import Events
from channels_admission.exceptions import LedgerUnavailable
from channels_admission.limiter.registry import close_limiters, limiter_of
from channels_admission.runtime.faults import Faults
from channels_admission.runtime.identity import Worker

from support.waiting import eventually

WARNING = Edge(Level.CALM, Level.WARNING, 70, 100)


@contextmanager
def listening(signal, receiver):
    signal.connect(receiver, weak=False)
    try:
        yield
    finally:
        signal.disconnect(receiver)


async def test_every_edge_has_its_signal_and_its_line(admission, caplog):
    admission(MAX_CONNECTIONS=10, HEARTBEAT=0.1, LEASE=1)
    heard = []

    def hear(name):
        def receiver(sender, **facts):
            heard.append((name, facts["pool"], facts["edge"], facts["worker"] == limiter.state.worker.id))

        return listening(getattr(signals, f"capacity_{name}"), receiver)

    limiter = limiter_of("default")
    with hear("warning"), hear("critical"), hear("full"), hear("recovered"):
        slots = [await limiter.acquire() for _ in range(10)]
        await eventually(lambda: len(heard) == 3)
        for slot in slots:
            slot.release()
        await eventually(lambda: heard[-1][0] == "recovered" and heard[-1][2].level is Level.CALM)
    assert [name for name, *_ in heard[:3]] == ["warning", "critical", "full"]
    assert {(pool, ours) for _, pool, _, ours in heard} == {("default", True)}
    assert "Pool 'default' is warning: 7 of 10 slots held." in caplog.messages
    assert "Pool 'default' is back at calm: 0 of 10 slots held." in caplog.messages
    await close_limiters()


async def test_a_receiver_that_fails_or_blocks_harms_nobody(admission, caplog):
    heard, loop_thread = [], threading.current_thread()
    release = threading.Event()

    def fails(**facts):
        raise ValueError("a receiver's own")

    def blocks(**facts):
        heard.append(threading.current_thread() is loop_thread)
        release.wait(5)

    async def listens(**facts):
        heard.append(facts["edge"])

    settings = admission()
    events = Events(settings.pool("default"), settings.alerts, Counter(), Faults("a pool"))
    with (
        listening(signals.capacity_warning, fails),
        listening(signals.capacity_warning, blocks),
        listening(signals.capacity_warning, listens),
    ):
        events.level(WARNING, Worker())
        await eventually(lambda: heard)
        release.set()
        await eventually(lambda: len(heard) == 2)
        await events.aclose()
    assert {*heard} == {False, WARNING}
    assert caplog.messages[0] == "Pool 'default' is warning: 70 of 100 slots held."


async def test_a_ledger_lost_and_regained_is_told_by_each_worker(admission):
    admission(HEARTBEAT=0.1, LEASE=1)
    heard = []
    limiter = limiter_of("default")
    await eventually(lambda: limiter.state.controls is not None and limiter.calls)
    real = limiter._ledger.reconcile

    async def away(pool, report):
        raise LedgerUnavailable("the road is closed")

    with (
        listening(signals.ledger_lost, lambda **facts: heard.append(("lost", facts["pool"], facts["error"]))),
        listening(signals.ledger_regained, lambda **facts: heard.append(("regained", facts["pool"]))),
    ):
        limiter._ledger.reconcile = away
        await eventually(lambda: limiter.state.away)
        limiter._ledger.reconcile = real
        await eventually(lambda: len(heard) == 2)
    assert heard == [("lost", "default", "the road is closed"), ("regained", "default")]
    await close_limiters()


@pytest.mark.parametrize(
    ("value", "must"),
    [
        (None, "a dict of MAIL_ADMINS, WEBHOOK, LEDGER"),
        ({"MAIL": True}, "a dict of MAIL_ADMINS, WEBHOOK, LEDGER. 'MAIL' is unknown."),
        (
            {"WEBHOK": ""},
            "a dict of MAIL_ADMINS, WEBHOOK, LEDGER. 'WEBHOK' is unknown. Did you mean 'WEBHOOK'?",
        ),
        ({"https://a/token": True}, "a dict of MAIL_ADMINS, WEBHOOK, LEDGER. One of its keys is unknown."),
        ({"MAIL_ADMINS": 1}, "a dict in which MAIL_ADMINS and LEDGER are True or False"),
        ({"LEDGER": None}, "a dict in which MAIL_ADMINS and LEDGER are True or False"),
        *(
            ({"WEBHOOK": value}, "a dict in which WEBHOOK is a URL that begins with https:// or http://")
            for value in (
                "ftp://a",
                5,
                "https://",
                "http://[::1",
                "file:///etc/passwd",
                "https://user:pass@a/",
                "https://a:b/x",
                "https://a/\n",
            )
        ),
    ],
)
def test_recipients_that_are_none(value, must):
    with pytest.raises(Wrong) as wrong:
        recipients(value)
    assert f"{wrong.value}. {wrong.value.why}".startswith(must)


def test_recipients_are_told_by_the_settings(admission):
    assert admission().alerts == Recipients()
    keys = {"MAIL_ADMINS": True, "WEBHOOK": "https://example.org/x", "LEDGER": True}
    assert admission(ALERTS=keys).alerts == Recipients(True, "https://example.org/x", True)
