"""Four real servers, several processes, one Redis: the promises as a client sees them."""

import asyncio
import os
import random
import re
import signal
import time

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from channels_admission.core.herd.line import GRACE, WIDTH

from demo.consumers import HANDSHAKE
from demo.servers import Redis, Workers
from support.clients import Client, Crowd, enter_many, leave_all, look, shows
from support.servers import SERVERS
from support.waiting import eventually

LIMIT = 50
HEARTBEAT = 0.5
TERMS = {"HEARTBEAT": HEARTBEAT, "LEASE": 5}
FORGED = "Forged_ticket-0123456789"
"""A ticket by its letters."""
fault = pytest.mark.fault


@pytest.fixture(params=SERVERS)
def server(request):
    return request.param


@pytest.fixture
def workers(admission, prefix, redis_server):
    """``workers(server, count, **settings)``: worker processes whose ledger this process looks at, too."""

    def start(server: str = "uvicorn-sansio", count: int = 4, redis: Redis = redis_server, **options):
        keys = {"MAX_CONNECTIONS": LIMIT, "LEDGER": redis.url, "PREFIX": prefix, **TERMS, **options.pop("settings", {})}
        admission(**keys)
        name, args = SERVERS[server]
        # The channel layer keeps a Redis of its own, which no test takes away.
        return Workers(name, count, redis_url=redis_server.url, settings=keys, args=args, **options)

    return start


@pytest.mark.parametrize("path", ["/ws/echo/", "/ws/mixin/", "/ws/sync/"])
async def test_exactly_the_limit_is_admitted_and_every_other_told_1013(workers, server, path):
    count = 400 if path == "/ws/echo/" else 80
    with workers(server) as running:
        # A forged ticket, in both places, gets nothing.
        query, headers = f"?room=1&admission_ticket={FORGED}&next=%2F", {"Admission-Ticket": FORGED}
        clients = await enter_many(count, running.origins, path=path + query, additional_headers=headers)
        admitted = [client for client in clients if client.is_open]
        refused = [client for client in clients if not client.is_open]
        assert len(admitted) == LIMIT
        assert {client.code for client in refused} == {1013}
        assert all(client.reason.startswith("Try Again Later; ticket=") for client in refused)
        # Events are told with the next report, at the latest with the next heartbeat.
        await eventually(lambda: shows(lambda pool: pool.admitted + sum(pool.refused.values()) == count))
        pool = await look()
        assert (pool.held, pool.free, pool.level, pool.admitted) == (LIMIT, 0, "full", LIMIT)
        assert pool.refused == {"full": count - LIMIT}
        assert {worker.server for worker in pool.workers} == {SERVERS[server][0]}
        assert {worker.pid: worker.held for worker in pool.workers if worker.held} == _by_pid(admitted)
        assert pool.redeemed == 0
        seen = await handshake_of(admitted[0])
        assert "b'room=1&next=%2F'" in seen
        assert FORGED not in seen
        assert "admission" not in seen.lower()
        await leave_all(clients)
        await eventually(lambda: shows(lambda pool: pool.held == 0))


async def handshake_of(client: Client) -> str:
    """What the application sees of its request."""
    await client.socket.send(HANDSHAKE)
    return await client.socket.recv()


def _by_pid(clients):
    pids = [client.pid for client in clients]
    return {pid: pids.count(pid) for pid in set(pids)}


async def test_the_count_of_open_sockets_never_passes_the_limit(workers, server):
    open_now, most, verdicts = 0, 0, []

    async def come_and_go(origin, rng):
        nonlocal open_now, most
        for _ in range(20):
            client = await Client.enter(origin)
            verdicts.append(client.code)
            if client.is_open:
                open_now += 1
                most = max(most, open_now)
                await asyncio.sleep(rng.uniform(0, 0.05))
                open_now -= 1
            await client.leave()

    with workers(server) as running:
        rng = random.Random(1013)
        await asyncio.gather(*(come_and_go(running.origin, rng) for _ in range(100)))
        assert len(verdicts) == 2000
        assert set(verdicts) == {None, 1013}
        assert most <= LIMIT
        assert most > LIMIT / 2
        await eventually(lambda: shows(lambda pool: pool.held == 0))
        await eventually(lambda: shows(lambda pool: pool.admitted == verdicts.count(None)))


