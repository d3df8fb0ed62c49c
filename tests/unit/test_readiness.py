"""Readiness: what a worker says of itself to a load balancer, through Django, ahead of it, and as a real server."""

import asyncio
import threading
import urllib.error
import urllib.request

import pytest
from django.test import AsyncClient

from channels_admission.core.levels import Level
from channels_admission.exceptions import LedgerUnavailable
from channels_admission.ledger import open_ledger
from channels_admission.limiter.registry import close_limiters, limiter_of, open_limiters
from channels_admission.readiness import AdmissionReadiness, answer, standing

from demo.servers import Workers
from support.clients import enter_many, leave_all
from support.faulty import FaultyLedger
from support.limiters import limiter_over
from support.waiting import eventually

READINGS: dict[str, float] = {}
WATCHED = {"told": {"MONITOR": f"{__name__}.told", "THRESHOLDS": (0.8, 0.9)}}
URL = "/admission/readiness/"


def told() -> float | None:
    """A monitor whose reading the test tells."""
    return READINGS.get("told")


@pytest.fixture(autouse=True)
def _calm():
    READINGS.clear()


def says(query: str = "") -> tuple[int, str]:
    status, text = answer(query)
    return int(status), text


async def until(query: str, *expected) -> None:
    await eventually(lambda: says(query) == expected)


async def test_a_worker_that_has_had_no_websocket_is_idle(admission):
    admission()
    assert says() == (200, "idle")
    assert open_limiters() == ()


async def test_asking_the_ledger_is_left_to_others(admission):
    admission(HEARTBEAT=600, LEASE=3600)
    limiter = limiter_of("default")
    await eventually(lambda: limiter.state.level)
    calls = limiter.state.calls.made
    assert [says() for _ in range(100)] == [(200, "ready")] * 100
    assert limiter.state.calls.made == calls
    await close_limiters()


async def test_a_full_pool_is_not_ready_until_a_twentieth_of_it_is_free(admission):
    admission(MAX_CONNECTIONS=40, HEARTBEAT=0.1, LEASE=3)
    limiter = limiter_of("default")
    slots = [await limiter.acquire() for _ in range(40)]
    await until("", 503, "full")
    assert says("ignore=full") == (200, "ready")
    slots.pop().release()
    await eventually(lambda: limiter.state._others + limiter.state.allowance == 39)
    assert says() == (503, "full")
    slots.pop().release()
    slots.pop().release()
    await until("", 200, "ready")
    slots.extend([await limiter.acquire() for _ in range(2)])
    await eventually(lambda: limiter.state._others + limiter.state.allowance == 39)
    assert says() == (200, "ready")
    for slot in slots:
        slot.release()
    await close_limiters()


async def test_a_saturated_monitor_is_no_reason_below_its_second_threshold(admission):
    admission(PRESSURE=WATCHED)
    limiter = limiter_of("default")
    READINGS["told"] = 0.89
    await eventually(lambda: any(load.pressure for load in limiter.overload.load))
    assert says() == (200, "ready")
    READINGS["told"] = 0.9
    await until("", 503, "saturated")
    assert says("ignore=saturated") == (200, "ready")
    READINGS["told"] = 0.1
    await until("", 200, "ready")
    await close_limiters()


@pytest.mark.parametrize("reason", ["draining", "paused"])
async def test_a_closed_pool_says_why(admission, monkeypatch, reason):
    admission()
    limiter_of("default")
    monkeypatch.setattr("channels_admission.limiter.books.state.State.closed", reason)
    assert says() == (503, reason)
    assert says(f"ignore=full,{reason}") == (200, "ready")
    await close_limiters()


async def test_a_worker_is_not_ready_before_it_drains_and_admits_until_then(admission):
    admission(DRAIN_DELAY=0.2, HEARTBEAT=0.1, LEASE=3)
    limiter = limiter_of("default")
    slot = await limiter.acquire()
    limiter.drain(0)
    assert says() == (503, "draining")
    (await limiter.acquire()).release()
    assert not limiter.state.draining
    await eventually(lambda: limiter.state.draining)
    assert (await limiter.acquire()).reason == "draining"
    assert says() == (503, "draining")
    slot.release()
    await close_limiters()


