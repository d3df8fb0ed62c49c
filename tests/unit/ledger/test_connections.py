"""A Redis that is far away, slow or behind a proxy, and connections to it."""

import asyncio
import socket
import ssl
import time
from contextlib import asynccontextmanager, suppress

import pytest
from redis.asyncio.cluster import NodesManager
from redis.asyncio.sentinel import SentinelConnectionPool

from channels_admission.exceptions import LedgerUnavailable
from channels_admission.ledger import open_ledger
from channels_admission.ledger.redis import connections
from channels_admission.ledger.redis.connections import LONGEST, ConnectTimeout
from channels_admission.limiter.limiter import Slot
from channels_admission.status import capacity
from channels_admission.status.snapshot import READ_TIMEOUT, collect
from channels_admission.status.values import Health

from demo.servers import free_port
from support.limiters import limiter_over
from support.proxy import Proxy
from support.redises import AUTHORITY, certify, cluster, watched
from support.reports import Reporter
from support.waiting import eventually

TIMEOUT = 0.25
FAR = 0.045
"""Seconds to a far Redis, each way. A call and the rest of the one before are in time. Connecting is not, with TLS and
a database, or where others are asked for the way.
"""
ACROSS = 0.075
"""The same to the nodes of a cluster: an exchange takes longer than the part of the time that a node has at first."""
SLOW = 0.2


@asynccontextmanager
async def limiter_of(settings):
    """A limiter with a ledger of its own."""
    ledger = open_ledger(settings)
    limiter = limiter_over(settings, ledger)
    try:
        yield limiter
    finally:
        await limiter.aclose()
        await ledger.aclose()


async def is_admitted(limiter) -> bool:
    """Whether the ledger admits a client within a few seconds; without it, none is admitted."""

    async def is_open() -> bool:
        return isinstance(await limiter.acquire(), Slot)

    return await eventually(is_open, every=0.3)


def far(admission, **keys):
    return admission(**{"LEDGER_TIMEOUT": TIMEOUT, "HEARTBEAT": 0.5, "LEASE": 30, "WHEN_LEDGER_DOWN": "closed", **keys})


async def test_tls_to_a_far_redis_takes_longer_to_set_up_than_a_call_may_take(
    admission, redis_server, tmp_path, monkeypatch
):
    monkeypatch.setattr(connections, "AT_FIRST", 0.5)  # the first attempt is too short in any case
    certify(tmp_path)
    secret = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    secret.load_cert_chain(tmp_path / "server.pem")
    async with Proxy(redis_server.port, secret) as tls, Proxy(tls.port) as road:
        url = f"rediss://127.0.0.1:{road.port}?ssl_ca_certs={tmp_path / AUTHORITY}&db=1"
        with road.slow(FAR):
            async with limiter_of(far(admission, LEDGER=url)) as limiter:
                started = time.monotonic()
                verdict = await limiter.acquire()
                assert not isinstance(verdict, Slot)
                assert time.monotonic() - started < 4 * TIMEOUT
                assert await is_admitted(limiter)
            read = await collect(far(admission, LEDGER=url))
            assert read.ledger.took < TIMEOUT
            assert read.ledger.health is not Health.DOWN
            assert await capacity.collect(far(admission, LEDGER=url), READ_TIMEOUT) == ()


async def test_sentinels_and_a_primary_far_away(admission, monkeypatch):
    with watched() as servers:
        async with Proxy(servers.primary.port) as road, Proxy(servers.sentinels[0].port) as way:
            primary = SentinelConnectionPool.get_master_address

            async def remote(self):
                await primary(self)
                return "127.0.0.1", road.port

            monkeypatch.setattr(SentinelConnectionPool, "get_master_address", remote)
            dead = free_port("127.0.0.1")
            host = {"sentinels": [("127.0.0.1", dead), ("127.0.0.1", way.port)], "master_name": "main"}
            with road.slow(FAR), way.slow(3 * FAR):
                async with limiter_of(far(admission, LEDGER=host)) as limiter:
                    assert await is_admitted(limiter)


async def test_a_cluster_far_away(admission, monkeypatch):
    with cluster() as servers:
        roads = {node.port: Proxy(node.port) for node in servers.nodes}
        monkeypatch.setattr(
            NodesManager, "remap_host_port", lambda _, host, port: (host, roads[port].port if port in roads else port)
        )
        for road in roads.values():
            await road.__aenter__()
        hosts = [road.url for road in roads.values()]
        try:
            for road in roads.values():
                road._latency = ACROSS
            settings = far(admission, LEDGER={"HOSTS": hosts, "CLUSTER": True})
            async with limiter_of(settings) as limiter:
                assert await is_admitted(limiter)
        finally:
            for road in roads.values():
                await road.__aexit__()


async def test_a_late_call_keeps_its_connection_and_the_next_one_uses_it(admission, redis_server):
    async with Proxy(redis_server.port) as road:
        settings = far(admission, LEDGER=road.url, HEARTBEAT=3)
        async with limiter_of(settings) as limiter:
            assert await is_admitted(limiter)
            before = road.accepted
            with road.slow(SLOW):
                limiter.report_now()
                await eventually(lambda: limiter.state.calls.failing >= 3, seconds=20)
            await eventually(lambda: not limiter.state.away)
            assert road.accepted == before + 1  # the first call was given up, since Redis had been fast


