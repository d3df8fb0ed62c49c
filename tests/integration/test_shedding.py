"""Real workers in real trouble: who is refused, who is not, and when it is over."""

import asyncio
import json
import re
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from itertools import cycle, pairwise

import psutil
import pytest
from websockets.exceptions import InvalidHandshake

from channels_admission.overload.manager import REFRESH, REST, OverloadManager
from channels_admission.overload.monitors import WINDOW
from channels_admission.overload.trigger import STEADY

from demo.servers import Workers
from support.cgroups import control_group
from support.clients import Client, enter_many, leave_all, look, shows
from support.waiting import eventually

pytestmark = [pytest.mark.fault, pytest.mark.alone]

HEARTBEAT = 0.2
TERMS = {"MAX_CONNECTIONS": 5000, "HEARTBEAT": HEARTBEAT, "LEASE": 5}
MIB = 2**20


@pytest.fixture
def workers(admission, prefix, redis_server):
    """``workers(count, **settings)``: uvicorn workers, a port each, whose ledger this process looks at, too."""

    def start(count: int = 1, launcher=(), **settings):
        keys = {"LEDGER": redis_server.url, "PREFIX": prefix, "PRESSURE": {}, **TERMS, **settings}
        admission(**keys)
        url = redis_server.url
        return Workers("uvicorn", count, redis_url=url, settings=keys, shared_port=False, launcher=launcher)

    return start


