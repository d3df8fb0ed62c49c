"""What a refused client is sent."""

import re

import pytest
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.testing import WebsocketCommunicator
from hypothesis import given
from hypothesis import strategies as st

from channels_admission.consumers import AdmissionMixin
from channels_admission.core.counters import Reason
from channels_admission.core.protocol import Refusal
from channels_admission.exceptions import ConfigurationError
from channels_admission.limiter.connections import refusal
from channels_admission.limiter.registry import close_limiters, limiter_of
from channels_admission.middleware import AdmissionMiddleware

HTTP = {"websocket.http.response": {}}


@pytest.fixture
def messages(admission):
    def sent(scope=None, retry_after=6.2, **keys):
        pool = admission(**keys).pool("default")
        return list(refusal.messages(scope or {}, Refusal(Reason.FULL, retry_after), pool))

    return sent


def test_accept_then_close_with_1013_and_a_hint_in_tenths_of_a_second(messages):
    assert messages() == [
        {"type": "websocket.accept", "subprotocol": None},
        {"type": "websocket.close", "code": 1013, "reason": "Try Again Later; retry-after=6.2"},
    ]


@pytest.mark.parametrize(
    ("requested", "answered"),
    [
        ([], None),
        (["chat.v1"], "chat.v1"),
        (["b", "a"], "b"),
        (["caf\xe9", "a b", "a"], "a"),
        ([""], None),
    ],
)
def test_the_first_requested_subprotocol_is_answered_and_none_invented(messages, requested, answered):
    assert messages({"subprotocols": requested})[0]["subprotocol"] == answered


def test_http_is_503_with_retry_after_where_the_server_offers_it(messages):
    start, body = messages({"extensions": HTTP}, REFUSE_WITH="http")
    assert start["type"] == "websocket.http.response.start"
    assert start["status"] == 503
    assert (b"retry-after", b"7") in start["headers"]
    assert body == {"type": "websocket.http.response.body", "body": b"Try Again Later; retry-after=6.2"}


@pytest.mark.parametrize("extensions", [{}, None])
def test_http_falls_back_to_a_close_where_the_server_does_not(messages, extensions):
    assert messages({"extensions": extensions}, REFUSE_WITH="http")[1]["code"] == 1013


@pytest.mark.parametrize(
    ("told", "setting", "is_passed"),
    [
        ([b"1"], None, True),
        ([b"0"], None, False),
        ([], None, False),
        ([], True, True),
        ([b"0"], True, False),
        ([b"1"], False, False),
        ([b"1", b"0"], None, False),
    ],
)
def test_a_balancer_says_whether_it_tries_another_worker(admission, told, setting, is_passed):
    pool = admission(BALANCER_RETRIES=setting).pool("default")
    headers = [(b"host", b"h"), *((b"admission-retry", value) for value in told)]
    assert refusal.is_passed_on({"extensions": HTTP, "headers": headers}, pool) is is_passed
    assert not refusal.is_passed_on({"extensions": {}, "headers": headers}, pool)


def test_a_refusal_that_is_passed_on_is_503_whatever_the_setting(admission):
    passed = Refusal("draining", 1.2, is_passed=True)
    first, _ = refusal.messages({"extensions": HTTP}, passed, admission().pool("default"))
    assert (first["type"], first["status"]) == ("websocket.http.response.start", 503)
    assert refusal.messages({}, passed, admission().pool("default"))[1]["code"] == 1013


def test_code_and_reason_are_settings(messages):
    assert messages(CLOSE_CODE=4013, CLOSE_REASON="Später")[1] == {
        "type": "websocket.close",
        "code": 4013,
        "reason": "Später; retry-after=6.2",
    }


@given(st.text(max_size=200), st.floats(0.5, 3600))
def test_a_reason_always_fits_a_close_frame_and_keeps_its_hint(text, seconds):
    reason = refusal.close_reason(text.encode(errors="ignore").decode(), seconds)
    assert len(reason.encode()) <= 123
    hint = reason.rpartition("; retry-after=")[2]
    assert re.fullmatch(r"\d{1,4}(\.\d)?", hint)
    assert seconds - 1e-9 <= float(hint) < seconds + 0.1 + 1e-9


class Recorder(AdmissionMixin, AsyncWebsocketConsumer):
    seen: list[str] = []

    async def connect(self):
        self.seen.append("connect")
        await self.accept()

    async def disconnect(self, code):
        self.seen.append("disconnect")


