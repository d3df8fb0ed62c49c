"""A real Chromium against real servers: what a page can see of a refusal."""

import pytest

from demo.servers import Workers

OPEN_SOCKET = """
const [protocols, done] = arguments;
const seen = [];
const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws/echo/", protocols);
socket.onopen = () => seen.push(["open", socket.protocol]);
socket.onclose = (event) => { seen.push(["close", event.code, event.reason]); done(seen); };
"""


@pytest.mark.parametrize("subprotocols", [[], ["chat.v2", "chat.v1"]], ids=["plain", "subprotocols"])
@pytest.mark.parametrize("server", ["daphne", "uvicorn"])
def test_onclose_gets_1013_and_the_reason(browser, redis_server, prefix, server, subprotocols):
    settings = {"MAX_CONNECTIONS": 0, "LEDGER": redis_server.url, "PREFIX": prefix}
    with Workers(server, 1, redis_url=redis_server.url, settings=settings) as running:
        browser.get(f"{running.origin}/")
        opened, closed = browser.execute_async_script(OPEN_SOCKET, subprotocols)
    assert opened == ["open", subprotocols[0] if subprotocols else ""]
    assert closed[:2] == ["close", 1013]
    assert closed[2].startswith("Try Again Later; ticket=")
