#!/usr/bin/env python
"""Take the pictures of the README: ``python testproject/screenshots.py``. Needs Selenium, Chromium and its driver."""

import asyncio
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import django
import redis.asyncio
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.wait import WebDriverWait

from channels_admission import conf
from channels_admission.core.counters import ADMITTED, MISSED, PROMISED, REDEEMED, RELEASED
from channels_admission.core.protocol import Report
from channels_admission.core.readings import HistoryBucket, Load
from channels_admission.ledger import open_ledger
from channels_admission.ledger.base import MINUTES, SECONDS, Ledger
from channels_admission.ledger.buckets import written

from demo.consumers import HERD
from demo.servers import TESTPROJECT, Redis, Workers, environment, free_port
from demo.stage import ADMINISTRATOR, PASSWORD, administer, stage
from demo.views import RESTARTER

DOCS = TESTPROJECT.parent / "docs"
LIMIT, HOLDING = 50, 38
COMING, HERD_LIMIT, RATE = 200, 150, 10
WORKERS = {
    "web-1:2117:5f0c": {"lag": 0.004, "memory": 0.31, "descriptors": 0.02, "cpu": 0.12},
    "web-1:2118:a94e": {"lag": 0.006, "memory": 0.31, "descriptors": 0.02, "cpu": 0.15},
    "web-2:1893:07d1": {"lag": 0.003, "memory": 0.28, "descriptors": 0.03, "cpu": 0.09},
}
"""The readings of each worker."""
UPTIME = 60 * (MINUTES - 1)
TWO_CHARTS = 6
TIMEOUT = 30
CONTENT_HEIGHT = """
  const parts = [...document.querySelectorAll("#content > *, body > main > *")]
  const bottoms = parts.map((part) => part.getBoundingClientRect().bottom)
  return Math.ceil(Math.max(...bottoms)) + 32
"""


@contextmanager
def browser(width: int = 1060, height: int = 900, dark: bool = False) -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--force-device-scale-factor=2"):
        options.add_argument(argument)
    # Search the PATH first: Selenium would look for a newer one on the network.
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": theme})
        resize(driver, width, height)
        yield driver
    finally:
        driver.quit()


def resize(driver: WebDriver, width: int, height: int) -> None:
    """Set the page's size in CSS pixels; a window cannot be narrower than some 500."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def wait(driver: WebDriver, condition: Callable[[WebDriver], object]) -> None:
    WebDriverWait(driver, TIMEOUT, poll_frequency=0.1).until(condition)


def log_in(driver: WebDriver, origin: str) -> None:
    wait(driver, lambda page: answers(page, f"{origin}/admin/"))
    driver.find_element(By.NAME, "username").send_keys(ADMINISTRATOR)
    password = driver.find_element(By.NAME, "password")
    password.send_keys(PASSWORD)
    password.submit()
    wait(driver, lambda page: "/login/" not in page.current_url)


def answers(driver: WebDriver, url: str) -> bool:
    """Whether the page has come; a server may have to start first."""
    with suppress(WebDriverException):
        driver.get(url)
    return bool(driver.find_elements(By.NAME, "username"))


def run_demo(driver: WebDriver, workers: Workers) -> None:
    """Connect a herd, and stop half-way through its coming in."""
    driver.get(workers.origin)
    count = driver.find_element(By.ID, "count")
    count.clear()
    count.send_keys(str(COMING))
    driver.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
    wait(driver, lambda page: HERD_LIMIT / 2 < cells(page, "open") < 0.8 * HERD_LIMIT)


def cells(driver: WebDriver, state: str) -> int:
    """How many of the page's sockets are in that state."""
    return len(driver.find_elements(By.CSS_SELECTOR, f"#cells .{state}"))


def shoot(driver: WebDriver, folder: Path, name: str) -> None:
    """Save the page, as wide as the window and down to the end of its content, as ``name``.png."""
    resize(driver, driver.execute_script("return innerWidth"), driver.execute_script(CONTENT_HEIGHT))
    driver.save_screenshot(str(folder / f"{name}.png"))


