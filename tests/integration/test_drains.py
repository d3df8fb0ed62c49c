"""Drains and alerts of real workers, with real clients."""

import asyncio
import itertools
import os
import re
import signal
import time
import urllib.request
from collections import Counter

import pytest

from channels_admission.controls import adrain
from channels_admission.core.levels import Level
from channels_admission.status.snapshot import collect
from channels_admission.status.values import Health

from demo.servers import SERVING, Workers
from support.clients import Client, enter_many, leave_all, look, shows
from support.waiting import PatientClock, eventually

pytestmark = [pytest.mark.fault, pytest.mark.alone]

KEYS = {"HEARTBEAT": 0.5, "LEASE": 5, "RETRY_AFTER": (1, 60), "MAX_CONNECTIONS": 2000}
HELD_UP = {"uvicorn": True, "daphne": True, "hypercorn": False, "granian": False}
"""Whether SIGTERM can be made to wait for a drain."""


@pytest.fixture
def running(admission, prefix, redis_server):
    """``running(server, count, **keys)``: workers on a port each, and the same settings in force here."""

    def run(server, count, args=(), **keys):
        keys = {**KEYS, "PREFIX": prefix, "LEDGER": redis_server.url, "PRESSURE": {"lag": None}, **keys}
        admission(**keys)
        return Workers(server, count, redis_url=redis_server.url, settings=keys, shared_port=False, args=args)

    return run


async def closed(client: Client) -> tuple[float, int, str]:
    await client.socket.wait_closed()
    return time.monotonic(), client.socket.close_code, client.socket.close_reason


@pytest.mark.parametrize(
    ("held", "seconds"), [(100, 2.0), pytest.param(500, 10.0, marks=pytest.mark.long)], ids=["100", "500"]
)
async def test_a_drained_worker_closes_evenly_and_its_clients_are_back_elsewhere(running, held, seconds, figures):
    with running("uvicorn", 2) as workers:
        clients = await enter_many(held, workers.origins[:1])
        await eventually(lambda: shows(lambda pool: pool.held == held), 10)
        most = held
        (worker,) = [each for each in (await look()).workers if each.held]
        done = False

        async def watch():
            nonlocal most
            while not done:
                most = max(most, (await look()).held)
                await asyncio.sleep(0.05)

        async def come_back(client):
            at, code, reason = await closed(client)
            hint = float(re.fullmatch(r"Service Restart; retry-after=([\d.]+)", reason)[1])
            await asyncio.sleep(hint)
            return at, code, await Client.enter(workers.origins[1])

        watching = asyncio.ensure_future(watch())
        returns = [asyncio.ensure_future(come_back(client)) for client in clients]
        began = time.monotonic()
        async with PatientClock() as clock:
            await adrain(f"{worker.host}:{worker.pid}", by="test", over=seconds)
            ended = await asyncio.wait_for(asyncio.gather(*returns), seconds + 20)
        await eventually(lambda: shows(lambda pool: {each.held for each in pool.workers} == {0, held}), 5)
        done = True
        await watching
        times = sorted(at for at, _, _ in ended)
        highest = max(sum(start <= at < start + 1 for at in times) for start in times)
        assert {code for _, code, _ in ended} == {1012}
        assert highest <= 1.3 * held / seconds
        # A worker hears of it within a heartbeat, and takes the whole time from there on.
        assert times[-1] - times[0] <= seconds + 0.5 + clock.waited
        assert times[-1] - began <= seconds + KEYS["HEARTBEAT"] + 0.5 + clock.waited
        assert all(back.is_open for _, _, back in ended)
        assert most <= held
        figures.note(
            f"`ws_drain` of a worker with {held} sockets over {seconds:g} s",
            "at most 1.3 times the mean in a second, all closed with a heartbeat and half a second more, "
            "all back elsewhere",
            f"{highest} in a second, {times[-1] - began:.1f} s, {sum(back.is_open for *_, back in ended)} back",
        )
        print(f"{held}: {highest} in the worst second of a mean of {held / seconds:g}; {times[-1] - began:.2f} s")
        await leave_all([back for _, _, back in ended])