async def test_a_worker_that_holds_as_many_as_it_may_is_not_ready_while_others_are(admission):
    admission(MAX_PER_WORKER=2)
    limiter = limiter_of("default")
    slots = [await limiter.acquire() for _ in range(2)]
    assert (await limiter.acquire()).reason == "worker_full"
    assert says() == (503, "worker_full")
    assert says("ignore=worker_full") == (200, "ready")
    slots.pop().release()
    assert says() == (200, "ready")
    slots.append(await limiter.acquire())
    for slot in slots:
        slot.release()
    await close_limiters()


async def test_in_a_dry_run_only_a_drain_is_a_reason(admission, monkeypatch):
    admission(DRY_RUN=True)
    limiter_of("default").state.level = Level.FULL
    monkeypatch.setattr("channels_admission.limiter.books.state.State.closed", "paused")
    assert says() == (200, "ready")
    monkeypatch.setattr("channels_admission.limiter.books.state.State.closed", "draining")
    assert says() == (503, "draining")
    await close_limiters()


async def test_a_worker_is_ready_while_one_of_its_pools_is(admission, monkeypatch):
    admission(MAX_CONNECTIONS=1, POOLS={"chat": {"MAX_CONNECTIONS": 2}}, HEARTBEAT=0.1, LEASE=3)
    limiters = [limiter_of("default"), limiter_of("chat")]
    slot = await limiters[0].acquire()
    await until("pool=default", 503, "full")
    assert says("pool=chat") == (200, "ready")
    assert says() == (200, "ready")
    limiters[1].state.level = Level.FULL
    assert says() == (503, "full")
    slot.release()
    await close_limiters()


async def test_while_the_ledger_is_away_no_pool_is_full(admission):
    settings = admission(MAX_CONNECTIONS=1, HEARTBEAT=0.1, LEASE=3)
    limiter = limiter_over(settings, ledger := FaultyLedger(open_ledger(settings)))
    slot = await limiter.acquire()
    await eventually(lambda: standing([limiter]) == "full")
    async with ledger.away(LedgerUnavailable("the road is closed")):
        await eventually(lambda: limiter.state.away)
        assert standing([limiter]) == "ready"
    await eventually(lambda: standing([limiter]) == "full")
    slot.release()
    await limiter.aclose()


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("ignore=ful", 400, "no such reason; reasons: draining, full, paused, saturated, worker_full"),
        ("ignore=ready", 400, "no such reason; reasons: draining, full, paused, saturated, worker_full"),
        ("ignore=<script>", 400, "no such reason; reasons: draining, full, paused, saturated, worker_full"),
        ("a=1&" * 15_000, 400, "the query is too long"),
        ("a=1&" * 512, 200, "idle"),
        ("pool=chatt", 404, "no such pool"),
        ("pool=default&ignore=full&ignore=paused", 200, "idle"),
        ("unknown=1", 200, "idle"),
    ],
)
def test_a_question_that_makes_no_sense_is_told_so(admission, query, status, text):
    admission()
    assert says(query) == (status, text)


def test_each_event_loop_answers_for_itself_and_a_thread_without_one_for_all(admission):
    admission(MAX_CONNECTIONS=1, HEARTBEAT=0.1, LEASE=3)
    opened, done = threading.Event(), threading.Event()

    async def serve():
        slot = await limiter_of("default").acquire()
        await eventually(lambda: says() == (503, "full"))
        opened.set()
        await asyncio.to_thread(done.wait, 10)
        slot.release()
        await close_limiters()

    async def elsewhere():
        limiter_of("default").state.level = Level.CALM
        found = says()
        await close_limiters()
        return found

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert opened.wait(10)
    assert says() == (503, "full")
    assert asyncio.run(elsewhere()) == (200, "ready")
    done.set()
    thread.join(10)
    assert says() == (200, "idle")


# Through Django


