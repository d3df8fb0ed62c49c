"""The files in testproject/deploy/: they fit the settings, the programs take them, and workers work behind them."""

import asyncio
import io
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import aclosing, suppress
from pathlib import Path

import pytest
from django.core.management import call_command
from websockets.exceptions import ConnectionClosed

from channels_admission import readiness
from channels_admission.client import Wait, connections
from channels_admission.conf.sizing import HEADROOM, part
from channels_admission.controls import achange
from channels_admission.limiter.connections.refusal import RETRY_HEADER
from channels_admission.limiter.registry import EXIT_TIMEOUT
from channels_admission.runtime.servers import LINGER
from channels_admission.status.diagnostics.deploy import READ_TIMEOUT, advise, limits_conf, systemd

from demo.consumers import ADDRESS
from support.clients import Client, admitted, enter_many, keeps_nothing, leave_all, look, shows
from support.deployment import (
    BALANCERS,
    DEPLOY,
    UNIT,
    Backend,
    Haproxy,
    Nginx,
    Site,
    find,
    settings_of_the_files,
    site,
    unit,
)
from support.waiting import eventually

pytestmark = pytest.mark.xdist_group("deploy")

REFUSAL = re.compile(r"Try Again Later; ticket=[\w-]{24}; retry-after=\d+(\.\d)?")


# They fit the settings


@pytest.fixture
def fitting(admission):
    """The settings that the files are written for."""
    return admission(**json.loads(settings_of_the_files()))


def instructions(text: str) -> Counter[str]:
    """Lines that are neither comments, nor the beginning or end of a block, nor an address of a worker."""
    lines = [line.strip() for line in text.splitlines()]
    return Counter(line for line in lines if line and line[0] not in "#}" and line[-1] != "{" and "server " not in line)


def test_what_ws_status_advises_for_nginx_stands_in_its_files(fitting):
    files = {path.name: text for path, text in ((Path(name), text) for name, text in advise(fitting).items())}
    ours = "".join(path.read_text() for path in sorted((DEPLOY / "nginx").rglob("*.conf")))
    nginx = "".join(text for name, text in advise(fitting).items() if "nginx" in name)
    assert files.keys() == {"admission.conf", "nginx.conf"}
    assert set(instructions(nginx)) - set(instructions(ours)) == set()


def test_the_numbers_of_haproxy_are_those_of_nginx(fitting):
    text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
    (outer,) = set(re.findall(r"limit_conn admission (\d+);", "".join(advise(fitting).values())))
    whole, front, *servers = map(int, re.findall(r"maxconn (\d+)", text))
    assert (front, servers) == (int(outer), [part(fitting.pool("default")) + HEADROOM] * 2)
    assert whole >= front + 512
    timeouts = dict(re.findall(r"timeout (\S+)\s+(\d+)s", text))
    assert {timeouts[name] for name in ("client", "server", "tunnel")} == {str(READ_TIMEOUT)}
    assert (timeouts["connect"], timeouts["http-request"]) == ("5", "10")


def test_haproxy_asks_for_readiness_where_no_host_is_refused():
    (asked,) = re.findall(r"presetenv READINESS (\S+)\?", (DEPLOY / "haproxy" / "haproxy.cfg").read_text())
    assert asked == readiness.PATH


def test_what_ws_status_advises_for_systemd_and_logins_stands_in_its_files(fitting):
    (drop_in,) = (text for name, text in advise(fitting).items() if "systemd" in name)
    assert set(instructions(drop_in)) <= set(instructions(UNIT.read_text()))
    assert f"LimitNOFILE={unit()['LimitNOFILE']}" == systemd(fitting)
    assert tuple(instructions((DEPLOY / "limits.conf").read_text())) == limits_conf(fitting)


def test_a_unit_has_the_time_for_a_drain_and_for_the_end_of_its_server(fitting):
    (graceful,) = re.findall(r"--timeout-graceful-shutdown (\d+)", unit()["ExecStart"])
    drain = fitting.drain_delay + fitting.drain_on_stop + EXIT_TIMEOUT
    assert drain + float(graceful) < float(unit()["TimeoutStopSec"])