@pytest.mark.parametrize("subprotocols", [None, ["chat.v2", "chat.v1"]])
async def test_a_refused_client_gets_its_first_subprotocol(workers, server, subprotocols):
    with workers(server, 1, settings={"MAX_CONNECTIONS": 0}) as running:
        client = await Client.enter(running.origin, subprotocols=subprotocols)
        assert (client.code, client.socket.subprotocol) == (1013, subprotocols[0] if subprotocols else None)


async def test_http_refusal_is_503_with_retry_after_where_the_server_can(workers, server):
    with workers(server, 1, settings={"MAX_CONNECTIONS": 0, "REFUSE_WITH": "http"}) as running:
        if server == "daphne":
            assert (await Client.enter(running.origin)).code == 1013
            return
        with pytest.raises(InvalidStatus) as refused:
            await connect(running.origin.replace("http", "ws") + "/ws/echo/", origin=running.origin)
        assert refused.value.response.status_code == 503
        assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60


async def test_a_foreign_origin_takes_no_slot(workers):
    with workers(count=1) as running:
        with pytest.raises(InvalidStatus):
            url = running.origin.replace("http", "ws") + "/ws/echo/"
            await connect(url, origin="http://elsewhere.example")
        pool = await look()
        assert (pool.held, pool.admitted, pool.refused) == (0, 0, {})


@fault
async def test_a_killed_worker_gives_its_slots_back_to_its_neighbours_within_two_beats(workers, server, figures):
    with workers(server, 3, shared_port=False) as running:
        doomed = await enter_many(20, running.origins[:1])
        others = await enter_many(10, running.origins[1:])
        assert all(client.is_open for client in doomed + others)
        await eventually(lambda: shows(lambda pool: pool.held == 30))
        os.kill(doomed[0].pid, signal.SIGKILL)
        killed = time.monotonic()
        await eventually(lambda: shows(lambda pool: pool.held == 10), seconds=2 * HEARTBEAT + 0.2)
        figures.note(
            f"one of three {server} workers is killed, with 20 slots",
            f"they are free within two heartbeats ({2 * HEARTBEAT} s); the other workers' clients notice nothing",
            f"{time.monotonic() - killed:.2f} s",
        )
        for client in others:
            await client.socket.send("still here")
            assert await client.socket.recv() == "still here"
        await leave_all(doomed + others)


@fault
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a worker a process namespace of its own")
async def test_a_killed_worker_of_another_host_gives_its_slots_back_with_its_lease(workers, figures):
    """The worker lives in a process namespace of its own, as in a container: nobody can see its process."""
    heartbeat, lease = 0.25, 2.5
    terms = {"HEARTBEAT": heartbeat, "LEASE": lease}
    elsewhere = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with workers(count=1, settings=terms, launcher=elsewhere) as far, workers(count=1, settings=terms) as near:
        doomed = await enter_many(20, far.origins)
        others = await enter_many(10, near.origins)
        await eventually(lambda: shows(lambda pool: pool.held == 30))
        far.processes[0].kill()
        killed = time.monotonic()
        await eventually(lambda: shows(lambda pool: pool.held == 10), seconds=lease + heartbeat + 0.2)
        seconds = time.monotonic() - killed
        assert seconds >= lease - heartbeat - 0.1
        more = await enter_many(LIMIT, near.origins)
        assert sum(client.is_open for client in more) == LIMIT - 10
        assert all(client.is_open for client in others)
        figures.note(
            "the only worker of a host is killed, with 20 slots",
            f"they are free within the lease and one heartbeat ({lease + heartbeat} s)",
            f"{seconds:.2f} s",
        )
        await leave_all(doomed + others + more)