@pytest.mark.parametrize("server", SERVING)
async def test_sigterm_lets_a_worker_drain_first_where_its_server_can_be_held_up(running, server, figures):
    with running(server, 2, DRAIN_ON_STOP=2) as workers:
        clients = await enter_many(40, workers.origins[:1])
        await eventually(lambda: shows(lambda pool: pool.held == 40), 10)
        began = time.monotonic()
        process = workers.processes[0]
        os.kill(process.pid, signal.SIGTERM)
        ended = await asyncio.wait_for(asyncio.gather(*map(closed, clients)), 15)
        times = sorted(at - began for at, _, _ in ended)
        codes = Counter(code for _, code, _ in ended)
        await asyncio.to_thread(process.wait, 15)
        await eventually(lambda: shows(lambda pool: pool.held == 0), 10)
        print(f"{server}: {codes}, from {times[0]:.2f} to {times[-1]:.2f} s, gone after {time.monotonic() - began:.2f}")
        if HELD_UP[server]:
            assert codes == {1012: 40}
            assert times[-1] - times[0] > 1.5
            assert times[-1] < 3
            assert max(sum(start <= at < start + 1 for at in times) for start in times) <= 1.3 * 20
        else:
            assert times[-1] - times[0] < 1
        figures.note(
            f"SIGTERM for a worker of {server} with 40 sockets, `DRAIN_ON_STOP` 2 s",
            "closed evenly with 1012 before it stops" if HELD_UP[server] else "an ordinary stop",
            f"{', '.join(f'{count} × {code}' for code, count in codes.items())}, from {times[0]:.1f} to "
            f"{times[-1]:.1f} s",
        )


@pytest.mark.parametrize(
    ("server", "limit"),
    [("uvicorn", "--limit-max-requests"), ("gunicorn", "--max-requests")],
    ids=["uvicorn", "gunicorn"],
)
async def test_a_worker_that_is_recycled_for_the_number_of_its_requests_drains_first(running, server, limit, figures):
    """No signal tells of it."""
    with running(server, 1, DRAIN_ON_STOP=2, args=(limit, "3")) as workers:
        clients = await enter_many(40, workers.origins[:1])
        began = time.monotonic()
        for _ in range(3):  # pages: WebSockets do not count
            await asyncio.to_thread(urllib.request.urlopen, f"{workers.origins[0]}/blank/", timeout=5)
        ended = await asyncio.wait_for(asyncio.gather(*map(closed, clients)), 15)
        times = sorted(at - began for at, _, _ in ended)
        assert {(code, reason.partition(";")[0]) for _, code, reason in ended} == {(1012, "Service Restart")}
        assert 1.5 < times[-1] - times[0] < 3
        await eventually(lambda: shows(lambda pool: pool.drained == 40), 10)
        figures.note(
            f"a worker of {server} recycled by `{limit}` with 40 sockets, `DRAIN_ON_STOP` 2 s",
            "closed evenly with 1012 before it stops",
            f"from {times[0]:.1f} to {times[-1]:.1f} s",
        )


async def test_four_workers_tell_of_each_crossing_once(running):
    with running("uvicorn", 4, MAX_CONNECTIONS=40) as workers:
        kept = await enter_many(26, workers.origins)
        await eventually(_is_settled)
        for _ in range(3):
            # Across 70 % and back to 65 %, which is within the band, then below it.
            for _ in range(3):
                more = await enter_many(2, workers.origins)
                await eventually(lambda: shows(lambda pool: pool.held == 28 and pool.alert is Level.WARNING), 10)
                await leave_all(more)
                await eventually(lambda: shows(lambda pool: pool.held == 26), 10)
            await leave_all(kept[24:])
            await eventually(lambda: shows(lambda pool: pool.held == 24 and pool.alert is Level.CALM), 10)
            kept = [*kept[:24], *await enter_many(2, workers.origins)]
            await eventually(lambda: shows(lambda pool: pool.held == 26), 10)
        await leave_all(kept)
        await eventually(lambda: shows(lambda pool: pool.held == 0), 10)
        lines = itertools.chain.from_iterable(log.read_text().splitlines() for log in workers.logs)
        told = Counter(
            match[1]
            for line in lines
            if (match := re.search(r"Pool 'default' (?:has|is) (risen to warning|back at calm)", line))
        )
        assert told == {"risen to warning": 3, "back at calm": 3}


async def _is_settled():
    return (await collect()).ledger.health is Health.OK
