"""What our side closes over HTTP/2 ends nothing but itself: a real Chromium, hypercorn with TLS."""

import time
from collections import Counter

import pytest
import trustme

from demo.servers import Workers
from support.clients import shows
from support.waiting import eventually

LIMIT, SOCKETS, LOADS = 5, 8, 4
OPEN = """
globalThis.sockets = [];
for (let number = 0; number < arguments[0]; number += 1) {
  const seen = { code: null, echoed: 0 };
  const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws/echo/");
  socket.onopen = () => socket.send("hello");
  socket.onmessage = () => { seen.echoed += 1; };
  socket.onclose = ({ code }) => { seen.code = code; };
  sockets.push({ socket, seen });
}
"""
ANSWERED = "sockets.every(({ seen }) => seen.code !== null || seen.echoed > 0)"
AGAIN = """
for (const { socket, seen } of sockets) {
  seen.echoed = 0;
  if (socket.readyState === 1) socket.send("again");
}
"""
CODES = "return sockets.map(({ seen }) => seen.code)"
PROTOCOL = "return performance.getEntriesByType('navigation')[0].nextHopProtocol"


@pytest.fixture
def certificate(tmp_path) -> list[str]:
    """Arguments that let hypercorn speak TLS, and so HTTP/2."""
    made = trustme.CA().issue_cert("127.0.0.1")
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    made.private_key_pem.write_to_path(key)
    made.cert_chain_pems[0].write_to_path(chain)
    return ["--certfile", str(chain), "--keyfile", str(key)]


def until(browser, expression: str) -> None:
    deadline = time.monotonic() + 10
    while not browser.execute_script(f"return {expression}"):
        if time.monotonic() > deadline:
            raise AssertionError(f"still not true: {expression}; codes {browser.execute_script(CODES)}")
        time.sleep(0.02)


@pytest.mark.parametrize("browser", [["ignore-certificate-errors"]], indirect=True, ids=["chromium"])
@pytest.mark.parametrize(("refuse_with", "code"), [("close", 1013), ("http", 1006)])
async def test_the_admitted_live_on_and_the_refused_are_told(
    browser, certificate, admission, redis_server, prefix, refuse_with, code
):
    keys = {
        "LEDGER": redis_server.url, "PREFIX": prefix, "REFUSE_WITH": refuse_with, "PRESSURE": {"lag": None},
        # A full pool would keep slots for the refused clients of the page before.
        "QUOTAS": [{"key": "address", "max": LIMIT}],
    }  # fmt: skip
    admission(**keys)
    with Workers("hypercorn", 1, redis_url=redis_server.url, settings=keys, args=certificate) as running:
        for _ in range(LOADS):
            browser.get(f"https://127.0.0.1:{running.port}/blank/?tag")
            await eventually(lambda: browser.execute_script(PROTOCOL) == "h2")
            # The quota still counts the sockets of the page before until the server has seen them end.
            await eventually(lambda: shows(lambda pool: pool.held == 0), 20)
            browser.execute_script(OPEN, SOCKETS)
            for _ in range(3):
                until(browser, ANSWERED)
                assert Counter(browser.execute_script(CODES)) == {None: LIMIT, code: SOCKETS - LIMIT}
                browser.execute_script(AGAIN)
            until(browser, ANSWERED)
        assert "Traceback" not in running.log()