@asynccontextmanager
async def a_day() -> AsyncIterator[None]:
    """Keep three workers in the ledger that have run for a day, with all that they have counted.

    The history, the counters and the uptimes agree: a day whose rush hour is at the limit, and two such minutes. In the
    oldest part, and while the pictures are taken, nothing comes.
    """
    settings = conf.current()
    ledger = open_ledger(settings)
    workers = [Made(*each) for each in zip(WORKERS, split(HOLDING), strict=True)]
    async with asyncio.timeout(TIMEOUT):
        while not await report(ledger, workers):
            await asyncio.sleep(settings.heartbeat)
    now = int(time.time()) + 1
    seconds, minutes = past(now)
    for worker, counted in zip(workers, counters(minutes), strict=True):
        worker.count(counted)
    await report(ledger, workers)
    # The buckets of the present second and minute are overwritten, with all those of the past.
    await asyncio.sleep(max(0, now - time.time()))
    async with redis.asyncio.Redis.from_url(os.environ["REDIS_URL"]) as client:
        for part, buckets in (("minutes", minutes), ("seconds", seconds)):
            size = len(buckets)
            values = {str(bucket.at % size): written(bucket) for bucket in buckets}
            await client.hset(f"{settings.prefix}:{{default}}:{part}", mapping=values)  # type: ignore[misc]
    is_over = asyncio.Event()
    task = asyncio.create_task(report_on(ledger, workers, settings.heartbeat, is_over))
    try:
        yield
    finally:
        is_over.set()
        await asyncio.gather(task, return_exceptions=True)
        await ledger.aclose()


class Made:
    """A worker that exists in its reports alone."""

    def __init__(self, name: str, held: int) -> None:
        self.began = time.time() - UPTIME
        load = tuple(Load(monitor, value, 0.0) for monitor, value in WORKERS[name].items())
        self.report = Report(name, 0, held, 0, LIMIT, 0, 0, server="uvicorn", load=load)

    def count(self, counted: dict[str, int]) -> None:
        """Tell from the next report on what it has counted: a ledger that settles does not add it up."""
        released = {RELEASED: counted[ADMITTED] - self.report.held}
        self.report = replace(self.report, counters={**counted, **released})

    async def say(self, ledger: Ledger) -> bool:
        """Report, and return whether the ledger knows by now that it has heard of all workers."""
        self.report = replace(self.report, seq=self.report.seq + 1, age=time.time() - self.began)
        reply = await ledger.reconcile("default", self.report)
        acknowledged = self.report.counters
        self.report = replace(self.report, acknowledged=acknowledged, version=reply.version, level=reply.level)
        return not reply.settling


async def report(ledger: Ledger, workers: Sequence[Made]) -> bool:
    return all([await worker.say(ledger) for worker in workers])


async def report_on(ledger: Ledger, workers: Sequence[Made], every: float, is_over: asyncio.Event) -> None:
    """Report until ``is_over``. Not until a cancellation: Python 3.11 may lose one in ``asyncio.wait_for``."""
    while not is_over.is_set():
        await report(ledger, workers)
        with suppress(TimeoutError):
            async with asyncio.timeout(every):
                await is_over.wait()


