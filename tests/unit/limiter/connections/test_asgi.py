"""What our side closes over HTTP/2 waits for the client's answer, and no longer than its deadline."""

import asyncio
import time

import pytest

from channels_admission.limiter.connections import asgi
from channels_admission.limiter.registry import close_limiters, limiter_of
from channels_admission.middleware import AdmissionMiddleware

CONNECT = {"type": "websocket.connect"}
TEXT = {"type": "websocket.receive", "text": "still here"}
DISCONNECT = {"type": "websocket.disconnect", "code": 1013}


async def closes(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close"})


async def listens(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def last_words(application, version: str, *answers, then=lambda: None) -> tuple[float, int]:
    """Seconds from the last message sent to the return of the application, and how many events were left unheard."""
    events: asyncio.Queue = asyncio.Queue()
    closed = asyncio.Event()
    events.put_nowait(CONNECT)

    async def send(message):
        if message["type"] in ("websocket.close", "websocket.http.response.body"):
            closed.set()

    scope = {"type": "websocket", "path": "/", "http_version": version, "extensions": {"websocket.http.response": {}}}
    task = asyncio.ensure_future(AdmissionMiddleware(application)(scope, events.get, send))
    await asyncio.sleep(0.05)
    then()
    await asyncio.wait_for(closed.wait(), 5)
    said = time.monotonic()
    await asyncio.sleep(0.02)
    for answer in answers:
        events.put_nowait(answer)
    await asyncio.wait_for(task, 5)
    await close_limiters()
    return time.monotonic() - said, events.qsize()


@pytest.fixture(params=["close", "http"])
def refusing(admission, request):
    admission(MAX_CONNECTIONS=0, REFUSE_WITH=request.param, LEDGER_TIMEOUT=4)


async def test_a_refusal_over_http_2_waits_for_the_answer(refusing):
    assert (await last_words(closes, "2", TEXT, DISCONNECT))[1] == 0


async def test_it_waits_no_longer_than_its_deadline(refusing, monkeypatch):
    monkeypatch.setattr(asgi, "ANSWER_TIMEOUT", 0.3)
    seconds, _ = await last_words(closes, "2")
    assert seconds >= 0.25


async def test_a_refusal_over_http_1_does_not_wait(refusing):
    assert (await last_words(closes, "1.1", TEXT))[1] == 1


async def test_a_close_of_the_application_waits_for_the_answer_without_its_slot(admission):
    admission(LEDGER_TIMEOUT=4)
    held: list[int] = []
    _, unheard = await last_words(
        closes, "2", TEXT, DISCONNECT, then=lambda: held.append(limiter_of("default").state.held)
    )
    assert unheard == 0
    assert held == [0]


async def test_so_does_an_end_from_our_side(admission):
    admission(LEDGER_TIMEOUT=4)
    assert (await last_words(listens, "2", TEXT, DISCONNECT, then=lambda: limiter_of("default").drain(0)))[1] == 0


async def test_a_client_that_left_is_not_waited_for(admission):
    admission(LEDGER_TIMEOUT=4)
    events: asyncio.Queue = asyncio.Queue()
    for event in (CONNECT, DISCONNECT, TEXT):
        events.put_nowait(event)

    async def send(message):
        pass

    await AdmissionMiddleware(listens)({"type": "websocket", "http_version": "2"}, events.get, send)
    assert events.qsize() == 1
    await close_limiters()


async def test_a_wait_that_is_cancelled_by_the_server_ends(monkeypatch):
    waiting = asyncio.ensure_future(asgi.answered(asyncio.Event().wait))
    await asyncio.sleep(0.02)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
