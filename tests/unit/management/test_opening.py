"""Connections that a command opens: how many at most, to which host, and that they are closed in every case."""

import asyncio
from contextlib import asynccontextmanager, nullcontext

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from channels_admission.management import opening
from channels_admission.management.opening import AT_ONCE, FIRST, Plan, Stopped, host_of, is_loopback, measure

from support.footprints import told

TIMEOUT = 5.0


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(opening, "SHOWN", 0.0)
    monkeypatch.setattr(opening, "PAUSE", 0.0)
    monkeypatch.setattr(opening, "LOOK", 0.001)
    monkeypatch.setattr(opening, "ANSWERED", 0.05)


class Site:
    """A server that echoes, and what it has seen; ``free`` are the slots of a pool that it alone fills."""

    def __init__(self, free: int = 10_000, *, answers: bool = True, closes_after: int = 10_000) -> None:
        self.url = ""
        self.headers: list = []
        self.messages: list[str] = []
        self.open = self.most = 0
        self._free, self._answers, self._closes_after = free, answers, closes_after

    async def handle(self, socket) -> None:
        self.headers.append(socket.request.headers)
        if len(self.headers) > self._closes_after:
            await socket.close(1013, "Try Again Later")
            return
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            async for message in socket:
                self.messages.append(message)
                if self._answers:
                    await socket.send(message)
        except ConnectionClosed:
            pass
        finally:
            self.open -= 1

    async def room(self) -> int:
        return self._free - self.open

    async def read(self):
        return (told(now=self.open, silence=-1.0),)

    @asynccontextmanager
    async def serving(self):
        async with serve(self.handle, "127.0.0.1", 0) as server:
            self.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws/"
            yield self
            async with asyncio.timeout(TIMEOUT):
                while self.open:
                    await asyncio.sleep(0.001)


async def test_the_workers_are_read_with_the_first_connections_and_with_all():
    async with Site().serving() as site:
        before, after = await measure(Plan(site.url, 100), site.room, site.read, TIMEOUT)
        assert [each.footprint.now.connections for each in (*before, *after)] == [FIRST, 100]
    assert (site.open, site.most, site.messages) == (0, 100, [])


async def test_each_sends_what_it_is_told_as_often_as_it_is_told_with_the_headers_of_a_page():
    async with Site().serving() as site:
        plan = Plan(site.url, 30, [("Cookie", "sessionid=1")], "hello", times=3)
        await measure(plan, site.room, site.read, TIMEOUT)
    assert site.messages == ["hello"] * 90
    assert {(headers["Origin"], headers["Cookie"]) for headers in site.headers} == {
        (site.url.replace("ws:", "http:").removesuffix("/ws/"), "sessionid=1")
    }
    assert all("permessage-deflate" in headers["Sec-WebSocket-Extensions"] for headers in site.headers)


async def test_what_a_consumer_sends_beside_its_answer_is_read_so_that_each_close_is_answered(monkeypatch):
    monkeypatch.setattr(opening, "CLOSED", 10 * TIMEOUT)
    codes = []

    async def talk(socket):
        async for _ in socket:
            for each in range(100):
                await socket.send(str(each))
        codes.append(socket.close_code)

    async with serve(talk, "127.0.0.1", 0) as server, asyncio.timeout(TIMEOUT):
        site = Site()
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws/"
        await measure(Plan(url, 30, message="hello"), site.room, site.read, TIMEOUT)
    assert codes == [1000] * 30


async def test_the_connections_of_a_blocked_worker_are_closed_together(monkeypatch):
    closing = most = 0
    close = ClientConnection.close

    async def counted(self, *args):
        nonlocal closing, most
        closing += 1
        most = max(most, closing)
        try:
            await close(self, *args)
        finally:
            closing -= 1

    monkeypatch.setattr(ClientConnection, "close", counted)
    async with Site().serving() as site:
        await measure(Plan(site.url, 30), site.room, site.read, TIMEOUT)
    assert most == AT_ONCE


async def test_a_consumer_that_never_answers_is_measured_as_well():
    async with Site(answers=False).serving() as site:
        await measure(Plan(site.url, 30, message="hello", times=3), site.room, site.read, TIMEOUT)
    assert site.messages == ["hello"] * 30


@pytest.mark.parametrize(("free", "opened"), [(199, 0), (200, 100), (10_000, 100)])
async def test_more_than_half_of_the_free_room_is_not_even_begun(free, opened):
    async with Site(free).serving() as site:
        with nullcontext() if opened else pytest.raises(Stopped, match=f"^0 connections were opened, and {free} slots"):
            await measure(Plan(site.url, 100), site.room, site.read, TIMEOUT)
    assert (site.most, site.open) == (opened, 0)


async def test_room_that_others_take_meanwhile_ends_it():
    async with Site(1000).serving() as site:

        async def room():
            return 1000 - site.open if site.open < 60 else 79

        why = "^60 connections were opened, and 79 slots are free: at most 50% of a pool's free room is used.$"
        with pytest.raises(Stopped, match=why):
            await measure(Plan(site.url, 100), room, site.read, TIMEOUT)
    assert (site.most, site.open) == (60, 0)


async def test_it_waits_while_a_monitor_refuses_and_not_for_ever():
    async with Site().serving() as site:
        answers = [None, None, 1000]

        async def room():
            return answers.pop(0) if len(answers) > 1 else answers[0]

        await measure(Plan(site.url, 100), room, site.read, TIMEOUT)
        answers[:] = [1000, None]
        with pytest.raises(Stopped, match=r"^A monitor of a worker refuses connections\.$"):
            await measure(Plan(site.url, 100), room, site.read, 0.01)
    assert site.open == 0


async def test_connections_that_the_site_closes_end_it():
    async with Site(closes_after=50).serving() as site:
        with pytest.raises(Stopped, match=r"^50 of 100 connections were closed, with 1013 'Try Again Later'\.$"):
            await measure(Plan(site.url, 100, message="hello"), site.room, site.read, TIMEOUT)


async def test_nobody_at_the_address_ends_it(unused_tcp_port):
    with pytest.raises(Stopped, match=r"was not opened: .*Connect call failed"):
        await measure(Plan(f"ws://127.0.0.1:{unused_tcp_port}/", 100), Site().room, Site().read, TIMEOUT)


async def test_a_worker_that_does_not_report_ends_it():
    async def read():
        return (told(silence=60.0),)

    async with Site().serving() as site:
        with pytest.raises(Stopped, match="Not every worker has reported in time"):
            await measure(Plan(site.url, 100), site.room, read, 0.05)
    assert site.most == FIRST


@pytest.mark.parametrize(
    ("url", "host", "near"),
    [
        ("ws://127.0.0.1:8000/ws/", "127.0.0.1", True), ("wss://[::1]/", "::1", True),
        ("ws://localhost/", "localhost", True),
        ("ws://127.9.9.9/", "127.9.9.9", True), ("wss://example.org/ws/", "example.org", False),
        ("ws://localhost.example.org/", "localhost.example.org", False), ("ws://10.0.0.1/", "10.0.0.1", False),
        ("ws://127.0.0.1@example.org/", "example.org", False),
    ],
)  # fmt: skip
def test_the_host_of_a_url(url, host, near):
    assert (host_of(url), is_loopback(host)) == (host, near)


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "127.0.0.1:8000", "ws:///path", ""])
def test_another_url_is_an_error(url):
    with pytest.raises(ValueError, match="is not the URL of a WebSocket"):
        host_of(url)