def past(now: int) -> tuple[list[HistoryBucket], list[HistoryBucket]]:
    """The history until ``now`` by the second and by the minute."""
    draw = random.Random(1013)
    seconds = [second(now - ago, ago, draw) for ago in range(SECONDS)]
    by_minute = {at: list(some) for at, some in groupby(reversed(seconds), key=lambda each: each.at // 60)}
    minutes = [
        together(now // 60 - ago, by_minute[now // 60 - ago]) if now // 60 - ago in by_minute
        else minute(now // 60 - ago, ago, draw)
        for ago in range(MINUTES)
    ]  # fmt: skip
    return seconds, minutes


def counters(minutes: Sequence[HistoryBucket]) -> list[dict[str, int]]:
    """What each worker has counted in these minutes."""
    whole = together(0, minutes)
    lost = sum(whole.refused.values())
    total = {
        ADMITTED: whole.admitted, **whole.refused,
        PROMISED: lost, REDEEMED: round(0.9 * lost), MISSED: round(0.01 * lost),
    }  # fmt: skip
    parts = {name: split(count) for name, count in total.items()}
    return [{name: part[number] for name, part in parts.items()} for number in range(len(WORKERS))]


def split(count: int) -> list[int]:
    """A count in a part for each worker."""
    return [(count + number) // len(WORKERS) for number in range(len(WORKERS))]


def second(at: int, ago: int, draw: random.Random) -> HistoryBucket:
    share = 0.98 if 300 < ago < 420 else 0.7 + 0.05 * math.sin(ago / 60)
    return made_up(at, share, 1, draw, is_still=ago > SECONDS - 60)


def minute(at: int, ago: int, draw: random.Random) -> HistoryBucket:
    share = 0.55 - 0.45 * math.cos(math.tau * (ago / MINUTES + 0.31))
    return made_up(at, share, 60, draw, is_still=ago > MINUTES - 3)


def made_up(at: int, share: float, step: int, draw: random.Random, *, is_still: bool) -> HistoryBucket:
    """A bucket of so many seconds."""
    held = min(LIMIT, round(LIMIT * (share + draw.uniform(-0.03, 0.03))))
    come, over = step * held * draw.uniform(0.02, 0.06), round(step * draw.uniform(1, 4))
    if is_still:
        return HistoryBucket(at, held, LIMIT, 0, {})
    return HistoryBucket(at, held, LIMIT, round(come), {"full": over, "rate": over // 3} if held >= LIMIT - 1 else {})


def together(at: int, buckets: Sequence[HistoryBucket]) -> HistoryBucket:
    """Several buckets as one."""
    refused = Counter[str]()
    for bucket in buckets:
        refused.update(bucket.refused)
    held = max(bucket.held or 0 for bucket in buckets)
    return HistoryBucket(at, held, LIMIT, sum(bucket.admitted for bucket in buckets), dict(refused))


@contextmanager
def site() -> Iterator[str]:
    """Serve the admin from a process that is no worker of the pool, with an empty Redis. Yields its origin."""
    with Redis() as server, tempfile.TemporaryDirectory(prefix="pictures-") as folder:
        env = environment(server.url, {"MAX_CONNECTIONS": LIMIT, "HEARTBEAT": 0.5}, Path(folder, "db.sqlite3"))
        administer(env)
        os.environ.update(env)
        django.setup()
        with served(env) as origin:
            yield origin


@contextmanager
def served(env: Mapping[str, str]) -> Iterator[str]:
    """Serve the test project without WebSockets, and yield its origin, maybe before it answers."""
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    command = [sys.executable, "manage.py", "runserver", "--noreload", "--skip-checks", address]
    silence = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=TESTPROJECT, env=env, **silence) as process:
        try:
            yield f"http://{address}"
        finally:
            process.terminate()


async def shoot_admin(origin: str, folder: Path) -> None:
    async with a_day():
        await asyncio.to_thread(_shoot_admin, origin, folder)


def _shoot_admin(origin: str, folder: Path) -> None:
    with browser() as driver:
        log_in(driver, origin)
        wait(driver, lambda page: page.find_elements(By.CSS_SELECTOR, "[data-chart] path"))
        shoot(driver, folder, "admin-index")
        driver.get(f"{origin}/admin/channels_admission/pool/")
        wait(driver, lambda page: len(page.find_elements(By.CSS_SELECTOR, "[data-chart] path")) > TWO_CHARTS)
        shoot(driver, folder, "admin-status")


def shoot_demo(workers: Workers, folder: Path, name: str = "demo", width: int = 800, dark: bool = False) -> None:
    with browser(width, dark=dark) as driver:
        run_demo(driver, workers)
        shoot(driver, folder, name)


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    with site() as origin:
        asyncio.run(shoot_admin(origin, folder))
    herd = {"MAX_CONNECTIONS": HERD_LIMIT, "CONNECT_RATE": RATE}
    # The page shows its button only under the demo.
    terms = {"MAX_CONNECTIONS": LIMIT, "HEARTBEAT": 0.5, "POOLS": {HERD: herd}}
    with stage("uvicorn", 3, terms, more={RESTARTER: str(os.getpid())}) as workers:
        shoot_demo(workers, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)
