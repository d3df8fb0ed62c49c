"""The demo's page: its button is for the demo alone, and its herd comes back after a restart."""

import json
import re
import signal
import subprocess
import sys

import pytest
from django.test import Client
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from channels_admission import controls

from demo import views
from demo.servers import TESTPROJECT, environment
from support.pages import report

RESTART = "/restart/"
LINE = re.compile(
    r"You have a place; back in \d+ s|\d+ have a place in the line; the first is back in \d+ s, the last in \d+ s"
)
PLACE = re.compile(r"\d+: you have a place; back in \d+ s")
TITLES = "return [...document.querySelectorAll('#cells .waiting')].map(({ title }) => title)"
KEY = "return [...document.querySelectorAll('#key li')].map(({ textContent }) => textContent)"
KEY_IS_ABOVE = "return document.querySelector('#key').getBoundingClientRect().bottom < innerHeight"
FIGURES = """
  const figures = [...document.querySelectorAll('#chart text')].map(({ textContent }) => textContent)
  return figures.filter((text) => !text.startsWith('▲'))
"""
SCALE = """
  const svg = document.querySelector('#chart svg')
  return svg.clientWidth / svg.viewBox.baseVal.width
"""
"""Pixels for a unit of the chart: its letters keep their size on every screen."""
LEGEND = "with a place 1013 Try Again Later; retry-after=N"


@pytest.fixture
def wishes(monkeypatch):
    """What was asked of the process that restarts the workers."""
    sent = []
    monkeypatch.setenv(views.RESTARTER, "4711")
    monkeypatch.setattr(views.os, "kill", lambda *wish: sent.append(wish))
    return sent


def test_the_page_has_a_button_only_where_somebody_answers_it(wishes, monkeypatch):
    assert 'action="/restart/"' in Client().get("/").text
    monkeypatch.delenv(views.RESTARTER)
    assert "restart" not in Client().get("/").text
    assert Client().post(RESTART).status_code == 404


def test_the_button_asks_for_a_restart(wishes):
    client = Client(enforce_csrf_checks=True)
    (token,) = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', client.get("/").text)
    assert client.post(RESTART, {"csrfmiddlewaretoken": token}).status_code == 202
    assert wishes == [(4711, signal.SIGUSR1)]


def test_nobody_else_can(wishes):
    assert Client(enforce_csrf_checks=True).post(RESTART).status_code == 403
    assert Client().get(RESTART).status_code == 405
    assert wishes == []


def screen(width: int) -> tuple[str, dict]:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    return "Emulation.setDeviceMetricsOverride", metrics


@pytest.fixture
def demo():
    """The URL of the page of a running demo, whose pool has 30 slots and takes 20 a second."""
    small = ["--workers", "2", "--clients", "10", "--limit", "5", "--herd-limit", "30", "--rate", "20"]
    command = [sys.executable, "-u", "manage.py", "demo", *small]
    env = environment("redis://127.0.0.1:1", {})
    with subprocess.Popen(command, cwd=TESTPROJECT, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = iter(process.stdout.readline, "")
            yield next(found[1] for line in lines if (found := re.search(r"Demo page +(http\S+)", line)))
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)


def test_the_page_tells_the_limit_in_force(admission):
    admission(MAX_CONNECTIONS=150)
    report()
    told = "All workers together keep\n      <strong>{}</strong> open"
    assert told.format(150) in Client().get("/").text
    controls.change("default", by="ann", limit=40)
    assert told.format(40) in Client().get("/").text
    # Without any number of the ledger it is that of the settings.
    admission(MAX_CONNECTIONS=150, LEDGER="redis://127.0.0.1:1/0")
    assert told.format(150) in Client().get("/").text


FEED = """return location.pathname.endsWith("/status.json") && document.readyState === "complete"
    && document.body.textContent"""


def refusals_held(browser, demo):
    """Each pool's refusals that were held, as those of a client that hammers are."""
    browser.get(f"{demo}admin/login/?next=/admission/status.json")
    for field in ("username", "password"):
        browser.find_element(By.NAME, field).send_keys("demo")
    browser.find_element(By.CSS_SELECTOR, "[type=submit]").click()
    status = json.loads(WebDriverWait(browser, 30).until(lambda _: browser.execute_script(FEED)))
    return {pool["name"]: pool["refusals_held"] for pool in status["pools"]}


@pytest.mark.integration
@pytest.mark.browser
def test_a_herd_comes_back_by_itself_after_a_restart_of_the_servers(browser, demo):
    def counted(state):
        return int(browser.find_element(By.CSS_SELECTOR, f"#counters .{state} dd").text)

    def wait_for(condition):
        WebDriverWait(browser, 30, poll_frequency=0.05).until(lambda _: condition())

    browser.get(demo)
    count = browser.find_element(By.ID, "count")
    count.clear()
    count.send_keys("40")
    browser.find_element(By.CSS_SELECTOR, "#crowd button[type=submit]").click()
    wait_for(lambda: (counted("open"), counted("waiting")) == (30, 10))
    wait_for(lambda: LINE.fullmatch(browser.find_element(By.ID, "line").text))
    wait_for(lambda: any(map(PLACE.fullmatch, browser.execute_script(TITLES))))
    workers = browser.execute_script(KEY)
    assert len(workers) == 2
    assert all(re.fullmatch(r"in worker \d+", text) for text in workers)
    assert browser.execute_script(FIGURES) == ["20 a second", "0", "40", "a minute ago", "now"]
    for width in (360, 800):
        assert browser.execute_cdp_cmd(*screen(width)) == {}
        wait_for(lambda: browser.execute_script(SCALE) == 1)
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert browser.execute_script(KEY_IS_ABOVE)
    wait_for(lambda: LEGEND in browser.find_element(By.ID, "legend").text)
    browser.find_element(By.CSS_SELECTOR, "#restart button").click()
    wait_for(lambda: counted("open") == 0)
    wait_for(lambda: counted("waiting") > 0)
    assert browser.find_element(By.CSS_SELECTOR, "#cells .waiting").text.isdigit()
    wait_for(lambda: (counted("open"), counted("waiting")) == (30, 10))
    assert counted("lost") == 0
    assert not [line for line in browser.get_log("browser") if "WebSocket connection" not in line["message"]]
    assert refusals_held(browser, demo) == {"default": 0, "herd": 0}