async def test_a_redis_that_answers_too_late_is_told_from_one_that_is_gone(admission, redis_server, caplog):
    async with Proxy(redis_server.port) as road:
        settings = far(admission, LEDGER=road.url, HEARTBEAT=1)
        async with limiter_of(settings) as limiter:
            assert await is_admitted(limiter)
            with road.slow(SLOW):
                told = "The ledger of pool 'default' answers, but too late: after "
                await eventually(lambda: any(each.getMessage().startswith(told) for each in caplog.records))
                (line,) = (each.getMessage() for each in caplog.records if each.getMessage().startswith(told))
                assert line.endswith(" ms, and LEDGER_TIMEOUT allows 250 ms.")
                assert 400 <= float(line.removeprefix(told).split()[0]) < 2000
                calls = limiter.state.calls
                assert calls.times.seconds > calls.failed * 2 * SLOW - 2 * SLOW  # the whole time of all but the first

                async def is_late():
                    return (await collect(settings)).ledger.health is Health.LATE

                await eventually(is_late)  # and no longer settling
                near = await collect(far(admission, LEDGER=redis_server.url, PREFIX=settings.prefix, HEARTBEAT=1))
                assert near.ledger.took < TIMEOUT
                assert near.ledger.health is Health.LATE
            with road.cut():
                caplog.clear()
                await asyncio.sleep(0)
            await eventually(lambda: not limiter.state.away)
        assert not any("too late" in each.getMessage() for each in caplog.records)


async def test_a_slow_connection_to_a_replaced_server_is_not_used_again(admission, redis_server):
    """As that to a primary that was silent: the newest connection is to its successor."""
    async with Proxy(redis_server.port) as road:
        ledger = open_ledger(far(admission, LEDGER=road.url))
        ours = ledger._connections
        await ledger.connect(1)
        async with ours.lent() as old:
            await ours.ready(1)
            (new,) = ours._idle
            await asyncio.sleep(TIMEOUT)
        assert ours._idle == [new]
        assert not old.is_connected
        await ledger.aclose()
        assert not new.is_connected


async def test_a_call_that_is_given_up_ends_no_connection_of_another(admission, redis_server):
    async with Proxy(redis_server.port) as road:
        ledger = open_ledger(far(admission, LEDGER=road.url))
        await Reporter(ledger, "ab").say()
        with road.slow(SLOW):
            given_up, other = (asyncio.ensure_future(Reporter(ledger, name).say()) for name in ("cd", "ef"))
            await asyncio.sleep(SLOW / 2)
            given_up.cancel()
            assert (await other).workers >= 2
        await ledger.aclose()
        with suppress(asyncio.CancelledError):
            await given_up


async def test_connecting_goes_on_after_the_call_that_wanted_it(admission, redis_server):
    async with Proxy(redis_server.port) as road:
        ledger = open_ledger(far(admission, LEDGER=f"redis://:wrong@127.0.0.1:{road.port}"))
        # Its answer to AUTH is what the connection waits for, and comes after the call has been given up.
        with road.slow(SLOW):
            with pytest.raises(LedgerUnavailable, match="still being set up"):
                await Reporter(ledger, "ab").say()
            opening = ledger._connections._opening
            assert opening is not None
            await eventually(opening.done)
        assert road.accepted == 1
        await ledger.aclose()


def test_the_time_to_connect_grows_with_each_try_that_was_too_short_and_follows_the_calls():
    timeout = ConnectTimeout(TIMEOUT)
    grown = []
    for _ in range(6):
        grown.append(timeout.seconds)
        timeout.grow()
    assert grown == [0.25, 0.5, 1.0, 2.0, 4.0, LONGEST]
    timeout.learn(0.06)
    assert timeout.seconds == pytest.approx(0.6)
    timeout.learn(0.001)
    assert timeout.seconds == TIMEOUT
    timeout.learn(30)
    assert timeout.seconds == LONGEST
    assert ConnectTimeout(10).seconds == 10


class Picky:
    """A proxy that ends every connection on which it hears anything but a script."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.heard = []

    async def carry(self, reader, writer) -> None:
        replies, server = await asyncio.open_connection("127.0.0.1", self.target)
        back = asyncio.ensure_future(self.carry_back(replies, writer))
        try:
            while True:
                words = [await self.word(reader) for _ in range(int((await reader.readuntil())[1:]))]
                self.heard.append(words[0])
                if words[0] not in (b"EVAL", b"EVALSHA"):
                    break
                packed = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
                server.write(b"*%d\r\n%b" % (len(words), packed))
        except asyncio.IncompleteReadError:
            """The client has gone."""
        for end in (server, writer):
            end.close()
        await back

    async def carry_back(self, replies, writer) -> None:
        while data := await replies.read(65536):
            writer.write(data)

    async def word(self, reader) -> bytes:
        size = int((await reader.readuntil())[1:])
        return (await reader.readexactly(size + 2))[:-2]


@pytest.mark.parametrize("db", ["", "/0"])
async def test_a_proxy_hears_scripts_and_nothing_else(admission, redis_server, db):
    proxy = Picky(redis_server.port)
    server = await asyncio.start_server(proxy.carry, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = admission(LEDGER=f"redis://127.0.0.1:{port}{db}")
    ledger = open_ledger(settings)
    assert (await Reporter(ledger, "ab").say(wanted=1)).granted == 1
    assert (await ledger.read(("default",)))[0].workers[0].held == 1
    assert (await ledger.past("default")).seconds
    await ledger.aclose()
    server.close()
    await server.wait_closed()
    assert set(proxy.heard) == {b"EVAL", b"EVALSHA"}


async def test_a_name_with_several_addresses_is_tried_at_each(admission, redis_server, monkeypatch):
    found = socket.getaddrinfo

    def several(name, port, *args, **options):
        if name != "redis.example":
            return found(name, port, *args, **options)
        return found("127.0.0.2", port, *args, **options) + found("127.0.0.1", port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", several)
    ledger = open_ledger(admission(LEDGER=f"redis://redis.example:{redis_server.port}"))
    assert (await Reporter(ledger, "ab").say(wanted=1)).granted == 1
    await ledger.aclose()
