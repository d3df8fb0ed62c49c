"""Fixtures that every test may use."""

import os
import shutil
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import coverage
import django
import hypothesis
import pytest
from channels.testing import WebsocketCommunicator
from django.test import override_settings
from selenium import webdriver

from channels_admission import conf
from channels_admission.ledger.memory import MemoryLedger

from demo.servers import Redis
from support import ROOT, TESTS
from support.effort import some_of
from support.figures import Figures
from support.reports import HEARTBEAT, LEASE, Clock, ClockedRedisLedger
from support.waiting import be_patient_with

# For the benchmarks; last, so that the installed package is the one that is tested.
sys.path.append(str(ROOT))

hypothesis.settings.register_profile(
    "ours", max_examples=some_of(100), deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("ours")
be_patient_with(*WebsocketCommunicator.mro())

MARKERS = {
    "integration": ("integration",),
    "browser": ("browser", "integration"),
    "model": ("simulation",),
    "budgets": ("budget",),
}
"""By the folder of a test."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker in MARKERS.get(item.path.relative_to(TESTS).parts[0], ()):
            item.add_marker(marker)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None, _last: list[str] = []) -> None:  # noqa: B006
    """Let ``coverage`` note from which test file a line was reached, for ``support/own_coverage.py``."""
    file = item.path.relative_to(TESTS).as_posix()
    if (measuring := coverage.Coverage.current()) and _last != [file]:
        measuring.switch_context(file)
        _last[:] = [file]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--figures", metavar="FILE", type=Path, help="write what the fault tests measured to this page")


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """``figures.note(fault, must_hold, measured)``: a row of the page that ``--figures`` writes."""
    figures = Figures()
    yield figures
    if path := request.config.getoption("--figures"):
        figures.write(path)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """A Redis of this test run's own, on a free port of the loopback interface."""
    with Redis() as server:
        yield server


@pytest.fixture
def prefix() -> str:
    """A key prefix that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture(autouse=True)
def _on_its_own(settings) -> None:
    """No channel layer and an empty memory ledger, unless the test says otherwise."""
    settings.CHANNEL_LAYERS = {}
    MemoryLedger.forget_all()


@pytest.fixture
def admission(request: pytest.FixtureRequest, prefix: str) -> Iterator[object]:
    """``admission(KEY=value, …)`` puts these settings in force until the test ends, and returns them read."""
    overrides = []

    def use(**keys: object) -> conf.Settings:
        # A busy machine is no reason for a test to be refused, or to be without its ledger.
        defaults = {"LEDGER": "memory", "PREFIX": prefix, "PRESSURE": {"lag": None}}
        if not request.node.get_closest_marker("integration"):  # where outages last as long as they do for a site
            defaults["LEDGER_TIMEOUT"] = 4
        override = override_settings(CHANNELS_ADMISSION={**defaults, **keys})
        override.enable()
        overrides.append(override)
        return conf.current()

    yield use
    while overrides:
        overrides.pop().disable()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def in_redis(admission, redis_server: Redis, clock: Clock) -> AsyncIterator[ClockedRedisLedger]:
    """The ledger in Redis, under the test's clock. It waits for a busy machine."""
    keys = {"LEASE": LEASE, "HEARTBEAT": HEARTBEAT, "LEDGER": redis_server.url, "LEDGER_TIMEOUT": 4}
    ledger = ClockedRedisLedger(admission(**keys), clock)
    yield ledger
    await ledger.aclose()


@pytest.fixture
def browser(request) -> Iterator[webdriver.Chrome]:
    """A fresh headless Chromium, with the switches a test asks for. Without one it is skipped, and in CI it fails."""
    paths = [shutil.which("chromium"), shutil.which("chromedriver")]
    if not all(paths):
        if "CI" in os.environ:
            pytest.fail("Chromium and its driver must be there in CI.")
        pytest.skip("no Chromium with its driver on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    # The background services of Chromium only look for hosts that a closed network does not have.
    quiet = ("disable-background-networking", "disable-component-update", "disable-sync", "no-first-run")
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        *quiet,
        *getattr(request, "param", ()),
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(paths[1]))
    driver.set_script_timeout(20)
    yield driver
    driver.quit()


@pytest.fixture
def admins(settings) -> None:
    """An admin whose mail is kept in ``django.core.mail.outbox``; each Django is told so in its own way."""
    settings.ADMINS = ["ann@example.org"] if django.VERSION >= (6, 0) else [("Ann", "ann@example.org")]
    if django.VERSION >= (6, 1):
        settings.MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
