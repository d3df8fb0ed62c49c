"""A real Chromium before four real workers: an operator sees a crowd come, raises the limit, and empties a worker."""

import asyncio
import re
import time
from collections import Counter
from itertools import count

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.support.wait import WebDriverWait

from demo.stage import ADMINISTRATOR, PASSWORD, manage, stage
from support.clients import Client
from support.waiting import eventually

LIMIT, MORE, CROWD = 50, 80, 30
WORKERS = 4
HEARTBEAT = 0.5
PAUSE = 0.2
PAGE = "/admin/channels_admission/pool/"
TIMEOUT = 20
GUEST = """
from django.contrib.auth.models import Permission, User
guest = User.objects.create_user("guest", password="guest", is_staff=True)
guest.user_permissions.add(Permission.objects.get(codename="view_pool"))
"""
POST_AS_THEY_ARE = """
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


class Crowd:
    """Clients that come to the workers in turn, stay, and go on to the next worker when they are closed."""

    def __init__(self, origins: list[str]) -> None:
        self.origins = origins
        self.held_by: dict[int, int] = {}
        """Client -> the process that holds it, for those that are open."""
        self.tasks: list[asyncio.Task] = []

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()

    def grow(self, more: int) -> None:
        self.tasks += [asyncio.ensure_future(self.live(len(self.tasks) + number)) for number in range(more)]

    def by_worker(self) -> Counter[int]:
        return Counter(self.held_by.values())

    async def live(self, number: int) -> None:
        for turn in count(number):
            client = await Client.enter(self.origins[turn % len(self.origins)])
            if client.is_open:
                self.held_by[number] = client.pid
                await client.socket.wait_closed()
                del self.held_by[number]
            await asyncio.sleep(PAUSE)


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
        self.arrive()

    def arrive(self) -> None:
        """Wait for the dashboard, coming from a page that shows no pools."""
        self.wait(lambda: self.all('[data-list="pools"] > [data-key="default"]'))

    def find(self, selector: str):
        return self.browser.find_element("css selector", selector)

    def all(self, selector: str) -> list:
        return self.browser.find_elements("css selector", selector)

    def wait(self, holds, seconds: float = TIMEOUT) -> float:
        """How many seconds it took until it held."""
        began = time.monotonic()
        gone = [StaleElementReferenceException]
        WebDriverWait(self.browser, seconds, 0.05, ignored_exceptions=gone).until(lambda _: holds())
        return time.monotonic() - began

    def shown(self, field: str) -> str:
        return self.find(f'[data-list="pools"] > [data-key="default"] [data-field="{field}"]').text

    def scrolls_sideways(self, width: int) -> bool:
        """Whether the page is wider than a screen of so many pixels."""
        screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        is_wider = self.browser.execute_script("return document.documentElement.scrollWidth > window.innerWidth")
        self.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        return is_wider

    def confirm(self) -> str:
        """Say yes, and return what had been asked."""
        asked = self.find("#content form p").text
        self.find('#content form [type="submit"]').click()
        self.arrive()
        return asked

    def set_limit(self, limit: int) -> str:
        self.find(".admission-pool .admission-controls summary").click()
        self.find('.admission-controls [name="limit"]').send_keys(str(limit))
        self.find('.admission-controls [name="limit"]').submit()
        self.wait(lambda: self.all(".cancel-link"))
        return self.confirm()

    def drain(self, pid: int) -> str:
        """Drain the worker within two seconds."""
        host = self.find('[data-field="worker.host"]').text
        self.find(".admission-drain summary").click()
        self.find('.admission-drain [name="target"]').send_keys(f"{host}:{pid}")
        over = self.find('.admission-drain [name="over"]')
        over.clear()
        over.send_keys("2")
        over.submit()
        self.wait(lambda: self.all(".cancel-link"))
        return self.confirm()


async def test_an_operator_sees_a_crowd_raises_the_limit_and_drains_a_worker(browser):
    settings = {"MAX_CONNECTIONS": LIMIT, "HEARTBEAT": HEARTBEAT}
    with stage("uvicorn", WORKERS, settings, shared_port=False) as workers, Crowd(workers.origins) as crowd:
        await asyncio.to_thread(manage, workers.env, "shell", "-c", GUEST)
        operator = Operator(browser, workers.origin)
        await asyncio.to_thread(operator.log_in, ADMINISTRATOR, PASSWORD)
        assert operator.shown("pool.held") == "0"

        crowd.grow(CROWD)
        await asyncio.to_thread(operator.wait, lambda: operator.shown("pool.held") == str(CROWD), 3)
        await asyncio.to_thread(operator.wait, lambda: operator.all('[data-chart="seconds"] path'), 3)
        crowd.grow(LIMIT - CROWD)
        await eventually(lambda: crowd.by_worker().total() == LIMIT)

        asked = await asyncio.to_thread(operator.set_limit, MORE)
        assert asked == f"Set the limit of the pool default from {LIMIT} to {MORE}?"
        before = crowd.by_worker()
        crowd.grow(MORE - LIMIT)
        await eventually(lambda: crowd.by_worker().total() == MORE)
        assert len(crowd.by_worker() - before) == WORKERS
        await asyncio.to_thread(operator.wait, lambda: operator.shown("pool.held") == str(MORE), 3)
        assert operator.shown("pool.limit") == str(MORE)
        assert operator.shown("order.what") == f"Limit {MORE} instead of {LIMIT}"

        drained = workers.pids[1]
        asked = await asyncio.to_thread(operator.drain, drained)
        assert re.match(rf"Drain \S+:{drained}\?", asked)
        await eventually(lambda: drained not in crowd.by_worker() and crowd.by_worker().total() == MORE, TIMEOUT)
        await asyncio.to_thread(operator.wait, lambda: operator.all(".admission-draining:not([hidden])"))
        await asyncio.to_thread(operator.wait, lambda: operator.shown("pool.held") == str(MORE))
        assert not await asyncio.to_thread(operator.scrolls_sideways, 360)
        noted = [entry["message"] for entry in browser.get_log("browser") if "favicon" not in entry["message"]]
        assert noted == []

        await asyncio.to_thread(operator.log_in, "guest", "guest")
        assert operator.shown("pool.limit") == str(MORE)
        assert operator.all("#content button") == []
        for data in ACTIONS:
            assert browser.execute_async_script(POST_AS_THEY_ARE, {**data, "confirmed": "yes"}) == 403

        await asyncio.to_thread(manage, workers.env, "ws_limit", str(LIMIT - 1), "--enforce", "--over", "60")
        enforced = f"Limit {LIMIT - 1} instead of {LIMIT}, enforced within 60 s"
        await asyncio.to_thread(operator.wait, lambda: operator.shown("order.what") == enforced)