async def test_the_url_answers_anonymous_clients_in_one_word(admission):
    admission(MAX_CONNECTIONS=1)
    limiter = limiter_of("default")
    client = AsyncClient()
    response = await client.get(URL)
    assert (response.status_code, response.content) == (200, b"ready\n")
    assert response["Cache-Control"] == "no-store"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Content-Type"] == "text/plain; charset=utf-8"
    limiter.state.level = Level.FULL
    response = await client.get(URL)
    assert (response.status_code, response.content) == (503, b"full\n")
    assert (await client.get(f"{URL}?ignore=full")).status_code == 200
    assert (await client.head(URL)).status_code == 503
    assert (await client.post(URL)).status_code == 405
    await close_limiters()


async def test_a_site_that_asks_everybody_to_log_in_lets_balancers_ask(admission, settings):
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    admission()
    assert (await AsyncClient().get(URL)).status_code == 200


# Ahead of Django


async def ask(application, path="/readiness/", method="GET", query=b"", kind="http"):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "path": path, "method": method, "query_string": query}
    await application(scope, None, send)
    return sent


async def inner(scope, receive, send):
    await send("inner")


async def test_ahead_of_django_one_path_is_answered_and_all_else_passed_on(admission):
    admission()
    application = AdmissionReadiness(inner)
    start, body = await ask(application)
    assert start["status"] == 200
    assert dict(start["headers"]) == {
        b"content-type": b"text/plain; charset=utf-8",
        b"content-length": b"5",
        b"cache-control": b"no-store",
        b"x-content-type-options": b"nosniff",
    }
    assert body["body"] == b"idle\n"
    assert (await ask(application, method="HEAD"))[1]["body"] == b""
    assert (await ask(application, query=b"pool=%ff"))[0]["status"] == 404
    for other in ({"path": "/"}, {"method": "POST"}, {"kind": "websocket"}):
        assert await ask(application, **other) == ["inner"]
    assert (await ask(AdmissionReadiness(inner, path="/up"), path="/up"))[0]["status"] == 200


# As a real server


def fetch(url: str, **headers) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as response:
            return response.status, response.read().decode().strip()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode().strip()


@pytest.mark.integration
@pytest.mark.parametrize("path", [URL, "/readiness/"])
async def test_each_worker_answers_for_itself(admission, prefix, redis_server, tmp_path, path):
    marked = tmp_path / "marked"
    marked.touch()
    keys = {
        "LEDGER": redis_server.url, "PREFIX": prefix, "MAX_CONNECTIONS": 20, "HEARTBEAT": 0.2, "LEASE": 5,
        "PRESSURE": {"lag": None, "marked": {"MONITOR": "demo.load.marked", "THRESHOLDS": [0.5, 1]}},
    }  # fmt: skip
    admission(**{**keys, "PRESSURE": {"lag": None}})
    env = {"MARKED": str(marked)}
    workers = Workers("uvicorn", 2, redis_url=redis_server.url, settings=keys, shared_port=False, env=env)

    async def seen(*words: str) -> bool:
        found = [await asyncio.to_thread(fetch, origin + path) for origin in workers.origins]
        return found == [(200 if word == "ready" else 503, word) for word in words]

    with workers:
        await eventually(lambda: seen("ready", "ready"), 10)
        clients = await enter_many(20, workers.origins)
        await eventually(lambda: seen("full", "full"), 10)
        ignoring = [await asyncio.to_thread(fetch, f"{origin}{path}?ignore=full") for origin in workers.origins]
        assert ignoring == [(200, "ready")] * 2
        await leave_all(clients)
        await eventually(lambda: seen("ready", "ready"), 10)
        marked.write_text(str(workers.pids[0]))
        await eventually(lambda: seen("saturated", "ready"), 10)
        marked.write_text("")
        await eventually(lambda: seen("ready", "ready"), 10)
        strange = await asyncio.to_thread(fetch, workers.origin + path, Host="10.0.0.3")
        assert strange[0] == (200 if path == "/readiness/" else 400)
