"""A real Chromium before four real workers: an operator sees a crowd come, raises the limit, and empties a worker."""

import asyncio
import re
import time
from contextlib import AsyncExitStack

import pytest
from selenium.webdriver.support.wait import WebDriverWait

from demo.clients import by_worker, crowd
from demo.stage import ADMINISTRATOR, PASSWORD, manage, stage

LIMIT, MORE, CROWD = 50, 80, 30
WORKERS = 4
BEAT = 0.5
PAGE = "/admin/channels_admission/pool/"
PATIENCE = 20
GUEST = """
from django.contrib.auth.models import Permission, User
guest = User.objects.create_user("guest", password="guest", is_staff=True)
guest.user_permissions.add(Permission.objects.get(codename="view_pool"))
"""
GET_AND_POST = """
const [data, done] = arguments;
const token = document.cookie.match(/csrftoken=(\\w+)/)[1];
const body = new URLSearchParams({ ...data, csrfmiddlewaretoken: token });
fetch("/admin/channels_admission/pool/act/", { method: "POST", body }).then((response) => done(response.status));
"""
ACTIONS = [
    *({"kind": kind, "pool": "default", "limit": "1"} for kind in ("limit", "reset", "pause", "resume")),
    *({"kind": kind, "pool": "default"} for kind in ("dry-run-on", "dry-run-off")),
    *({"kind": kind, "target": "vm", "over": "1"} for kind in ("drain", "cancel")),
]

pytestmark = [pytest.mark.integration, pytest.mark.browser]


class Operator:
    """Somebody at a browser."""

    def __init__(self, browser, origin: str) -> None:
        self.browser, self.origin = browser, origin

    def log_in(self, name: str, password: str) -> None:
        self.browser.delete_all_cookies()
        self.browser.get(f"{self.origin}/admin/login/?next={PAGE}")
        self.find('[name="username"]').send_keys(name)
        self.find('[name="password"]').send_keys(password)
        self.find('[type="submit"]').click()
        self.wait(lambda: self.browser.current_url.endswith(PAGE))

    def find(self, selector: str):
        return self.browser.find_element("css selector", selector)

    def all(self, selector: str) -> list:
        return self.browser.find_elements("css selector", selector)

    def wait(self, holds, seconds: float = PATIENCE) -> float:
        """How many seconds it took until it held."""
        began = time.monotonic()
        WebDriverWait(self.browser, seconds, 0.05).until(lambda _: holds())
        return time.monotonic() - began

    def shown(self, field: str) -> str:
        return self.find(f'[data-list="pools"] > [data-key="default"] [data-field="{field}"]').text

    def confirm(self) -> str:
        """Say yes, and return what had been asked."""
        asked = self.find("#content form p").text
        self.find('#content form [type="submit"]').click()
        self.wait(lambda: self.browser.current_url.endswith(PAGE))
        return asked

    def set_limit(self, limit: int) -> str:
        self.find(".admission-controls summary").click()
        self.find('.admission-controls [name="limit"]').send_keys(str(limit))
        self.find('.admission-controls [name="limit"]').submit()
        self.wait(lambda: self.all(".cancel-link"))
        return self.confirm()

    def drain(self, pid: int) -> str:
        """Drain the worker within two seconds."""
        host = self.find('[data-field="worker.host"]').text
        self.find(".admission-controls summary").click()
        self.find('.admission-controls [name="target"]').send_keys(f"{host}:{pid}")
        over = self.find('.admission-controls [name="over"]')
        over.clear()
        over.send_keys("2")
        over.submit()
        self.wait(lambda: self.all(".cancel-link"))
        return self.confirm()


async def test_an_operator_sees_a_crowd_raises_the_limit_and_drains_a_worker(browser):
    with stage("uvicorn", WORKERS, {"MAX_CONNECTIONS": LIMIT, "BEAT": BEAT}) as workers:
        await asyncio.to_thread(manage, workers.env, "shell", "-c", GUEST)
        operator = Operator(browser, workers.origin)
        async with AsyncExitStack() as stack:
            await asyncio.to_thread(operator.log_in, ADMINISTRATOR, PASSWORD)
            assert operator.shown("pool.held") == "0"

            first = await stack.enter_async_context(crowd(workers.origin, "/ws/echo/", CROWD))
            assert await asyncio.to_thread(operator.wait, lambda: operator.shown("pool.held") == str(CROWD), 3)
            assert await asyncio.to_thread(operator.wait, lambda: operator.all('[data-chart="seconds"] path'), 3)

            asked = await asyncio.to_thread(operator.set_limit, MORE)
            assert asked == f"Set the limit of the pool default from {LIMIT} to {MORE}?"
            await asyncio.to_thread(operator.wait, lambda: operator.shown("pool.limit") == str(MORE))
            more = MORE - CROWD
            second = await stack.enter_async_context(crowd(workers.origin, "/ws/echo/", more, within=1.0))
            assert by_worker(first).total() + by_worker(second).total() == MORE
            assert len(by_worker([*first, *second])) == WORKERS
            await asyncio.to_thread(operator.wait, lambda: operator.shown("pool.held") == str(MORE), 3)
            assert operator.shown("order.what") == f"Limit {MORE}, by the settings {LIMIT}"

            (busiest, held), *_ = by_worker([*first, *second]).most_common()
            asked = await asyncio.to_thread(operator.drain, busiest)
            assert re.match(rf"Drain \S+:{busiest}\?", asked)
            await asyncio.to_thread(
                operator.wait, lambda: operator.shown("pool.held") == str(MORE - held) and not by_worker(first)[busiest]
            )
            assert not by_worker(second)[busiest]
            third = await stack.enter_async_context(crowd(workers.origin, "/ws/echo/", 2 * held, within=1.0))
            assert by_worker(third)[busiest] == 0
            assert by_worker(third).total() > 0
        noted = [entry["message"] for entry in browser.get_log("browser") if "favicon" not in entry["message"]]
        assert noted == []

        await asyncio.to_thread(operator.log_in, "guest", "guest")
        assert operator.shown("pool.limit") == str(MORE)
        assert operator.all("#content button") == []
        for data in ACTIONS:
            assert browser.execute_async_script(GET_AND_POST, {**data, "confirmed": "yes"}) == 403
