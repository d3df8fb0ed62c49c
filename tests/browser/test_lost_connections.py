"""Connections that a page in a real Chromium gives up: silent ones, endless attempts, those of a page that was left."""

import os
import re
import signal
import time
from contextlib import contextmanager

import pytest
from websockets.exceptions import ConnectionClosed

from demo.servers import Workers
from support import ROOT
from support.browsing import echoes, eventually, holder, load

SILENCE = 2.0
ANSWER = 1.0
TOLERANCE = 1.0
"""Seconds by which a busy machine may be late."""
TIMEOUT = 10.0
IS_OPEN = "watched.socket.readyState === WebSocket.OPEN"


def settings(redis_server, prefix, **keys):
    return {"LEDGER": redis_server.url, "PREFIX": prefix, **keys}


@contextmanager
def silent(processes):
    """The processes stand still, and their kernel keeps every connection: no end of one reaches the client."""
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process.pid, signal.SIGCONT)


def test_a_silent_server_is_noticed_within_the_set_time_and_an_endless_attempt_given_up(browser, redis_server, prefix):
    options = settings(redis_server, prefix, MAX_CONNECTIONS=5)
    times = {"maxSilence": 1000 * SILENCE, "answerTimeout": 1000 * ANSWER, "connectTimeout": 1000}
    with Workers("uvicorn", 1, redis_url=redis_server.url, settings=options) as running:
        load(browser, running.origin)
        browser.execute_script("globalThis.unset = watch()")
        browser.execute_script("globalThis.watched = watch({ ping: 'ping', ...arguments[0] })", times)
        eventually(browser, IS_OPEN)
        eventually(browser, "watched.seen.filter((each) => each === 'ping').length === 2")
        with silent(running.processes):
            started = time.monotonic()
            eventually(browser, "watched.waits.length === 1")
            took = time.monotonic() - started
            eventually(browser, "watched.waits.length === 2")
            assert browser.execute_script("return unset.socket.readyState") == 1
        eventually(browser, IS_OPEN)
        echoes(browser, "hello")
        seen, waits = browser.execute_script("return [watched.seen, watched.waits]")
    assert ANSWER - 0.1 <= took <= SILENCE + TOLERANCE
    assert [wait["reason"] for wait in waits[:2]] == ["silent", "timeout"]
    assert seen[:4] == ["open", "ping", "ping", 1006]
    assert {wait["code"] for wait in waits} == {1006}


def test_a_page_that_is_online_again_asks_and_leaves_a_silent_server(browser, redis_server, prefix):
    options = settings(redis_server, prefix, MAX_CONNECTIONS=5)
    with Workers("uvicorn", 1, redis_url=redis_server.url, settings=options) as running:
        load(browser, running.origin)
        browser.execute_script("globalThis.watched = watch({ ping: 'ping', answerTimeout: 1000 })")
        eventually(browser, IS_OPEN)
        browser.execute_script("dispatchEvent(new Event('online'))")
        eventually(browser, "watched.seen.includes('ping')")
        with silent(running.processes):
            browser.execute_script("dispatchEvent(new Event('online'))")
            eventually(browser, "watched.waits.length === 1")
        eventually(browser, IS_OPEN)
        assert browser.execute_script("return watched.waits[0].reason") == "silent"


def test_a_forced_reconnect_replaces_an_open_connection(browser, redis_server, prefix):
    options = settings(redis_server, prefix, MAX_CONNECTIONS=1, RETRY_AFTER=(0.5, 1))
    with Workers("uvicorn", 1, redis_url=redis_server.url, settings=options) as running:
        load(browser, running.origin)
        browser.execute_script("globalThis.watched = watch()")
        eventually(browser, IS_OPEN)
        browser.execute_script("watched.socket.reconnect({ force: true })")
        eventually(browser, "watched.made.length >= 2 && " + IS_OPEN)
        seen, made, waits = browser.execute_script("return [watched.seen, watched.made, watched.waits]")
    assert seen[:2] == ["open", 1006]
    assert waits[0]["reason"] == "forced"
    assert made[1] - made[0] >= 499


def _sample() -> str:
    """The lines for a plain socket in the documentation."""
    blocks = re.findall(r"^```js\n(.*?)^```", (ROOT / "docs" / "clients.md").read_text(), re.MULTILINE | re.DOTALL)
    (sample,) = [block for block in blocks if "pagehide" in block]
    return sample


PAGES = {
    "AdmissionSocket": ("globalThis.watched = watch(); globalThis.current = () => watched.socket;"),
    "the sample for a plain socket": _sample() + "globalThis.current = () => socket;",
}


@pytest.mark.parametrize("client", PAGES)
def test_a_page_left_by_a_link_holds_no_slot_and_is_connected_when_it_is_shown_again(
    browser, redis_server, prefix, client
):
    options = settings(redis_server, prefix, MAX_CONNECTIONS=1, RETRY_AFTER=(0.5, 1))
    is_open = "current().readyState === WebSocket.OPEN"
    with Workers("uvicorn", 1, redis_url=redis_server.url, settings=options) as running:
        load(browser, running.origin)
        browser.execute_script(PAGES[client])
        eventually(browser, is_open)
        browser.execute_script(
            "addEventListener('pageshow', ({ persisted }) => { globalThis.kept = persisted; });"
            "const link = document.createElement('a'); link.href = '?other'; document.body.append(link); link.click();"
        )
        eventually(browser, "location.search === '?other'")
        _enters(running.origin)
        browser.back()
        eventually(browser, "globalThis.kept === true")
        eventually(browser, is_open)
        if client == "AdmissionSocket":
            seen, waits = browser.execute_script("return [watched.seen, watched.waits]")
            assert seen[:2] == ["open", 1006]
            assert seen[-1] == "open"
            assert waits[0]["reason"] == "left"


def _enters(origin: str) -> None:
    """Enter once the slot of the page is free."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            with holder(origin):
                return
        except ConnectionClosed:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
