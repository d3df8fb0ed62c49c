#!/usr/bin/env python
"""Take the pictures of the README: ``python testproject/screenshots.py``. Needs Selenium, Chromium and its driver."""

import asyncio
import math
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import django
import redis.asyncio
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.wait import WebDriverWait

from channels_admission import conf
from channels_admission.core.counters import ADMITTED, MISSED, PROMISED, REDEEMED, RELEASED
from channels_admission.core.protocol import Report
from channels_admission.core.readings import Moment
from channels_admission.ledger import open_ledger
from channels_admission.ledger.base import MINUTES, SECONDS
from channels_admission.ledger.buckets import written

from demo.clients import crowd
from demo.consumers import HERD
from demo.servers import TESTPROJECT, Workers
from demo.stage import ADMINISTRATOR, PASSWORD, stage
from demo.views import RESTARTER

DOCS = TESTPROJECT.parent / "docs"
LIMIT, HOLDING = 50, 38
COMING, HERD_LIMIT, RATE = 200, 150, 10
PREFIX = "channels_admission"
TWO_CHARTS = 6
PATIENCE = 30
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
    WebDriverWait(driver, PATIENCE, poll_frequency=0.1).until(condition)


def log_in(driver: WebDriver, workers: Workers) -> None:
    driver.get(f"{workers.origin}/admin/")
    driver.find_element(By.NAME, "username").send_keys(ADMINISTRATOR)
    driver.find_element(By.NAME, "password").send_keys(PASSWORD)
    driver.find_element(By.CSS_SELECTOR, "input[type=submit]").click()
    wait(driver, lambda page: page.find_elements(By.ID, "user-tools"))


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


async def make_up_the_past() -> None:
    """Write a history into the ledger: a day whose rush hour is at the limit, and two such minutes; and count it.

    Nothing happens in the oldest part, so that the sums stay the same while the pictures are taken.
    """
    now, draw = int(time.time()), random.Random(1013)
    seconds = [second(now - ago, ago, draw) for ago in range(SECONDS)]
    by_minute = {at: list(some) for at, some in groupby(reversed(seconds), key=lambda each: each.at // 60)}
    minutes = [
        together(now // 60 - ago, by_minute[now // 60 - ago]) if now // 60 - ago in by_minute
        else minute(now // 60 - ago, ago, draw)
        for ago in range(MINUTES)
    ]  # fmt: skip
    past = together(0, minutes)
    lost = sum(past.refused.values())
    counters = {
        ADMITTED: past.admitted, RELEASED: past.admitted, **past.refused,
        PROMISED: lost, REDEEMED: round(0.9 * lost), MISSED: round(0.01 * lost),
    }  # fmt: skip
    settings = conf.current()
    ledger = open_ledger(settings)
    before = Report("web-1:42:ab12", 1, 0, 0, LIMIT, 0, 0, counters=counters)
    await ledger.reconcile("default", before)
    await ledger.reconcile("default", replace(before, seq=2, goodbye=True, acknowledged=counters))
    await ledger.aclose()
    async with redis.asyncio.Redis.from_url(os.environ["REDIS_URL"]) as client:
        for part, moments in (("minutes", minutes), ("seconds", seconds)):
            size = len(moments)
            values = {str(moment.at % size): written(moment) for moment in moments}
            await client.hset(f"{PREFIX}:{{default}}:{part}", mapping=values)  # type: ignore[misc]


def second(at: int, ago: int, draw: random.Random) -> Moment:
    share = 0.98 if 300 < ago < 420 else 0.7 + 0.05 * math.sin(ago / 60)
    return made_up(at, share, 1, draw, is_still=ago > SECONDS - 60)


def minute(at: int, ago: int, draw: random.Random) -> Moment:
    share = 0.55 - 0.45 * math.cos(math.tau * (ago / MINUTES + 0.12))
    return made_up(at, share, 60, draw, is_still=ago > MINUTES - 3)


def made_up(at: int, share: float, step: int, draw: random.Random, *, is_still: bool) -> Moment:
    """A bucket of so many seconds."""
    held = min(LIMIT, round(LIMIT * (share + draw.uniform(-0.03, 0.03))))
    come, over = step * held * draw.uniform(0.02, 0.06), round(step * draw.uniform(1, 4))
    if is_still:
        return Moment(at, held, LIMIT, 0, {})
    return Moment(at, held, LIMIT, round(come), {"full": over, "rate": over // 3} if held >= LIMIT - 1 else {})


def together(at: int, moments: Sequence[Moment]) -> Moment:
    """Several buckets as one."""
    refused = Counter[str]()
    for moment in moments:
        refused.update(moment.refused)
    held = max(moment.held or 0 for moment in moments)
    return Moment(at, held, LIMIT, sum(moment.admitted for moment in moments), dict(refused))


async def shoot_admin(workers: Workers, folder: Path) -> None:
    """The admin's pages while some clients hold their slots."""
    os.environ.update(workers.env)
    django.setup()
    await make_up_the_past()
    async with crowd(workers.origin, "/ws/echo/", HOLDING, within=0.5):
        await asyncio.to_thread(_shoot_admin, workers, folder)


def _shoot_admin(workers: Workers, folder: Path) -> None:
    with browser() as driver:
        log_in(driver, workers)
        wait(driver, lambda page: page.find_elements(By.CSS_SELECTOR, "[data-chart] path"))
        shoot(driver, folder, "admin-index")
        driver.get(f"{workers.origin}/admin/channels_admission/pool/")
        wait(driver, lambda page: len(page.find_elements(By.CSS_SELECTOR, "[data-chart] path")) > TWO_CHARTS)
        shoot(driver, folder, "admin-status")


def shoot_demo(workers: Workers, folder: Path, name: str = "demo", width: int = 800, dark: bool = False) -> None:
    with browser(width, dark=dark) as driver:
        run_demo(driver, workers)
        shoot(driver, folder, name)


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    terms = {"MAX_CONNECTIONS": LIMIT, "HEARTBEAT": 0.5}
    with stage("uvicorn", 3, terms) as workers:
        asyncio.run(shoot_admin(workers, folder))
    herd = {"MAX_CONNECTIONS": HERD_LIMIT, "CONNECT_RATE": RATE}
    # The page shows its button only under the demo.
    with stage("uvicorn", 3, {**terms, "POOLS": {HERD: herd}}, more={RESTARTER: str(os.getpid())}) as workers:
        shoot_demo(workers, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)