@fault
async def test_a_worker_asked_to_stop_gives_its_slots_back_within_a_second(workers, server, figures):
    with workers(server, 2, shared_port=False) as running:
        leaving = await enter_many(20, running.origins[:1])
        staying = await enter_many(5, running.origins[1:])
        await eventually(lambda: shows(lambda pool: pool.held == 25))
        running.processes[0].terminate()
        # Hypercorn lets its connections be for three seconds before it ends them.
        await asyncio.wait_for(asyncio.gather(*(client.socket.wait_closed() for client in leaving)), 10)
        closed = time.monotonic()
        await eventually(lambda: shows(lambda pool: pool.held == 5), seconds=1.0)
        assert all(client.is_open for client in staying)
        (code,) = {client.socket.close_code for client in leaving}
        figures.note(
            f"one of two {server} workers is asked to stop (SIGTERM), with 20 slots",
            "they are free within 1 s of its connections' end",
            f"clients see {code}; {time.monotonic() - closed:.2f} s",
        )
        await leave_all(leaving + staying)


@fault
async def test_a_worker_without_neighbours_says_goodbye_before_it_is_gone(workers, server, figures):
    with workers(server, 1, settings={"HEARTBEAT": 5, "LEASE": 50}) as running:
        name = SERVERS[server][0]
        if name != "daphne":
            await eventually(lambda: shows(lambda pool: [worker.server for worker in pool.workers] == [name]))
        clients = await enter_many(20, running.origins)
        assert all(client.is_open for client in clients)
        running.processes[0].terminate()
        await asyncio.wait_for(asyncio.gather(*(client.socket.wait_closed() for client in clients)), 10)
        ended = time.monotonic()
        running.processes[0].wait(10)
        await leave_all(clients)
        if "panicked" in running.log():
            # Granian 2.8 crashes now and then while it ends its sockets, before it says that it stops.
            assert name == "granian"
            return
        await eventually(lambda: shows(lambda pool: pool.workers == ()), seconds=1.0)
        figures.note(
            f"SIGTERM of {server}, the only worker",
            "its slots are free and its name is gone within 1 s of its connections' end",
            f"{time.monotonic() - ended:.2f} s",
        )


@fault
@pytest.mark.alone
@pytest.mark.parametrize("policy", ["freeze", "share"])
@pytest.mark.parametrize("away", ["killed", "paused"])
async def test_redis_away_for_longer_than_the_lease(workers, figures, policy, away):
    """A full pool with ``freeze``, 20 free slots with ``share``: half of them for each of two workers."""
    heartbeat, lease = 0.25, 1.5
    terms = {"HEARTBEAT": heartbeat, "LEASE": lease, "WHEN_LEDGER_DOWN": policy}
    full = {"freeze": LIMIT, "share": 30}[policy]
    with Redis() as redis, workers(count=2, redis=redis, shared_port=False, settings=terms) as running:
        held = await enter_many(full, running.origins)
        assert all(client.is_open for client in held)
        await eventually(
            lambda: shows(lambda pool: pool.held == full and all(worker.held == full / 2 for worker in pool.workers))
        )
        await asyncio.sleep(2 * heartbeat)  # so that both workers have seen the same room
        redis.stop() if away == "killed" else redis.pause()
        began = time.monotonic()
        tries = await _one_by_one(50, running.origins)
        # Each worker may wait for one call, before it knows.
        first, later = (max(client.seconds for client in some) for some in (tries[:2], tries[2:]))
        assert first <= 0.4
        assert later <= 0.25
        admitted = [client for client in tries if client.is_open]
        assert len(admitted) == LIMIT - full
        assert {client.code for client in tries if not client.is_open} <= {1013}
        leaving, held = held[:9], held[9:]
        await leave_all(leaving)
        again = []
        async with asyncio.timeout(5):  # a worker may hear of a leave after the next one has knocked
            while sum(client.is_open for client in again) < 9:
                again += await _one_by_one(2, running.origins)
        again += await _one_by_one(12, running.origins)
        assert sum(client.is_open for client in again) == 9
        await asyncio.sleep(began + lease + heartbeat - time.monotonic())
        redis.start() if away == "killed" else redis.resume()
        truth, back = len(held) + len(admitted) + 9, time.monotonic()
        await eventually(lambda: shows(lambda pool: pool.held == truth), seconds=1)
        equal = time.monotonic() - back
        assert all(client.is_open for client in held + admitted)
        for log in running.logs:
            assert log.read_text().count("Ledger lost") == 1
            await eventually(lambda log=log: log.read_text().count("Ledger regained") == 1)
            assert "had run out" not in log.read_text()
        await leave_all(tries + held + again)
        await eventually(lambda: shows(lambda pool: pool.held == 0))
    figures.note(
        f"Redis {away} for longer than the lease, policy `{policy}`, {LIMIT - full} slots free",
        f"of 50 that try {LIMIT - full} are let in, and 9 for 9 that leave; decisions within 400 ms at first, "
        "then 250 ms; counts equal within 1 s after; no lapse",
        f"{len(admitted)}, and 9; slowest decision {1000 * first:.0f} ms, then {1000 * later:.0f} ms; "
        f"equal after {1000 * equal:.0f} ms",
    )