@asynccontextmanager
async def crowd(count: int, origin: str, rows: int, pause: float, **options):
    """``count`` clients that stand in ``rows``, or None for each that got no verdict; all leave.

    In each row the next one comes ``pause`` seconds after the verdict on the one before.
    """

    async def come() -> Client | None:
        with suppress(OSError, InvalidHandshake):
            return await Client.enter(origin, **options)

    async def row() -> None:
        for _ in range(count // rows):
            clients.append(await come())
            await asyncio.sleep(pause)

    clients: list[Client | None] = []
    await asyncio.gather(*(row() for _ in range(rows)))
    yield clients
    await leave_all([client for client in clients if client is not None])


async def order(client: Client, **keys) -> None:
    """Give an order to a :class:`demo.load.LoadConsumer`, and wait until it has begun."""
    assert await ask(client, json.dumps(keys)) == "begun"


async def ask(client: Client, text: str) -> str:
    await client.socket.send(text)
    return await asyncio.wait_for(client.socket.recv(), 5)


async def load_of(pid: int, monitor: str):
    """The reading and the pressure of one worker's monitor, as the snapshot shows it."""
    worker = next(worker for worker in (await look()).workers if worker.pid == pid)
    return next(load for load in worker.load if load.name == monitor)


def codes(clients: list[Client]) -> Counter:
    return Counter(client.code for client in clients)


# Lag


async def test_a_worker_whose_loop_is_blocked_refuses_alone_and_recovers(workers, figures):
    block, rest, times = 0.3, 0.1, 12
    with workers(2) as running:
        blocked, free = running.origins
        held = [await Client.enter(origin, "/ws/load/") for origin in running.origins]
        began = time.monotonic()
        await order(held[0], block=block, rest=rest, times=times)
        await asyncio.sleep(WINDOW + 2 * (block + rest))
        lag = await load_of(held[0].pid, "lag")
        assert lag.reading == pytest.approx(block, rel=0.2)
        there, here = await asyncio.gather(enter_many(60, [blocked]), enter_many(60, [free]))
        assert set(codes(there)) == {None, 1013}
        assert 10 <= codes(there)[1013] <= 55
        assert codes(here) == {None: 60}
        assert [await ask(client, "still here") for client in held] == ["still here"] * 2
        await asyncio.sleep(max(0.0, began + times * (block + rest) - time.monotonic()))
        await eventually(lambda: _is_calm(held[0].pid), seconds=2 * WINDOW + REFRESH + HEARTBEAT)
        recovered = time.monotonic() - began - times * (block + rest)
        again = await enter_many(60, [blocked])
        assert codes(again) == {None: 60}
        assert all(client.is_open for client in held + here)
        await eventually(lambda: shows(lambda pool: pool.refused == {"lag": codes(there)[1013]}))
        figures.note(
            "the event loop of one of two workers blocked for 300 ms in every 400",
            "it reads a lag of 0.3 s and refuses a part, the other worker none, and open connections stay",
            f"{lag.reading:.2f} s; {codes(there)[1013]} of 60 refused, {codes(here)[1013]} of 60 at the other",
        )
        figures.note("… when that ends", "all are admitted again within 4.5 s", f"{recovered:.1f} s")
        await leave_all(held + there + here + again)


async def _is_calm(pid: int) -> bool:
    return (await load_of(pid, "lag")).pressure == 0


async def test_about_its_threshold_a_worker_changes_its_mind_at_most_once_in_a_window(workers, figures):
    rest, seconds = 0.3, 8.0
    changes, refuses, crossed = [], False, []
    with workers() as running:
        held = await Client.enter(running.origin, "/ws/load/")
        # A reading above the threshold for the length of a window, below it for half a second, and so on.
        load = asyncio.ensure_future(_sway(held, [(0.13, rest, 1), (0.06, rest, 6)]))
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            lag = await load_of(held.pid, "lag")
            if refuses != (lag.pressure > 0):
                refuses = not refuses
                changes.append(now)
            if changes:
                crossed.append(lag.reading)
            await asyncio.sleep(0.05)
        load.cancel()
        await leave_all([held])
    assert 1 <= len(changes) <= seconds / STEADY
    # Each change is seen with the next heartbeat.
    apart = [later - earlier for earlier, later in pairwise(changes)]
    assert all(each >= STEADY - HEARTBEAT - 0.1 for each in apart)
    assert min(crossed) < 0.1 < max(crossed)
    figures.note(
        "an event loop blocked for 60 ms, and now and then 130 ms, in every 400",
        "the worker changes between refusing and admitting at most once in 2 s",
        f"changes in {seconds:g} s: {len(changes)}",
    )


async def _sway(client: Client, orders) -> None:
    """Give these orders in turn, each when the one before is done."""
    for block, rest, times in cycle(orders):
        await order(client, block=block, rest=rest, times=times)
        await asyncio.sleep(times * (block + rest))


# Descriptors

FEW = ["sh", "-c", 'ulimit -n 256; exec "$@"', "sh"]
COME = 320
IN_ROWS = {"rows": 8, "pause": 0.08}
"""Fewer at once than the descriptors above saturation, for a refused one takes one, too, until it has left."""


async def test_a_worker_that_runs_out_of_descriptors_refuses_and_keeps_serving(workers, figures):
    with workers(launcher=FEW) as running:
        async with crowd(COME, running.origin, **IN_ROWS, open_timeout=5) as clients:
            assert None not in clients
            assert set(codes(clients)) == {None, 1013}
            admitted = [client for client in clients if client.is_open]
            assert len(admitted) >= 0.7 * 256
            assert [await ask(client, "still here") for client in admitted] == ["still here"] * len(admitted)
            descriptors = await load_of(admitted[0].pid, "descriptors")
            refused = (await eventually(lambda: _all_counted(COME))).refused
            assert refused == {"descriptors": COME - len(admitted)}
            assert "Too many open files" not in running.logs[0].read_text()
            figures.note(
                f"{COME} clients, a hundred a second at the most and 8 at once, at a worker with 256 file descriptors",
                "no error of the server; the overflow gets 1013, and those admitted are served",
                f"{len(admitted)} admitted, {refused['descriptors']} refused, none lost; "
                f"{100 * descriptors.reading:.0f} % in use",
            )


async def _all_counted(count: int):
    pool = await look()
    return pool if pool.admitted + sum(pool.refused.values()) == count else None


async def test_without_the_monitor_the_same_worker_loses_clients(workers, figures):
    with workers(launcher=FEW, PRESSURE={"descriptors": None}) as running:
        async with crowd(COME, running.origin, **IN_ROWS, open_timeout=1) as clients:
            lost = clients.count(None)
            errors = running.logs[0].read_text().count("Too many open files")
            figures.note(
                "… the same crowd, the monitor shown only",
                "nothing",
                f"{lost} clients lost, {errors} errors logged",
            )
            assert lost > 50


# Memory

LIMIT = 256 * MIB


@contextmanager
def limited_by(what: str, name: str):
    """Options of a worker that may use ``LIMIT`` bytes, as the setting or as the kernel says."""
    with ExitStack() as stack:
        if what == "setting":
            yield {"MEMORY_LIMIT": LIMIT}
            return
        try:
            group = stack.enter_context(control_group(name, LIMIT))
        except OSError as error:
            pytest.skip(f"no memory can be limited by a control group here: {error}")
        yield {"launcher": group.launcher}


@pytest.mark.parametrize("what", ["setting", "control group"])
async def test_a_worker_short_of_memory_refuses_until_it_has_some_again(workers, prefix, figures, what):
    with limited_by(what, prefix) as options, workers(**options) as running:
        glutton = await Client.enter(running.origin, "/ws/load/")
        at_rest = await eventually(lambda: _reading(glutton.pid, "memory"))
        assert at_rest < 0.7
        began, seconds = time.monotonic(), 2.5
        await order(glutton, allocate=int((0.965 - at_rest) * LIMIT), seconds=seconds)
        full = await eventually(lambda: _above(glutton.pid, 0.95), seconds=REST / 2 + REFRESH + HEARTBEAT)
        refused = await enter_many(20, [running.origin])
        assert time.monotonic() - began < seconds
        assert codes(refused) == {1013: 20}
        assert (await eventually(lambda: _all_counted(21))).refused == {"memory": 20}
        await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
        await eventually(lambda: _has_none(glutton.pid), seconds=STEADY + REFRESH + HEARTBEAT + 0.5)
        recovered = time.monotonic() - began - seconds
        again = await enter_many(20, [running.origin])
        assert codes(again) == {None: 20}
        figures.note(
            f"a worker that fills 256 MiB of memory, limited by the {what}",
            "from 95 % on all are refused; below 83 % none",
            f"{100 * full.reading:.1f} %: 20 of 20 refused; 0 of 20 {recovered:.1f} s after the release",
        )
        await leave_all([glutton, *refused, *again])


async def _reading(pid: int, monitor: str):
    return (await load_of(pid, monitor)).reading


async def _above(pid: int, share: float):
    load = await load_of(pid, "memory")
    return load if load.reading >= share and load.pressure == 1 else None


async def _has_none(pid: int) -> bool:
    return (await load_of(pid, "memory")).pressure == 0


SHED = 5
HOLD, MORE, GROWTH = 3 * MIB, 4 * MIB, 12.0
"""Bytes that each client costs at once, and as many seconds later."""


@contextmanager
def killed_beyond(limit: int, running: Workers):
    """End the worker when it has more memory than that, as the kernel would where it knew of the limit."""
    (process,) = running.processes
    resident, done = psutil.Process(process.pid), threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            if process.poll() is None and resident.memory_info().rss > limit:
                process.kill()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


@contextmanager
def mortal(workers, name: str, **settings):
    """One worker that does not survive ``LIMIT``: by a control group, or where none can be made by us."""
    with ExitStack() as stack:
        try:
            group = stack.enter_context(control_group(name, LIMIT))
        except OSError:
            running = stack.enter_context(workers(MEMORY_LIMIT=LIMIT, **settings))
            stack.enter_context(killed_beyond(LIMIT, running))
        else:
            running = stack.enter_context(workers(launcher=group.launcher, **settings))
        yield running


async def fill(running: Workers, count: int = 40) -> list[Client]:
    """Clients each of whom costs more and more memory, of which there is not enough for all."""
    clients = await enter_many(count, [running.origin], path="/ws/load/")
    await asyncio.gather(*(order(client, hold=HOLD, more=MORE, seconds=GROWTH) for client in clients))
    return clients


async def test_a_worker_whose_memory_runs_out_closes_some_and_lives(workers, prefix, figures):
    with mortal(workers, prefix, SHED_PER_HEARTBEAT=SHED) as running:
        clients = await fill(running)
        pid = clients[0].pid
        knocks, readings, refused_before = [], [], 0
        until = time.monotonic() + GROWTH + 1.0
        while time.monotonic() < until:
            knocks.append(await Client.enter(running.origin))
            readings.append(await _reading(pid, "memory"))
            if all(client.is_open for client in clients):
                refused_before = codes(knocks)[1013]
            await knocks[-1].leave()
            await asyncio.sleep(0.05)
        left = [client for client in clients if client.is_open]
        closed = [client for client in clients if not client.is_open]
        assert refused_before > 0
        assert {client.socket.close_code for client in closed} == {1013}
        assert all("retry-after=" in client.socket.close_reason for client in closed)
        steps = [int(count) for count in re.findall(r"closes (\d+) of its connections", running.logs[0].read_text())]
        assert len(steps) > 1
        assert max(steps) <= SHED
        assert max(readings) >= 0.95
        assert await _reading(pid, "memory") < 0.95
        assert [await ask(client, "still here") for client in left] == ["still here"] * len(left)
        assert running.processes[0].poll() is None
        assert (await look()).shed == sum(steps) >= len(closed)
        figures.note(
            "40 clients that grow to 280 MiB in a worker that 256 MiB kill",
            f"new ones refused, then connections closed with 1013, {SHED} a heartbeat at most, until it is below 95 %",
            f"{100 * max(readings):.0f} % at the most; {len(closed)} closed in {len(steps)} steps, "
            f"{len(left)} served on; {100 * readings[-1]:.0f} % in the end",
        )
        await leave_all(clients)


async def test_without_shedding_the_same_load_kills_the_worker(workers, prefix, figures):
    with mortal(workers, prefix, SHED_PER_HEARTBEAT=0) as running:
        clients, began = await fill(running), time.monotonic()
        (process,) = running.processes
        await eventually(lambda: process.poll() is not None, seconds=GROWTH + 2)
        assert process.returncode == -signal.SIGKILL
        seconds = time.monotonic() - began
        await eventually(lambda: not any(client.is_open for client in clients))
        figures.note(
            "… the same with `SHED_PER_HEARTBEAT` 0",
            "nothing",
            f"killed after {seconds:.1f} s, and {len(clients)} connections with it",
        )


# Cost


@pytest.mark.long
async def test_the_monitors_of_an_idle_worker_cost_next_to_nothing(admission, figures):
    settings, seconds = admission(PRESSURE={}), 15
    alone, watched = 0.0, 0.0
    for _ in range(2):
        alone += await _spent(seconds)
        pressure = OverloadManager(settings)
        await asyncio.sleep(WINDOW + 0.5)
        watched += await _spent(seconds)
        await pressure.aclose()
    share = (watched - alone) / (2 * seconds)
    figures.note("nothing: the monitors of an idle worker", "less than 0.5 % of a core", f"{100 * share:.2f} %")
    assert share < 0.005


async def _spent(seconds: float) -> float:
    """CPU time of this process in so many seconds."""
    began = time.process_time()
    await asyncio.sleep(seconds)
    return time.process_time() - began