def test_haproxy_has_noticed_that_a_worker_is_not_ready_before_it_drains(fitting):
    text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
    (inter,) = re.findall(r"check inter (\d+)ms fall 1 ", text)
    assert int(inter) / 1000 * 4 == fitting.drain_delay


def test_both_try_another_worker_after_a_503_and_tell_the_worker_so():
    nginx = (DEPLOY / "nginx" / "snippets" / "admission.conf").read_text()
    haproxy = (DEPLOY / "haproxy" / "haproxy.cfg").read_text()
    assert nginx.count("proxy_next_upstream error timeout http_503;") == nginx.count("error_page 503 = @last_try;") == 2
    assert f"proxy_set_header {RETRY_HEADER} $admission_retry;" in nginx
    assert re.findall(r"set \$admission_retry (\d)", nginx) == ["1", "0"]
    assert re.findall(rf"http-request set-header {RETRY_HEADER} (\d)", haproxy) == ["1", "0"]
    assert "retry-on conn-failure empty-response 503" in haproxy
    assert all("max_fails=0" in line for line in (DEPLOY / "nginx" / "workers.conf").read_text().splitlines()[-3:])


def test_the_readme_names_every_file():
    text = (DEPLOY / "README.md").read_text()
    files = [path.relative_to(DEPLOY) for path in DEPLOY.rglob("*") if path.is_file() and path.name != "README.md"]
    assert [str(file) for file in files if str(file) not in text and f"{file.parts[0]}/" not in text] == []


# The programs take them


@pytest.mark.integration
def test_haproxy_takes_its_file():
    command = [find("haproxy"), "-c", "-f", str(DEPLOY / "haproxy" / "haproxy.cfg")]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")


