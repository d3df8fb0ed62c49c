"""The adapter for gql, as it stands in the documentation, with gql itself."""

import ast
import asyncio
import json
import re
import time
from urllib.request import urlopen

from gql import Client
from gql.transport.common.adapters.websockets import WebSocketsAdapter
from gql.transport.exceptions import TransportConnectionFailed
from gql.transport.websockets import WebsocketsTransport

from benchmarks.foreign.measuring import Seen
from channels_admission.client import connections

from demo.servers import Workers
from support import ROOT
from support.waiting import eventually

APPLICATION = "benchmarks.foreign.application:application"
"""Speaks as much of GraphQL over WebSocket as a client waits for, and records its attempts."""
GIVEN = {
    each.__name__: each
    for each in (Client, TransportConnectionFailed, WebSocketsAdapter, WebsocketsTransport, asyncio, connections)
}
"""What the lines of the page import."""
ADAPTER = re.compile(r"```python\n(class AdmittedAdapter.*?)```", re.DOTALL)


def attempts(origin: str) -> list[dict]:
    with urlopen(f"{origin}/seen/") as answer:
        return json.load(answer).get("gql", [])


async def connected(url: str):
    """Run the lines of the page. Gives gql's session."""
    (lines,) = ADAPTER.findall((ROOT / "docs" / "clients.md").read_text())
    names = {**GIVEN, "url": url}
    await eval(compile(lines, "clients.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    return names["session"]


async def test_gql_waits_as_told_keeps_its_place_and_gets_in(redis_server, prefix):
    settings = {
        "LEDGER": redis_server.url,
        "PREFIX": prefix,
        "POOLS": {"gql": {"MAX_CONNECTIONS": 1, "RETRY_AFTER": (1, 2)}},
    }
    env = {"FOREIGN_MODULES": "", "PYTHONPATH": f"{ROOT}:{ROOT / 'testproject'}"}
    workers = Workers("uvicorn", 1, redis_url=redis_server.url, settings=settings, application=APPLICATION, env=env)
    with workers as running:
        url = running.origin.replace("http", "ws", 1) + "/ws/gql/"
        holding = connections(f"{url}?holder")
        holder = await anext(holding)
        await holder.send("here")
        await holder.recv()
        connecting = asyncio.ensure_future(connected(url))
        await eventually(lambda: len(attempts(running.origin)) > 2, 15)
        await holding.aclose()
        session = await asyncio.wait_for(connecting, 15)
        seen = Seen(attempts(running.origin), time.time())
        await session.client.close_async()
    assert seen.heeds
    assert [attempt["ticket"] for attempt in seen.attempts] == [False] + [True] * (len(seen.attempts) - 1)
    assert [attempt["admitted"] for attempt in seen.attempts] == [False] * (len(seen.attempts) - 1) + [True]
