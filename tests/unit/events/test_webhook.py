"""The thread that sends alerts by mail and to a webhook."""

import json
import logging
import os
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django.core import mail

from channels_admission import signals
from channels_admission.conf.alerts import Recipients
from channels_admission.core.levels import Edge, Level
from channels_admission.core.protocol import Refusal
from channels_admission.events.dispatch import Events
from channels_admission.events.webhook import sender
from channels_admission.runtime.faults import Faults
from channels_admission.runtime.identity import Worker

from support.signals import listening
from support.waiting import eventually

WARNING = Edge(Level.CALM, Level.WARNING, 70, 100)
WORKER = Worker()


class Hook(BaseHTTPRequestHandler):
    """A webhook that answers: where the path is ``/hang`` once it may, and ``/moved`` with a redirect."""

    posted: list = []
    may_answer = threading.Event()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.posted.append((self.headers["Content-Type"], json.loads(body)))
        if self.path == "/hang":
            self.may_answer.wait(10)
        self.send_response(302 if self.path == "/moved" else 204)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def do_GET(self):
        self.posted.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hook():
    Hook.posted.clear()
    Hook.may_answer.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        Hook.may_answer.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def events(admission):
    def make(**alerts) -> Events:
        settings = admission(ALERTS=alerts)
        return Events(settings.pool("default"), settings.alerts, Counter(), Faults("a pool"))

    return make


async def test_a_webhook_gets_json_and_the_admins_a_mail(events, hook, admins):
    events = events(MAIL_ADMINS=True, WEBHOOK=hook)
    events.ledger_lost("gone", WORKER)
    events.level(WARNING, WORKER)
    text = "Pool 'default' has risen to warning: 70 of 100 slots held."
    await eventually(lambda: Hook.posted and mail.outbox)
    assert Hook.posted == [
        ("application/json", {
            "event": "capacity_warning", "pool": "default", "before": "calm", "level": "warning", "held": 70,
            "limit": 100, "worker": WORKER.id, "text": text,
        })
    ]  # fmt: skip
    assert [message.subject for message in mail.outbox] == [f"[Django] {text}"]


async def test_the_loss_of_the_ledger_is_sent_only_where_it_is_wanted(events, hook):
    events = events(WEBHOOK=hook, LEDGER=True)
    events.ledger_lost("gone", WORKER)
    events.ledger_regained(WORKER)
    await eventually(lambda: len(Hook.posted) == 2)
    ours = {"pool": "default", "worker": WORKER.id}
    assert [body for _, body in Hook.posted] == [
        {"event": "ledger_lost", **ours, "text": f"Worker {WORKER.id} has lost the ledger for pool 'default'."},
        {"event": "ledger_regained", **ours, "text": f"Worker {WORKER.id} has the ledger for pool 'default' again."},
    ]


async def test_a_webhook_that_fails_is_logged_without_its_address_and_mail_and_the_next_are_sent(
    events, hook, admins, caplog, unused_tcp_port
):
    events(MAIL_ADMINS=True, WEBHOOK=f"http://127.0.0.1:{unused_tcp_port}/secret").level(WARNING, WORKER)
    events(WEBHOOK=hook).level(WARNING, WORKER)
    await eventually(lambda: Hook.posted)
    assert len(mail.outbox) == 1
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert line.getMessage() == "An alert could not be sent: URLError"


async def test_a_redirect_is_a_failure_since_the_alert_would_not_be_sent_on(events, hook, caplog):
    events(WEBHOOK=f"{hook}/moved").level(WARNING, WORKER)
    events(WEBHOOK=hook).level(WARNING, WORKER)
    await eventually(lambda: len(Hook.posted) == 2)
    assert [body["event"] for _, body in Hook.posted] == ["capacity_warning"] * 2
    assert "An alert could not be sent: HTTPError 302" in caplog.messages


async def test_a_webhook_that_hangs_holds_up_no_signal(events, hook):
    events, told = events(WEBHOOK=f"{hook}/hang"), []

    def note(signal, **details):
        told.append(details.get("reason") or details["edge"].level)

    with listening((signals.capacity_warning, note), (signals.connection_refused, note)):
        events.level(WARNING, WORKER)
        await eventually(lambda: Hook.posted)
        events.tell_verdict(Refusal("full", 1.0), WORKER)
        events.level(WARNING, WORKER)
        await eventually(lambda: len(told) == 3)
    assert told == ["warning", "warning", "full"]
    assert len(Hook.posted) == 1
    Hook.may_answer.set()
    await eventually(lambda: len(Hook.posted) == 2)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_forked_child_sends_its_own_alerts_and_none_of_its_parent(hook):
    to = Recipients(webhook=f"{hook}/hang")

    def posted() -> Counter:
        return Counter(body["of"] for _, body in Hook.posted)

    assert sender.send(to, "", {"of": "the parent"})
    await eventually(lambda: Hook.posted)
    assert sender.send(to, "", {"of": "the parent, waiting"})
    over, end = os.pipe()
    child = os.fork()
    if not child:
        os.close(end)
        sender.send(Recipients(webhook=hook), "", {"of": "the child"})
        os.read(over, 1)
        os._exit(0)
    await eventually(lambda: len(Hook.posted) == 2)
    assert posted() == {"the parent": 1, "the child": 1}
    Hook.may_answer.set()
    await eventually(lambda: len(Hook.posted) == 3)
    os.close(over)
    os.close(end)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert posted() == {"the parent": 1, "the parent, waiting": 1, "the child": 1}
