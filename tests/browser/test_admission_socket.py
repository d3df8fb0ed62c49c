"""The client in a real Chromium against real servers, and beside it what other clients do with a refusal."""

import asyncio
import re
from importlib.resources import files

import pytest
from websockets.asyncio.client import connect, process_exception
from websockets.exceptions import InvalidStatus

from demo.servers import Workers
from support import ROOT
from support.browsing import echoes, eventually, holder, load
from support.clients import TIMEOUT, Client

TOLERANCE = 200
"""Milliseconds by which an attempt may come later than planned, on a busy machine."""

NAIVE = """
globalThis.naive = { attempts: 0, ended: false };
(function attempt(number) {
  if (naive.ended) return;
  naive.attempts += 1;
  const socket = new WebSocket(url);
  socket.onopen = () => {
    number = 0;
    if (naive.ended) socket.close();
  };
  socket.onclose = () => setTimeout(attempt, 100 * 2 ** number, number + 1);
})(0);
"""
"""A client that resets its backoff when a connection opens."""

SPY = """
globalThis.url = location.origin.replace("http", "ws") + "/ws/echo/";
globalThis.spied = { data: [], codes: [] };
globalThis.WebSocket = class extends WebSocket {
  constructor(...args) {
    super(...args);
    this.addEventListener("open", () => this.send("hello"));
    this.addEventListener("message", ({ data }) => spied.data.push(data));
    this.addEventListener("close", ({ code }) => spied.codes.push(code));
  }
};
"""
"""Says hello in every WebSocket that other code opens, and notes what comes of it."""


def settings(redis_server, prefix, **keys):
    return {"LEDGER": redis_server.url, "PREFIX": prefix, **keys}


def test_the_class_comes_from_the_tag_and_from_the_module(browser, redis_server, prefix):
    options = settings(redis_server, prefix, MAX_CONNECTIONS=5)
    with Workers("uvicorn", 1, redis_url=redis_server.url, settings=options) as running:
        for query in ("tag", "module", "tag&module"):
            load(browser, running.origin, query)
            if "module" in query:
                eventually(browser, "globalThis.exported?.every((each) => each === AdmissionSocket)")
            browser.execute_script("globalThis.watched = watch()")
            eventually(browser, "watched.socket.readyState === WebSocket.OPEN")
            echoes(browser, "hello")
            assert browser.execute_script("return watched.seen") == ["open", "hello"]
            assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
def test_a_refused_page_waits_as_told_and_gets_in_when_a_slot_is_free(browser, redis_server, prefix, server):
    # Both clients come from the same browser, so the refusals of one that hammers would be held.
    options = settings(redis_server, prefix, MAX_CONNECTIONS=1, RETRY_AFTER=(1, 2), REFUSAL_HOLD=0)
    with Workers(server, 1, redis_url=redis_server.url, settings=options) as running:
        load(browser, running.origin)
        with holder(running.origin):
            browser.execute_script("globalThis.watched = watch({}, ['chat.v2', 'chat.v1'])")
            browser.execute_script(NAIVE)
            eventually(browser, "watched.waits.length >= 2 && naive.attempts >= 8")
            hammered = browser.execute_script("naive.ended = true; return naive.attempts")
        eventually(browser, "watched.socket.readyState === WebSocket.OPEN")
        seen, waits, made = browser.execute_script("return [watched.seen, watched.waits, watched.made]")
        assert browser.execute_script("return watched.socket.protocol") == "chat.v2"
        first, *urls = browser.execute_script("return watched.urls")
        assert browser.execute_script("return watched.socket.url") == first
    assert seen == [1013] * len(waits) + ["open"]
    for wait, attempt in zip(waits, made[1:], strict=True):
        assert wait["hinted"]
        assert 1000 <= wait["delay"] <= 2000
        assert -1 <= attempt - wait["retryAt"] <= TOLERANCE
    assert len(waits) < hammered
    tickets = [re.search(r"; ticket=([\w-]{24}); retry-after=", wait["reason"])[1] for wait in waits]
    assert urls == [f"{first}?admission_ticket={ticket}" for ticket in tickets]
    assert all(wait["hasPlace"] for wait in waits)


def test_the_sample_of_the_documents_says_when_the_server_is_back(browser, redis_server, prefix):
    (sample,) = re.findall(r"<script nonce.*?>(.*?)</script>", (ROOT / "docs" / "clients.md").read_text(), re.DOTALL)
    options = settings(redis_server, prefix, MAX_CONNECTIONS=0, RETRY_AFTER=(7, 7))
    with Workers("uvicorn", 1, redis_url=redis_server.url, settings=options) as running:
        load(browser, running.origin)
        browser.execute_script("document.body.innerHTML = '<p id=notice>'")
        browser.execute_script(sample)
        for seconds in (7, 6):
            eventually(browser, f"notice.textContent === 'You have a place, back in {seconds} s'")


def test_a_page_comes_back_after_its_server_was_killed(browser, redis_server, prefix):
    options = settings(redis_server, prefix, MAX_CONNECTIONS=5)
    with Workers("uvicorn", 1, redis_url=redis_server.url, settings=options) as running:
        load(browser, running.origin)
        browser.execute_script("globalThis.watched = watch({ firstRetryWindow: 1000, queue: 1000 })")
        eventually(browser, "watched.socket.readyState === WebSocket.OPEN")
        for process in running.processes:
            process.kill()
        eventually(browser, "watched.waits.length >= 2")
    browser.execute_script("watched.socket.send('meanwhile')")
    with Workers("uvicorn", 1, redis_url=redis_server.url, settings=options, port=running.port):
        eventually(browser, "watched.seen.includes('meanwhile')")
        seen, waits = browser.execute_script("return [watched.seen, watched.waits]")
    assert seen[0] == "open"
    assert set(seen[1:-2]) == {1006}
    assert seen[-2:] == ["open", "meanwhile"]
    assert not any(wait["hinted"] for wait in waits)