@pytest.mark.parametrize("wrap", [lambda app: app, AdmissionMiddleware], ids=["mixin", "middleware"])
async def test_a_refused_connection_reaches_neither_connect_nor_disconnect(admission, wrap):
    admission(MAX_CONNECTIONS=0)
    Recorder.seen.clear()
    client = WebsocketCommunicator(wrap(Recorder.as_asgi()), "/", subprotocols=["v2", "v1"])
    assert await client.connect() == (True, "v2")
    closed = await client.receive_output()
    assert closed["code"] == 1013
    assert closed["reason"].startswith("Try Again Later; ticket=")
    await client.wait()
    assert Recorder.seen == []
    await close_limiters()


async def test_both_faces_of_one_pool_hold_one_slot_and_of_two_pools_one_each(admission):
    admission(POOLS={"chat": {"MAX_CONNECTIONS": 5}})

    class Chat(Recorder):
        admission_pool = "chat"

    one = WebsocketCommunicator(AdmissionMiddleware(Recorder.as_asgi()), "/")
    await one.connect()
    assert (limiter_of("default").state.held, limiter_of("chat").state.held) == (1, 0)
    two = WebsocketCommunicator(AdmissionMiddleware(Chat.as_asgi()), "/")
    await two.connect()
    assert (limiter_of("default").state.held, limiter_of("chat").state.held) == (2, 1)
    for client in (one, two):
        await client.disconnect()
    assert (limiter_of("default").state.held, limiter_of("chat").state.held) == (0, 0)
    await close_limiters()


async def test_other_scopes_pass_through(admission):
    admission(MAX_CONNECTIONS=0)
    seen = []

    async def application(scope, receive, send):
        seen.append(scope["type"])

    middleware = AdmissionMiddleware(application)
    for kind in ("http", "lifespan"):
        await middleware({"type": kind}, None, None)
    assert seen == ["http", "lifespan"]


async def test_switched_off_nothing_is_counted_or_refused(admission):
    admission(ENABLED=False, MAX_CONNECTIONS=0)
    client = WebsocketCommunicator(AdmissionMiddleware(Recorder.as_asgi()), "/")
    assert await client.connect() == (True, None)
    await client.disconnect()
    assert limiter_of("default").state.counters == {}
    await close_limiters()


def test_an_unknown_pool_is_an_error_that_names_the_nearest(admission):
    admission(POOLS={"chat": {}})
    with pytest.raises(ConfigurationError, match=r"no admission pool 'chats'\. Did you mean 'chat'"):
        AdmissionMiddleware(None, pool="chats")


# Tickets

TICKET = "b-_9" * 6


@pytest.fixture
def with_ticket(admission):
    def sent(scope=None, **keys):
        pool = admission(**keys).pool("default")
        return list(refusal.messages(scope or {}, Refusal(Reason.FULL, 16.31, TICKET), pool))

    return sent


def test_a_ticket_stands_before_the_hint(with_ticket):
    assert with_ticket()[1]["reason"] == f"Try Again Later; ticket={TICKET}; retry-after=16.4"


def test_over_http_it_is_a_header_and_in_the_body(with_ticket):
    start, body = with_ticket({"extensions": HTTP}, REFUSE_WITH="http")
    assert start["headers"] == [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"retry-after", b"17"),
        (b"admission-ticket", TICKET.encode()),
    ]
    assert body["body"] == f"Try Again Later; ticket={TICKET}; retry-after=16.4".encode()


@given(st.text(max_size=200), st.floats(0.5, 3600))
def test_the_text_is_cut_before_the_ticket_and_the_hint(text, seconds):
    reason = refusal.close_reason(text.encode(errors="ignore").decode(), seconds, TICKET)
    assert len(reason.encode()) <= 123
    assert re.search(rf"; ticket={TICKET}; retry-after=\d{{1,4}}(\.\d)?$", reason)
    assert text.encode(errors="ignore").decode().startswith(reason.rpartition("; ticket=")[0])


def test_a_long_text_leaves_room_for_both():
    assert refusal.close_reason("ü" * 60, 3600.0, TICKET) == f"{'ü' * 36}; ticket={TICKET}; retry-after=3600"


def test_a_ticket_is_in_no_description_of_a_refusal():
    assert TICKET not in repr(Refusal(Reason.FULL, 16.31, TICKET))
