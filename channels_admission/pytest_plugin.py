"""The pytest plugin: a test run counts in the memory of its own processes, never in the Redis of the site.

pytest loads it wherever the package is installed. It imports neither Django nor Channels, so that it costs other
projects nothing. ``admission_guard = false`` in pytest's settings turns it off.
"""

import os
import sys
from contextlib import ExitStack

import pytest

from .core.guard import guarding

OPTION = "admission_guard"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(OPTION, "count admitted connections in memory, whatever LEDGER says", type="bool", default=True)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Turn the guard on before any conftest reads the settings; child processes inherit it."""
    if early_config.getini(OPTION):
        guard = ExitStack()
        guard.enter_context(guarding(os.environ))
        early_config.add_cleanup(guard.close)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Forget what the test's event loops have left behind, so that the next test begins with an empty pool."""
    testing = sys.modules.get("channels_admission.testing")
    if testing is not None:
        testing.tidy()
