"""Tickets with real servers: one is good once for all workers, forged ones take no place, and none is logged."""

import asyncio
import re

import pytest

from channels_admission import conf
from channels_admission.core.herd.tickets import Signer, Ticket

from demo.servers import Workers
from support.clients import Client, enter_many, leave_all, look, shows
from support.waiting import eventually

LIMIT = 8
TICKET = re.compile(r"; ticket=([\w-]{24}); retry-after=([\d.]+)$")


@pytest.fixture
def workers(admission, prefix, redis_server):
    keys = {
        "MAX_CONNECTIONS": LIMIT, "LEDGER": redis_server.url, "PREFIX": prefix, "HEARTBEAT": 0.5, "LEASE": 5,
        "RETRY_AFTER": (1, 60),
    }  # fmt: skip
    admission(**keys)
    with Workers("uvicorn", 4, redis_url=redis_server.url, settings=keys) as running:
        yield running


def show(ticket: str) -> str:
    return f"/ws/echo/?admission_ticket={ticket}"


async def test_one_ticket_shown_a_hundred_times_at_once_on_four_workers_admits_one(workers):
    inside = await enter_many(LIMIT, workers.origins)
    assert all(client.is_open for client in inside)
    refused = await enter_many(4, workers.origins)
    shown = [TICKET.search(client.reason) for client in refused]
    ticket = min(shown, key=lambda found: float(found[2]))[1]
    await asyncio.sleep(max(float(found[2]) for found in shown))
    await leave_all(inside[:1])
    await eventually(lambda: shows(lambda pool: pool.held == LIMIT - 1))
    copies = await enter_many(100, workers.origins, path=show(ticket))
    assert sum(client.is_open for client in copies) == 1
    await eventually(lambda: shows(lambda pool: (pool.held, pool.redeemed) == (LIMIT, 1)))
    await leave_all([client for client in inside[1:] + copies if client.is_open])


async def test_forged_tickets_take_no_place(workers):
    inside = await enter_many(LIMIT, workers.origins)
    forged = ["A" * 24, Signer("other", conf.ticket_secrets()).write(Ticket(0.0, 0.0, 1)), "x" * 5000, "%00"]
    clients = [await Client.enter(workers.origin, show(ticket)) for ticket in forged]
    assert {client.code for client in clients} == {1013}
    assert (await look()).redeemed == 0
    await leave_all(inside)


BY_SCOPE = ["/ws/echo/?room=1", "/ws/echo/?room=1", "/ws/echo/"]
BY_PATH = ["/ws/echo/"] * 3


@pytest.mark.parametrize(
    ("server", "args", "line", "logged"),
    [
        pytest.param("uvicorn", [], r'"WebSocket (\S+)" \[accepted\]', BY_SCOPE, id="uvicorn"),
        pytest.param("uvicorn", ["--ws", "wsproto"], r'"WebSocket (\S+)" \[accepted\]', BY_SCOPE, id="wsproto"),
        pytest.param(
            "hypercorn", ["--access-logfile", "-", "--access-logformat", "%(R)s"], r"GET (\S+) ", BY_SCOPE,
            id="hypercorn",
        ),
        pytest.param("daphne", ["--access-log", "-"], r'"WSCONNECT (\S+)"', BY_PATH, id="daphne"),
        pytest.param("granian", ["--access-log"], r'"- (\S+) HTTP/1.1" 101', BY_PATH, id="granian"),
    ],
)  # fmt: skip
async def test_the_access_log_has_no_ticket(admission, prefix, redis_server, server, args, line, logged):
    """Hypercorn's with a format that has the query, the others' as they are by default."""
    keys = {"MAX_CONNECTIONS": 1, "LEDGER": redis_server.url, "PREFIX": prefix}
    path, options = f"{show('A' * 24)}&room=1", {"redis_url": redis_server.url, "settings": keys, "args": args}
    unbuffered = {"PYTHONUNBUFFERED": "1"}
    with Workers(server, 1, application="project.plain:application", env=unbuffered, **options) as running:
        inside, refused = [await Client.enter(running.origin, path) for _ in range(2)]
        again = await Client.enter(running.origin, show(TICKET.search(refused.reason)[1]))
        assert [client.code for client in (inside, refused, again)] == [None, 1013, 1013]
        await eventually(lambda: re.findall(line, running.log()) == logged)
        assert "ticket" not in running.log()
        await inside.leave()
