"""A worker that is stopped gives its slots back at once: on every server, with a lifespan and without."""

import asyncio
import os
import signal
import time

import pytest

from channels_admission.ledger import open_ledger

from demo.servers import Workers
from support.clients import enter_many, look, shows
from support.reports import Reporter
from support.waiting import eventually

LIMIT = 50
PLAIN, MOUNTED, FULL = "project.plain:application", "project.mounted:application", "project.asgi:application"
TWO = ("--workers", "2")
STOPS = {
    "uvicorn": ("uvicorn", (), PLAIN, 20),
    "uvicorn, mounted": ("uvicorn", (), MOUNTED, 20),
    "uvicorn, two": ("uvicorn", TWO, PLAIN, 20),
    "gunicorn, two": ("gunicorn", TWO, PLAIN, 20),
    # The one that holds nothing ends first, and the other is then killed.
    "hypercorn, two": ("hypercorn", TWO, PLAIN, 1),
    "hypercorn, two, lifespan": ("hypercorn", TWO, FULL, 1),
    "granian": ("granian", (), PLAIN, 20),
}
"""Server, arguments, application, and how many connections are open when it is stopped."""
TRIES = 6
"""Granian 2.8 crashes now and then while it ends its sockets, before it says that it stops."""


@pytest.mark.parametrize("stop", STOPS)
async def test_a_stop_leaves_nothing_counted(admission, prefix, redis_server, stop):
    for attempt in range(TRIES):
        if await _stop(admission, f"{prefix}-{attempt}", redis_server, *STOPS[stop]):
            break
    else:
        pytest.fail(f"granian crashed in {TRIES} stops of {TRIES}")


async def _stop(admission, prefix, redis_server, server, args, application, held):
    """Hold a server to its goodbye; False where it crashed by itself on the way."""
    keys = {"MAX_CONNECTIONS": LIMIT, "PREFIX": prefix, "LEDGER": redis_server.url, "PRESSURE": {"lag": None}}
    settings = admission(**keys)
    with Workers(server, 1, redis_url=redis_server.url, settings=keys, args=args, application=application) as running:
        clients = await enter_many(held, running.origins)
        assert len([client for client in clients if client.is_open]) == held
        await eventually(lambda: shows(lambda pool: pool.held == held))
        assert {each.server for each in (await look()).workers if each.held} == {server.replace("gunicorn", "uvicorn")}
        (process,) = running.processes
        os.kill(process.pid, signal.SIGTERM)
        await asyncio.gather(*(client.socket.wait_closed() for client in clients))
        await asyncio.to_thread(process.wait, 10)
        ended = time.monotonic()
        if server == "granian" and "panicked" in running.log():
            return False
        # No neighbour is left to miss it: what says that it has gone is its own goodbye, or the lease after 30 s.
        await eventually(lambda: shows(lambda pool: pool.held == 0 and pool.workers == ()), 40)
        assert time.monotonic() - ended < 1
    ledger = open_ledger(settings)
    assert (await Reporter(ledger, "ab", limit=LIMIT).say(wanted=LIMIT)).granted == LIMIT
    await ledger.aclose()
    return True
