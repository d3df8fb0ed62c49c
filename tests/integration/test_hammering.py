"""Clients that ignore the hint of a real server."""

import asyncio

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from channels_admission.limiter.connections import returns

from demo.servers import Workers
from support.clients import Client
from support.waiting import eventually

HAMMERING = 5
"""Clients. Without a hold each makes some hundred attempts a second."""
WATCHED = 3.0
"""Seconds, fewer than the shortest hold."""
PROGRAM, PAGE = "websockets", "Mozilla/5.0 (X11; Linux x86_64)"
MOST = {PROGRAM: 2, PAGE: 4}
"""Attempts of each client within that time, the last one held. A page on a busy machine does not come at once."""
LATE = 3.0
"""Seconds by which a busy machine may be late."""


class Hammer:
    """A client that connects again whenever it is closed, as ``websockets`` does by default."""

    def __init__(self, origin: str, user_agent: str, number: int) -> None:
        self.origin = origin
        self.user_agent = user_agent
        self.cookie = f"session={number}"
        self.attempts = 0
        self.is_in = False

    async def go_on(self) -> None:
        url = self.origin.replace("http", "ws", 1) + "/ws/echo/"
        headers = {"Cookie": self.cookie}
        options = {"additional_headers": headers, "user_agent_header": self.user_agent, "proxy": None}
        async for client in connect(url, origin=self.origin, **options):
            self.attempts += 1
            try:
                await client.send("hello")
                self.is_in = await client.recv() == "hello"
                return
            except ConnectionClosed:
                continue


@pytest.mark.parametrize(("server", "user_agent"), [("uvicorn", PROGRAM), ("uvicorn", PAGE), ("daphne", PROGRAM)])
async def test_clients_that_come_back_at_once_are_held_and_all_of_them_get_in(redis_server, prefix, server, user_agent):
    settings = {"LEDGER": redis_server.url, "PREFIX": prefix, "MAX_CONNECTIONS": HAMMERING, "RETRY_AFTER": (20, 60)}
    with Workers(server, 1, redis_url=redis_server.url, settings=settings) as running:
        holders = [await Client.enter(running.origin) for _ in range(HAMMERING)]
        hammers = [Hammer(running.origin, user_agent, number) for number in range(HAMMERING)]
        tasks = [asyncio.ensure_future(hammer.go_on()) for hammer in hammers]

        def made() -> int:
            return sum(hammer.attempts for hammer in hammers)

        try:
            await asyncio.sleep(WATCHED)
            # One that is held is not yet open, and does not count.
            assert HAMMERING <= made() < MOST[user_agent] * HAMMERING
            for holder in holders:
                await holder.leave()
            await eventually(lambda: all(hammer.is_in for hammer in hammers), returns.PROGRAM.hold + LATE)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
