"""Who is told what of a pool: signals, the log, mail and a webhook."""

import json
import logging
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from django.core import mail

from channels_admission import signals
from channels_admission.conf.alerts import Recipients, recipients
from channels_admission.conf.validators import Wrong
from channels_admission.core.levels import Edge, Level
from channels_admission.events.alerts import Alerts
from channels_admission.exceptions import LedgerUnavailable
from channels_admission.limiter.registry import close_limiters, limiter_of

from conftest import eventually

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


async def test_a_receiver_that_fails_or_blocks_harms_nobody(caplog):
    heard, loop_thread = [], threading.current_thread()
    release = threading.Event()

    def fails(**facts):
        raise ValueError("a receiver's own")

    def blocks(**facts):
        heard.append(threading.current_thread() is loop_thread)
        release.wait(5)

    async def listens(**facts):
        heard.append(facts["edge"])

    alerts = Alerts("default", Recipients())
    with (
        listening(signals.capacity_warning, fails),
        listening(signals.capacity_warning, blocks),
        listening(signals.capacity_warning, listens),
    ):
        alerts.tell(WARNING, "w")
        await eventually(lambda: heard)
        release.set()
        await eventually(lambda: len(heard) == 2)
        await alerts.aclose()
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


class Hook(BaseHTTPRequestHandler):
    posted: list = []
    status = 204

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.posted.append((self.headers["Content-Type"], json.loads(body)))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hook():
    Hook.posted.clear()
    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


async def test_a_webhook_gets_json_and_the_admins_a_mail(hook, admins):
    alerts = Alerts("default", recipients({"MAIL_ADMINS": True, "WEBHOOK": hook}))
    alerts.lose("web-1:7:ab", "gone")
    alerts.tell(WARNING, "web-1:7:ab")
    text = "Pool 'default' is warning: 70 of 100 slots held."
    await eventually(lambda: Hook.posted and mail.outbox)
    assert Hook.posted == [
        ("application/json", {
            "event": "capacity_warning", "pool": "default", "before": "calm", "level": "warning", "held": 70,
            "limit": 100, "worker": "web-1:7:ab", "text": text,
        })
    ]  # fmt: skip
    assert [message.subject for message in mail.outbox] == [f"[Django] {text}"]


async def test_the_loss_of_the_ledger_is_sent_only_where_it_is_wanted(hook):
    alerts = Alerts("default", recipients({"WEBHOOK": hook, "LEDGER": True}))
    alerts.lose("web-1:7:ab", "gone")
    alerts.regain("web-1:7:ab")
    await eventually(lambda: len(Hook.posted) == 2)
    assert [body["event"] for _, body in Hook.posted] == ["ledger_lost", "ledger_regained"]


async def test_a_webhook_that_fails_is_logged_without_its_address_and_the_next_is_sent(hook, caplog, unused_tcp_port):
    dead = f"http://127.0.0.1:{unused_tcp_port}/secret"
    Alerts("default", Recipients(webhook=dead)).tell(WARNING, "w")
    Alerts("default", Recipients(webhook=hook)).tell(WARNING, "w")
    await eventually(lambda: Hook.posted)
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert line.getMessage() == "An alert could not be sent: URLError"


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
