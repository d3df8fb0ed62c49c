"""A real Chromium against real servers: what a page can see of a refusal."""

import os
import shutil
from collections.abc import Iterator

import pytest
from selenium import webdriver

from demo.servers import Workers

pytestmark = [pytest.mark.integration, pytest.mark.browser]

OPEN_SOCKET = """
const [protocols, done] = arguments;
const seen = [];
const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws/echo/", protocols);
socket.onopen = () => seen.push(["open", socket.protocol]);
socket.onclose = (event) => { seen.push(["close", event.code, event.reason]); done(seen); };
"""


@pytest.fixture(scope="session")
def chromium() -> Iterator[webdriver.Chrome]:
    paths = [shutil.which("chromium"), shutil.which("chromedriver")]
    if not all(paths):
        if os.environ.get("CI"):
            pytest.fail("Chromium and its driver must be there in CI.")
        pytest.skip("no Chromium with its driver on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for argument in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-background-networking",
        "disable-component-update",
    ):
        options.add_argument(f"--{argument}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(paths[1]))
    driver.set_script_timeout(20)
    yield driver
    driver.quit()


@pytest.mark.parametrize("subprotocols", [[], ["chat.v2", "chat.v1"]], ids=["plain", "subprotocols"])
@pytest.mark.parametrize("server", ["daphne", "uvicorn"])
def test_onclose_gets_1013_and_the_reason(chromium, redis_server, prefix, server, subprotocols):
    settings = {"MAX_CONNECTIONS": 0, "LEDGER": redis_server.url, "PREFIX": prefix}
    with Workers(server, 1, redis_url=redis_server.url, settings=settings) as running:
        chromium.get(f"{running.origin}/")
        opened, closed = chromium.execute_async_script(OPEN_SOCKET, subprotocols)
    assert opened == ["open", subprotocols[0] if subprotocols else ""]
    assert closed[:2] == ["close", 1013]
    assert closed[2].startswith("Try Again Later; retry-after=")