async def _one_by_one(tries, origins):
    return [await Client.enter(origins[number % len(origins)]) for number in range(tries)]


@fault
async def test_redis_back_empty_under_load_never_passes_the_limit(workers, figures):
    with Redis() as redis, workers(count=4, redis=redis, settings={"WHEN_LEDGER_DOWN": "freeze"}) as running:
        async with Crowd(80, running.origins, seed=7) as crowd:
            for _ in range(3):
                await asyncio.sleep(1.5)
                redis.restart()
            await asyncio.sleep(1.5)
        assert crowd.codes.keys() == {None, 1013}
        assert LIMIT / 2 < crowd.most <= LIMIT
        await eventually(lambda: shows(lambda pool: pool.held == 0))
    figures.note(
        "three times Redis is killed under load, and comes back empty",
        f"never above the limit of {LIMIT}",
        f"at most {crowd.most} held",
    )


async def test_a_herd_of_a_thousand_in_one_worker_costs_at_most_twenty_calls(workers, redis_server):
    import redis

    def calls():
        with redis.Redis.from_url(redis_server.url) as client:
            return client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)

    patient = {"LEDGER_TIMEOUT": 2, "ENTRANCE_WAIT": None, "PRESSURE": {"lag": None}}
    with workers(count=1, settings={"MAX_CONNECTIONS": 1000, "HEARTBEAT": 5, "LEASE": 50, **patient}) as running:
        before = calls()
        clients = await enter_many(1000, running.origins)
        spent = calls() - before
        assert all(client.is_open for client in clients)
        assert spent <= 20
        await leave_all(clients)


async def test_workers_together_admit_no_more_than_the_rate_and_a_burst_in_any_second(workers):
    rate, burst, seconds = 40, 10, 5.0
    learning = 1 + GRACE + WIDTH
    """Seconds until the ledger learns that nobody shows a ticket: the lowest hint, its bucket and the grace."""
    admitted: list[tuple[float, float]] = []
    """Between which two moments."""
    reasons: set[str] = set()

    async def hammer(origin, until):
        while (asked := time.monotonic()) < until:
            client = await Client.enter(origin)
            if client.is_open:
                admitted.append((asked, time.monotonic()))
            else:
                reasons.add(re.sub(r"ticket=.*$", "", client.reason))
            await client.leave()

    settings = {"MAX_CONNECTIONS": 1000, "CONNECT_RATE": rate, "CONNECT_BURST": burst}
    with workers(count=4, settings=settings) as running:
        until = time.monotonic() + seconds
        await asyncio.gather(*(hammer(running.origin, until) for _ in range(40)))
        in_a_second = [sum(first <= asked and known < first + 1 for asked, known in admitted) for first, _ in admitted]
        assert max(in_a_second) <= rate + burst
        assert len(admitted) >= rate * (seconds - learning)
        assert reasons == {"Try Again Later; "}
        await eventually(lambda: shows(lambda pool: pool.admitted == len(admitted)))
        assert set((await look()).refused) == {"rate"}
