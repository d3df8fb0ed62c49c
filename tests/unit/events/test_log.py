"""The summary of refusals: what a line counts, and when it is written."""

import asyncio
import logging
from collections import Counter

import pytest

from channels_admission.events import log
from channels_admission.events.log import FURTHER, RefusalLog

from support.waiting import eventually


@pytest.fixture
def refusals(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "channels_admission")
    monkeypatch.setattr(log, "PAUSE", 0.05)
    return RefusalLog("default", Counter())


async def test_a_line_counts_the_refusals_since_the_last_one(refusals, caplog):
    for lines in (1, 2):
        refusals._counters.update({"admitted": 5, "full": 2, "quota:address": 1, "released": 4, "events.dropped": 3})
        for _ in range(3):
            refusals.note()
        await eventually(lambda lines=lines: len(caplog.messages) == lines)
    told = "Pool 'default' refused 3 connections: 2 full, 1 quota:address."
    assert caplog.messages == [told + FURTHER, told]


async def test_only_the_first_line_after_a_calm_time_is_a_warning(refusals, caplog, monkeypatch):
    """Django's default logging shows nothing below a warning."""
    caplog.set_level(logging.WARNING, "channels_admission")
    for calm in (60, 60, 0):
        monkeypatch.setattr(log, "CALM", calm)
        refusals._counters["full"] += 1
        refusals.note()
        refusals.close()
    told = "Pool 'default' refused 1 connection: 1 full. Further refusals are logged at level INFO."
    assert caplog.messages == [told] * 2


async def test_a_dry_run_has_a_line_of_its_own(refusals, caplog):
    refusals._counters.update({"dry:full": 2, "draining": 1})
    refusals.note()
    await eventually(lambda: len(caplog.messages) == 2)
    assert caplog.messages == [
        "Pool 'default' refused 1 connection: 1 draining." + FURTHER,
        "Dry run: pool 'default' would have refused 2 connections, and let them in: 2 full." + FURTHER,
    ]


async def test_the_line_that_is_due_is_written_once_at_the_end(refusals, caplog):
    refusals._counters["full"] += 1
    refusals.note()
    refusals.close()
    refusals.close()
    await asyncio.sleep(0.1)
    assert len(caplog.messages) == 1