def test_a_page_that_is_offline_or_hidden_retries_when_it_no_longer_is(browser, redis_server, prefix):
    options = settings(redis_server, prefix, MAX_CONNECTIONS=5, MAX_CONNECTION_AGE=2)
    with Workers("uvicorn", 1, redis_url=redis_server.url, settings=options) as running:
        load(browser, running.origin)
        for paused, leave, come in (("offline", _go_offline, _go_online), ("hidden", _hide, _show)):
            browser.execute_script("globalThis.watched = watch()")
            eventually(browser, "watched.socket.readyState === WebSocket.OPEN")
            leave(browser)
            echoes(browser, "still here")
            eventually(browser, f"watched.socket.waiting?.paused === '{paused}'")
            assert browser.execute_script("return watched.made.length") == 1
            come(browser)
            eventually(browser, "watched.socket.readyState === WebSocket.OPEN")
            seen = browser.execute_script("watched.socket.close(); return watched.seen")
            assert seen == ["open", "still here", 1012, "open"]


def _go_offline(browser) -> None:
    _emulate_network(browser, offline=True)
    eventually(browser, "navigator.onLine === false")


def _go_online(browser) -> None:
    _emulate_network(browser, offline=False)


def _emulate_network(browser, offline: bool) -> None:
    conditions = {"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", conditions)


def _hide(browser) -> None:
    browser.minimize_window()
    eventually(browser, "document.visibilityState === 'hidden'")


def _show(browser) -> None:
    browser.set_window_rect(0, 0, 800, 600)
    eventually(browser, "document.visibilityState === 'visible'")


def test_of_200_sockets_exactly_as_many_as_the_limit_are_open_and_all_others_know_when_to_return(
    browser, redis_server, prefix
):
    options = settings(redis_server, prefix, MAX_CONNECTIONS=50, RETRY_AFTER=(60, 90), REFUSAL_HOLD=0)
    with Workers("uvicorn", 2, redis_url=redis_server.url, settings=options) as running:
        load(browser, running.origin)
        browser.execute_script("globalThis.crowd = Array.from({ length: 200 }, () => watch({ settle: 1000 }))")
        knows = "({ socket }) => socket.readyState === WebSocket.OPEN || socket.waiting?.hinted"
        eventually(browser, f"crowd.every({knows})", 30)
        seen = browser.execute_script("return crowd.map(({ seen }) => seen)")
        delays = browser.execute_script("return crowd.flatMap(({ waits }) => waits.map(({ delay }) => delay))")
    assert seen.count(["open"]) == 50
    assert sum(each[-1] == 1013 and "open" not in each for each in seen) == 150
    assert all(60_000 <= delay <= 90_000 for delay in delays)


@pytest.mark.parametrize("version", [2, 4])
def test_the_websocket_extension_of_htmx_comes_back_by_itself(browser, redis_server, prefix, version):
    options = settings(redis_server, prefix, MAX_CONNECTIONS=1)
    with Workers("uvicorn", 1, redis_url=redis_server.url, settings=options) as running:
        browser.get(f"{running.origin}/blank/")
        with holder(running.origin):
            browser.execute_script(SPY)
            for name in (f"htmx-{version}.js", f"ext/hx-ws-{version}.js"):
                script = files("django_htmx").joinpath("static", "django_htmx", *name.split("/")).read_text()
                browser.execute_cdp_cmd("Runtime.evaluate", {"expression": script})
            element = '<div hx-ext="ws" ws-connect="/ws/echo/" hx-ws:connect="/ws/echo/"></div>'
            browser.execute_script("document.body.innerHTML = arguments[0]; htmx.process(document.body)", element)
            eventually(browser, "spied.codes.length >= 2")
        eventually(browser, "spied.data.length > 0")
        assert browser.execute_script("return spied.data") == ["hello"]
        assert set(browser.execute_script("return spied.codes")) == {1013}


async def test_the_websockets_library_comes_back_by_itself_when_refused_with_503(redis_server, prefix):
    options = settings(redis_server, prefix, MAX_CONNECTIONS=1, REFUSE_WITH="http")
    refused = asyncio.get_running_loop().create_future()

    def judge(error: Exception) -> Exception | None:
        if not refused.done():
            refused.set_result(error)
        return process_exception(error)

    with Workers("uvicorn", 1, redis_url=redis_server.url, settings=options) as running:
        first = await Client.enter(running.origin)
        url = running.origin.replace("http", "ws", 1) + "/ws/echo/"

        async def come_back() -> str:
            async for client in connect(url, origin=running.origin, process_exception=judge, proxy=None):
                async with client:
                    await client.send("hello")
                    return await client.recv()

        task = asyncio.create_task(come_back())
        refusal = await asyncio.wait_for(refused, TIMEOUT)
        await first.leave()
        assert await asyncio.wait_for(task, TIMEOUT) == "hello"
    assert isinstance(refusal, InvalidStatus)
    assert refusal.response.status_code == 503
    assert refusal.response.headers["Retry-After"].isdigit()
