"""Connections end at their maximum age, and the slots with them."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.testing import WebsocketCommunicator

from channels_admission.limiter.connections import connection
from channels_admission.limiter.registry import close_limiters, limiter_of
from channels_admission.middleware import AdmissionMiddleware

from demo.servers import SERVING, Workers
from support.clients import enter_many, shows
from support.waiting import eventually

CLOSE = {"type": "websocket.close", "code": 1012, "reason": "Service Restart; retry-after=1"}


class Told(AsyncWebsocketConsumer):
    codes: list[int] = []

    async def disconnect(self, code):
        self.codes.append(code)


class ToldInAThread(WebsocketConsumer):
    codes: list[int] = []

    def disconnect(self, code):
        self.codes.append(code)


@pytest.fixture(autouse=True)
def _in_force(admission, monkeypatch):
    admission(MAX_CONNECTION_AGE=1, RETRY_AFTER=(1, 1))
    monkeypatch.setattr(connection, "GRACE", 0.2)


@pytest.mark.parametrize("consumer", [Told, ToldInAThread])
async def test_a_consumer_is_told_and_its_slot_is_free(consumer):
    consumer.codes.clear()
    client = WebsocketCommunicator(AdmissionMiddleware(consumer.as_asgi()), "/")
    await client.connect()
    began = time.monotonic()
    assert await client.receive_output(timeout=3) == CLOSE
    assert 0.85 <= time.monotonic() - began <= 1.3
    await client.wait()
    assert consumer.codes == [1012]
    assert limiter_of("default").state.held == 0
    await close_limiters()


async def test_an_application_that_does_not_listen_is_cancelled_after_its_grace():
    ended = []

    async def application(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(scope["path"])

    client = WebsocketCommunicator(AdmissionMiddleware(application), "/deaf")
    await client.connect()
    assert await client.receive_output(timeout=3) == CLOSE
    await client.wait()
    assert ended == ["/deaf"]
    assert limiter_of("default").state.held == 0
    await close_limiters()


@pytest.mark.parametrize("fault", [TimeoutError("from the application"), ValueError("too")])
async def test_the_application_may_raise_what_it_likes(fault):
    async def application(scope, receive, send):
        raise fault

    with pytest.raises(type(fault), match=str(fault)):
        await AdmissionMiddleware(application)({"type": "websocket", "path": "/"}, None, None)
    assert limiter_of("default").state.held == 0
    await close_limiters()


async def test_a_connection_that_ends_before_its_age_is_not_closed_again():
    sent = []

    async def send(message):
        sent.append(message["type"])

    async def application(scope, receive, send):
        await send({"type": "websocket.close"})
        await receive()

    await AdmissionMiddleware(application)({"type": "websocket"}, asyncio.Event().wait, send)
    assert sent == ["websocket.close"]
    await close_limiters()


SILENT = """
import asyncio, sys
from websockets.asyncio.client import connect

async def hold():
    async with connect(sys.argv[1], origin=sys.argv[2], ping_interval=None) as socket:
        await socket.send("pid")
        print(await socket.recv(), flush=True)
        await asyncio.Event().wait()

asyncio.run(hold())
"""


@pytest.mark.integration
@pytest.mark.fault
@pytest.mark.parametrize("server", SERVING)
async def test_a_client_that_fell_silent_frees_its_slot_on_every_server(
    admission, prefix, redis_server, server, figures
):
    keys = {
        "MAX_CONNECTION_AGE": 2,
        "RETRY_AFTER": (1, 1),
        "LEDGER": redis_server.url,
        "PREFIX": prefix,
        "HEARTBEAT": 0.5,
        "LEASE": 5,
    }
    admission(**keys)
    with Workers(server, 1, redis_url=redis_server.url, settings=keys) as running:
        url = running.origin.replace("http", "ws") + "/ws/echo/"
        with subprocess.Popen([sys.executable, "-c", SILENT, url, running.origin], stdout=subprocess.PIPE) as client:
            try:
                assert await asyncio.to_thread(client.stdout.readline)
                opened = time.monotonic()
                os.kill(client.pid, signal.SIGSTOP)
                (awake,) = await enter_many(1, running.origins)
                await eventually(lambda: shows(lambda pool: pool.held == 2))
                await asyncio.wait_for(awake.socket.wait_closed(), 5)
                assert (awake.socket.close_code, awake.socket.close_reason) == (1012, CLOSE["reason"])
                await eventually(lambda: shows(lambda pool: pool.held == 0))
                figures.note(
                    f"a client of {server} falls silent (SIGSTOP), `MAX_CONNECTION_AGE` 2 s",
                    "its slot is free at its age ± 10 % and a grace; one that listens is told 1012",
                    f"{time.monotonic() - opened:.1f} s",
                )
            finally:
                with contextlib.suppress(ProcessLookupError):
                    client.kill()
