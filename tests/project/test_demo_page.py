"""The demo's page: its button is for the demo alone, and its herd comes back after a restart."""

import re
import signal
import subprocess
import sys

import pytest
from django.test import Client
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from demo import views
from demo.servers import TESTPROJECT, environment

RESTART = "/restart/"
LINE = re.compile(
    r"You have a place; back in \d+ s|\d+ have a place in the line; the first is back in \d+ s, the last in \d+ s"
)
PLACE = re.compile(r"\d+: you have a place; back in \d+ s")
TITLES = "return [...document.querySelectorAll('#cells .waiting')].map(({ title }) => title)"
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
    wait_for(lambda: LEGEND in browser.find_element(By.ID, "legend").text)
    browser.find_element(By.CSS_SELECTOR, "#restart button").click()
    wait_for(lambda: counted("open") == 0)
    wait_for(lambda: counted("waiting") > 0)
    assert browser.find_element(By.CSS_SELECTOR, "#cells .waiting").text.isdigit()
    wait_for(lambda: (counted("open"), counted("waiting")) == (30, 10))
    assert counted("lost") == 0
    assert not [line for line in browser.get_log("browser") if "WebSocket connection" not in line["message"]]