@pytest.mark.integration
def test_nginx_takes_its_files():
    told = subprocess.run(
        [find("nginx"), "-t", "-g", "error_log stderr;", "-c", str(DEPLOY / "nginx" / "nginx.conf")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "syntax is ok" in told.stderr
    assert re.findall(r"\[(?:warn|emerg)\].*", told.stderr) == []


def test_systemd_takes_the_unit(tmp_path):
    """Where there is no systemd, the unit is at least whole."""
    assert unit().keys() >= {"ExecStart", "EnvironmentFile", "User", "WorkingDirectory", "KillSignal", "WantedBy"}
    if not (verify := shutil.which("systemd-analyze")):
        return
    (tmp_path / "units").mkdir()
    shutil.copy(UNIT, tmp_path / "units")
    text = UNIT.read_text().replace("/srv/site/.venv/bin/python", sys.executable)
    there = tmp_path / "units" / "site@8001.service"
    there.write_text(text)
    told = subprocess.run([verify, "verify", "--man=no", str(there)], capture_output=True, text=True, check=False)
    assert (told.returncode, [line for line in told.stderr.splitlines() if "site@" in line]) == (0, [])


# Three workers on two hosts behind each of them

LIMIT = 6
FAIR = 2
"""Connections that an address may have in the pool of the herd."""
HERD = {"MAX_CONNECTIONS": 2 * FAIR + 1, "MAX_PER_WORKER": 2, "QUOTAS": [{"key": "address", "max": FAIR}]}
SETTINGS = {
    "MAX_CONNECTIONS": LIMIT, "EXPECTED_WORKERS": 3, "HEARTBEAT": 0.5, "LEASE": 5, "DRAIN_ON_STOP": 2.5,
    "LEDGER_TIMEOUT": 2,  # the machine of the tests may be busy
    "POOLS": {"herd": HERD},
}  # fmt: skip
CHECKED_EVERY = 0.5
"""Seconds, by HAProxy's file."""
TIMEOUT = 20
"""Seconds until no slot is kept any more for the clients that an earlier test left outside."""
ONE, OTHER = "127.0.0.5", "127.0.0.6"
"""Addresses of clients."""


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with site(tmp_path_factory.mktemp("site"), SETTINGS) as running:
        yield running


@pytest.fixture
def seen(admission, running):
    """The settings in force here are those of the workers, as for ``ws_status``."""
    return admission(**SETTINGS, LEDGER=running.redis.url, PREFIX="channels_admission")


@pytest.fixture(params=BALANCERS)
def balancer(request, running, tmp_path):
    with BALANCERS[request.param](running, tmp_path) as balancer:
        yield balancer


async def shows_nobody() -> bool:
    return await shows(lambda pool: pool.held == 0)


def by_worker(clients: list[Client]) -> Counter[int]:
    return Counter(client.pid for client in clients if client.is_open)


async def address_seen(client: Client) -> str:
    await client.socket.send(ADDRESS)
    return await client.socket.recv()


@pytest.mark.integration
async def test_the_limit_is_one_and_its_refusal_passes_through(running: Site, balancer: Nginx | Haproxy, seen):
    await eventually(keeps_nothing, TIMEOUT)
    inside = [await Client.enter(balancer.origin) for _ in range(LIMIT)]
    assert by_worker(inside) == dict.fromkeys(running.pids, 2)
    outside = await enter_many(6, [balancer.origin])
    assert {client.code for client in outside} == {1013}
    assert all(REFUSAL.fullmatch(client.reason) for client in outside)
    pool = await look()
    assert (pool.held, {worker.held for worker in pool.workers}) == (LIMIT, {2})
    assert Counter(worker.host for worker in pool.workers) == Counter(each.machine.name for each in running.backends)
    await leave_all([*inside, *outside])


@pytest.mark.integration
async def test_a_worker_sees_the_client_s_own_address_and_believes_no_client(balancer: Nginx | Haproxy, seen):
    await eventually(keeps_nothing, TIMEOUT)
    for address in (ONE, OTHER):
        lie = {"additional_headers": {"X-Forwarded-For": "203.0.113.7"}, "local_addr": (address, 0)}
        client = await Client.enter(balancer.origin, **lie)
        assert await address_seen(client) == address
        await client.leave()


@pytest.mark.integration
async def test_a_quota_of_an_address_is_one_for_all_workers(running: Site, balancer: Nginx | Haproxy, seen):
    await eventually(lambda: shows(lambda pool: pool.held == 0, "herd"))
    clients = [
        await Client.enter(balancer.origin, "/ws/herd/", local_addr=(address, 0))
        for address in (ONE, OTHER)
        for _ in range(FAIR + 1)
    ]
    assert [client.code for client in clients] == [None, None, 1013, None, None, 1013]
    assert len(by_worker(clients)) == len(running.backends)
    await eventually(lambda: shows(lambda pool: pool.refused.get("quota:address", 0) >= 2, "herd"))
    await leave_all(clients)


@pytest.mark.integration
async def test_nginx_sends_an_address_to_one_worker_where_it_is_to_be_sticky(running: Site, tmp_path, seen):
    await eventually(keeps_nothing, TIMEOUT)
    with Nginx(running, tmp_path) as nginx:
        clients = [await Client.enter(nginx.origin, "/sticky/ws/echo/") for _ in range(4)]
        assert list(by_worker(clients).values()) == [4]
        await leave_all(clients)


@pytest.mark.integration
async def test_a_full_worker_s_clients_go_to_others_even_where_an_address_is_sent_to_one(running, tmp_path, seen):
    await eventually(lambda: shows(lambda pool: pool.held == 0, "herd"))
    with Nginx(running, tmp_path) as nginx:
        addresses = (ONE, ONE, OTHER, OTHER, "127.0.0.7")
        clients = [await Client.enter(nginx.origin, "/sticky/ws/herd/", local_addr=(each, 0)) for each in addresses]
        assert sorted(by_worker(clients).values()) == [1, 2, 2]
        await leave_all(clients)


ADDRESS_MAY_HAVE = 500
FLOODS = 5
"""The most floods until one is fast enough."""
FLOOD = """
import socket, sys, time
request = (
    "GET /ws/echo/ HTTP/1.1", "Host: 127.0.0.1", "Origin: http://127.0.0.1", "Upgrade: websocket",
    "Connection: Upgrade", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13",
)
port, address, most, more = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
began, clients = time.monotonic(), []
def connect():
    client = socket.create_connection(("127.0.0.1", port), source_address=(address, 0))
    client.sendall("\\r\\n".join([*request, f"User-Agent: client {len(clients)}", "", ""]).encode())
    clients.append(client)
    return client
def told(client):
    print(client.recv(12).decode()[9:12])
for client in [connect() for _ in range(most)]:
    told(client)
for _ in range(more):
    told(connect())
print(time.monotonic() - began)
"""
"""So many handshakes at once whose connections stay, and then a few more one after the other; prints what HTTP says to
each, and the seconds that all took."""


@pytest.mark.integration
async def test_the_outer_ring_stops_an_address_that_floods(balancer: Nginx | Haproxy, seen):
    """Far beyond what one client does, and with 429; the workers themselves answer with 101, and then close."""
    flood = [sys.executable, "-c", FLOOD, str(balancer.port), "127.0.0.9", str(ADDRESS_MAY_HAVE), "10"]
    for _ in range(FLOODS):
        await eventually(shows_nobody)
        process = await asyncio.create_subprocess_exec(*flood, stdout=subprocess.PIPE)
        *statuses, took = map(float, (await process.communicate())[0].split())
        if took < LINGER:  # else workers have closed some before the last ones came
            break
    assert statuses == [101] * ADDRESS_MAY_HAVE + [429] * 10
    client = await Client.enter(balancer.origin, local_addr=(ONE, 0))
    await client.leave()


@pytest.mark.integration
async def test_a_worker_leaves_rotation_before_its_sockets_are_closed(running: Site, balancer: Nginx | Haproxy, seen):
    await eventually(shows_nobody)
    leaving = running.backends[2]
    before = [await admitted(balancer.origin) for _ in range(3)]
    assert by_worker(before) == dict.fromkeys(running.pids, 1)
    balancer.drain(leaving)
    await eventually(lambda: sends_nobody_to(leaving, balancer), seconds=10)
    after = [await admitted(balancer.origin) for _ in range(3)]
    assert leaving.pid not in by_worker(after)
    (its,) = (client for client in before if client.pid == leaving.pid)
    await its.socket.send("still here")
    assert await its.socket.recv() == "still here"
    await asyncio.to_thread(leaving.stop)
    await its.socket.wait_closed()
    assert its.socket.close_code == 1012
    assert re.fullmatch(r"Service Restart; retry-after=[\d.]+", its.socket.close_reason)
    assert all(client.is_open for client in [*before, *after] if client is not its)
    leaving.start()
    balancer.renew(leaving)
    await leave_all([*before, *after])


@pytest.mark.integration
async def test_full_pools_are_no_reason_for_haproxy_to_answer_itself(running: Site, tmp_path, seen):
    await eventually(shows_nobody)
    await eventually(lambda: shows(lambda pool: pool.held == 0, "herd"))
    with Haproxy(running, tmp_path) as haproxy:
        inside = [await admitted(haproxy.origin) for _ in range(LIMIT)]
        for address in (ONE, ONE, OTHER, OTHER, "127.0.0.7"):
            inside.append(await Client.enter(haproxy.origin, "/ws/herd/", local_addr=(address, 0)))
        assert all(client.is_open for client in inside)
        until = time.monotonic() + 5 * CHECKED_EVERY
        while time.monotonic() < until:
            outside = await Client.enter(haproxy.origin)
            assert outside.code == 1013
            await outside.leave()
            await asyncio.sleep(CHECKED_EVERY / 10)
        await leave_all(inside)


def status_of(url: str) -> int:
    with urllib.request.urlopen(url, timeout=5) as response:
        return response.status


@pytest.mark.integration
async def test_workers_of_whom_none_is_ready_answer_all_the_same(running: Site, tmp_path, seen, monkeypatch):
    """HAProxy by itself would say 503 to everybody."""
    await eventually(lambda: shows(lambda pool: pool.held == 0, "herd"))
    monkeypatch.setenv("READINESS", "/readiness/?pool=herd")
    with Haproxy(running, tmp_path) as haproxy:
        addresses = (ONE, ONE, OTHER, OTHER, "127.0.0.7")
        inside = [await Client.enter(haproxy.origin, "/ws/herd/", local_addr=(each, 0)) for each in addresses]
        await eventually(lambda: all(map(haproxy.is_down, running.backends)))
        outside = await enter_many(6, [haproxy.origin], path="/ws/herd/")
        assert {client.code for client in outside} == {1013}
        assert all(REFUSAL.fullmatch(client.reason) for client in outside)
        assert await asyncio.to_thread(status_of, f"{haproxy.origin}/blank/") == 200
        await leave_all([*inside, *outside])
        await eventually(lambda: not any(map(haproxy.is_down, running.backends)))


@pytest.mark.integration
async def test_haproxy_sends_nobody_to_a_worker_that_drains(running: Site, tmp_path, seen):
    await eventually(shows_nobody)
    leaving = running.backends[0]
    order = {"worker": f"{leaving.machine.name}:{leaving.pid}", "stdout": io.StringIO()}
    with Haproxy(running, tmp_path) as haproxy:
        clients = [await admitted(haproxy.origin) for _ in range(3)]
        (its,) = (client for client in clients if client.pid == leaving.pid)
        await asyncio.to_thread(call_command, "ws_drain", over=600.0, **order)
        await eventually(lambda: haproxy.is_down(leaving))
        assert its.is_open
        clients += [await admitted(haproxy.origin) for _ in range(3)]
        assert by_worker(clients)[leaving.pid] == 1
        await asyncio.to_thread(call_command, "ws_drain", cancel=True, **order)
        await eventually(lambda: not haproxy.is_down(leaving))
        await leave_all(clients)


@pytest.mark.integration
async def test_a_host_that_drains_is_sent_nobody_while_the_others_are(running: Site, tmp_path, seen):
    await eventually(shows_nobody)
    host = running.hosts[0].name
    theirs = [backend for backend in running.backends if backend.machine.name == host]
    with Haproxy(running, tmp_path) as haproxy:
        clients = [await admitted(haproxy.origin) for _ in range(3)]
        await leave_all(clients)
        await asyncio.to_thread(call_command, "ws_drain", host=host, over=1.0, stdout=io.StringIO())
        await eventually(lambda: all(map(haproxy.is_down, theirs)))
        assert not any(haproxy.is_down(backend) for backend in running.backends if backend not in theirs)
        await asyncio.to_thread(call_command, "ws_drain", host=host, cancel=True, stdout=io.StringIO())
        await eventually(lambda: not any(map(haproxy.is_down, theirs)))


async def sends_nobody_to(backend: Backend, balancer: Nginx | Haproxy) -> bool:
    """As far as three clients that are let in can tell; a balancer that is told so may take a moment."""
    clients = [await admitted(balancer.origin) for _ in range(3)]
    await leave_all(clients)
    return backend.pid not in {client.pid for client in clients}


READY_IN_A_DRAIN = "/readiness/?ignore=full,paused,draining"
"""With this check HAProxy hears of a drain by refusals only, as nginx does."""


@pytest.mark.integration
async def test_another_worker_is_tried_for_a_client_of_one_that_drains(running: Site, tmp_path, seen, monkeypatch):
    await eventually(shows_nobody)
    monkeypatch.setenv("READINESS", READY_IN_A_DRAIN)
    order = {"stdout": io.StringIO()}
    for name, kind in BALANCERS.items():
        leaving = running.backends[0]
        worker = f"{leaving.machine.name}:{leaving.pid}"
        with kind(running, tmp_path) as balancer:
            await asyncio.to_thread(call_command, "ws_drain", worker=worker, over=600.0, **order)
            await eventually(lambda: shows(lambda pool: any(each.draining for each in pool.workers)))
            before = await look()
            clients = [await admitted(balancer.origin) for _ in range(LIMIT)]
            assert sorted(by_worker(clients).values()) == [3, 3], name
            await eventually(lambda before=before: shows(lambda pool: pool.passed > before.passed))
            await leave_all(clients)
            await asyncio.to_thread(call_command, "ws_drain", worker=worker, cancel=True, **order)
            await eventually(lambda: shows(lambda pool: not any(each.draining for each in pool.workers)))


@pytest.mark.integration
async def test_where_all_drain_a_client_gets_the_hint_that_pages_can_see(running: Site, balancer, seen):
    await eventually(shows_nobody)
    order = {"stdout": io.StringIO()}
    await asyncio.to_thread(call_command, "ws_drain", all=True, over=600.0, **order)
    await eventually(lambda: shows(lambda pool: all(each.draining for each in pool.workers)))
    if isinstance(balancer, Haproxy):
        await eventually(lambda: all(map(balancer.is_down, running.backends)))
    outside = await enter_many(3, [balancer.origin])
    assert {client.code for client in outside} == {1013}
    assert all(REFUSAL.fullmatch(client.reason) for client in outside)
    await leave_all(outside)
    await asyncio.to_thread(call_command, "ws_drain", all=True, cancel=True, **order)
    await eventually(lambda: shows(lambda pool: not any(each.draining for each in pool.workers)))


MANY = 45
AWAY = 3.0
"""The most seconds for which a client of a worker that stops may be away: its hint is up to two."""


class Faithful:
    """Clients of ours that stay for as long as they may, and come back when they are told to."""

    def __init__(self, origin: str, count: int) -> None:
        self.open_now = 0
        self.away: list[float] = []
        """Seconds between the loss of a connection and the next one."""
        self.endings: Counter[tuple[int | None, str]] = Counter()
        """What ended connections and attempts: the code, and the words before the hint."""
        self._tasks = [asyncio.ensure_future(self._live(origin)) for _ in range(count)]

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _note(self, wait: Wait) -> None:
        self.endings[wait.ending.code, wait.ending.reason.partition(";")[0]] += 1

    async def _live(self, origin: str) -> None:
        now = asyncio.get_running_loop().time
        lost_at, uri = None, origin.replace("http", "ws") + "/ws/echo/"
        options = {"origin": origin, "compression": None, "ping_interval": None}
        async with aclosing(connections(uri, on_wait=self._note, **options)) as sockets:
            async for socket in sockets:
                with suppress(ConnectionClosed):
                    await socket.send("in")
                    await socket.recv()
                    self.open_now += 1
                    self.away += [] if lost_at is None else [now() - lost_at]
                    try:
                        await socket.wait_closed()
                    finally:
                        self.open_now -= 1
                        lost_at = now()


@pytest.mark.integration
async def test_a_rolling_restart_loses_nobody_for_long_and_refuses_nobody(running: Site, balancer, seen, figures):
    """The workers are stopped and started one by one, and the balancer is told nothing. The pool is full."""
    await eventually(shows_nobody)
    await achange("default", by="test", limit=MANY)
    clients, most, done = Faithful(balancer.origin, MANY), 0, asyncio.Event()

    async def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, (await look()).held)
            await asyncio.sleep(0.02)

    watching = asyncio.ensure_future(watch())
    await eventually(lambda: clients.open_now == MANY, seconds=10)
    before, at_first = clients.endings.copy(), await look()
    for backend in running.backends:
        await asyncio.to_thread(backend.stop)
        await asyncio.to_thread(backend.start)
    await eventually(lambda: clients.open_now == MANY, seconds=10)
    done.set()
    await watching
    figures.note(
        f"Three workers behind {balancer.name} stopped and started one by one, a pool of {MANY} with as many clients",
        f"all back within {AWAY:g} s each, none refused, the limit never passed",
        f"{len(clients.away)} returns, at most {max(clients.away):.1f} s away",
    )
    at_last = await look()
    assert {why for why, count in at_last.refused.items() if count > at_first.refused.get(why, 0)} <= {"draining"}
    assert clients.endings - before == {(1012, "Service Restart"): len(clients.away)}
    assert len(clients.away) >= MANY
    assert max(clients.away) < AWAY
    assert most == MANY
    await clients.leave()
    await achange("default", by="test", limit=None)
