"""What two limiters of one pool tell of their sites and settings, and what the commands then show of them."""

import asyncio
import io
import json
import logging
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest
from django.core.management import call_command

from channels_admission import conf
from channels_admission.core import agreement
from channels_admission.core.protocol import Reply
from channels_admission.ledger import open_ledger
from channels_admission.limiter.books.state import State
from channels_admission.limiter.news import MOST_TOLD, SETTINGS_TOLD_EVERY, News
from channels_admission.runtime.identity import Worker

from support.limiters import limiter_over
from support.waiting import eventually

HINT = "The workers on each side: manage.py ws_status --diagnose"


@pytest.fixture
def joined(admission, redis_server, settings, caplog):
    """``async with joined((KEY, LIMIT), …) as limiters``: a worker for each, with this SECRET_KEY, in one Redis."""
    caplog.set_level(logging.INFO, "channels_admission")

    @asynccontextmanager
    async def join(*sites):
        limiters = []
        try:
            for key, limit in sites:
                settings.SECRET_KEY = key
                here = admission(LEDGER=redis_server.url, HEARTBEAT=0.1, LEASE=60, MAX_CONNECTIONS=limit)
                limiters.append(limiter_over(here, open_ledger(here)))
            yield limiters
        finally:
            for limiter in limiters:
                await limiter.aclose()
                await limiter.reconciler.ledger.aclose()

    return join


async def run(*arguments: str) -> str:
    """What ws_status prints, without line breaks."""

    def call() -> str:
        out = io.StringIO()
        with suppress(SystemExit):
            call_command("ws_status", *arguments, stdout=out, no_color=True)
        return " ".join(out.getvalue().split())

    return await asyncio.to_thread(call)


def name(limiter) -> str:
    return " ".join(limiter.state.worker.id.split(":")[:2])


async def test_two_projects_with_one_prefix_are_told_by_both_and_shown_with_both_causes(joined, caplog, prefix):
    async with joined(("one", 50), ("other", 500)) as (one, other):
        sites = [limiter.settings.site for limiter in (one, other)]
        await eventually(lambda: all(limiter.state.settings for limiter in (one, other)))
        assert [limiter.state.limit for limiter in (one, other)] == [50, 50]
        first, second = (
            f"Pool 'default': workers of another site count in it, with the same Redis and PREFIX '{prefix}'; this one "
            f"is of site {site}. Give each project and each environment a PREFIX of its own. During a rolling "
            f"deployment that changes SECRET_KEY this passes. {HINT}"
            for site in sites
        )
        assert sorted(caplog.messages) == sorted([
            first,
            second,
            "Pool 'default': workers have different settings, and the strictest are in force: MAX_CONNECTIONS 50. This "
            f"one has: MAX_CONNECTIONS 500. {HINT}",
        ])  # fmt: skip
        sides = sorted(zip(sites, map(name, (one, other)), strict=True))
        text = await run("--diagnose")
        assert "Workers of 2 sites count in pool default Warning" in text
        told = "; ".join(f"site {site} on {worker}" for site, worker in sides)
        assert f"All have the PREFIX '{prefix}': {told}; this command is of site {sites[1]}." in text
        limits = f"MAX_CONNECTIONS 50 on {name(one)}; MAX_CONNECTIONS 500 on {name(other)}"
        assert f"The strictest values are in force for all: {limits}." in text
        assert "Another project, or another environment of this one, uses the same Redis and PREFIX" in text
        assert "If a rolling deployment changes SECRET_KEY, this ends within a LEASE" in text
        numbers = f"{sides[0][0]} and {sides[1][0]}"
        assert f"Workers of 2 sites count here, with the same PREFIX: {numbers}" in await run()
        (pool,) = json.loads(await run("--json"))["pools"]
        assert (pool["site"], pool["settings"], pool["limit"]) == (None, None, 50)
        assert [side["value"] for side in pool["differs"]["site"]] == sorted(sites)


async def test_the_site_and_the_settings_are_shown_where_all_agree(joined):
    async with joined(("one", 50), ("one", 50)) as (one, other):
        await eventually(lambda: one.state.workers == other.state.workers == 2)
        assert (one.state.settings, other.state.settings) == ("", "")
        text = f"limit=50,warn_at=0.7,lease=60000,heartbeat=100,site={conf.site()}"
        shown = f"Site {conf.site()}, settings {agreement.fingerprint(text)}"
        assert shown in await run()
        assert shown in await run("--diagnose")


@pytest.fixture
async def levels(admission, caplog):
    """``levels(text, after)``: the levels of the log lines of a worker that hears of settings after some seconds."""
    caplog.set_level(logging.INFO, "channels_admission")
    settings, clock = admission(MAX_CONNECTIONS=500), SimpleNamespace(now=0.0)
    state = State(settings.pool("default"), Worker())
    tells = News(state, settings, None)
    tells._loop = SimpleNamespace(time=lambda: clock.now)
    report = state.begin_report()
    reply = Reply(granted=0, total=0, limit=50, workers=2, version=1, settling=False, lapsed=False)
    heard = [""]

    def hear(text: str, after: float) -> list[str]:
        clock.now += after
        caplog.clear()
        tells.replied(replace(report, settings=heard[-1]), replace(reply, settings=text))
        heard.append(text)
        return [record.levelname for record in caplog.records]

    return hear


LESS, LEAST = (f"heartbeat=3000,lease=30000,limit={limit},site=965306,warn_at=0.7" for limit in (50, 5))


async def test_settings_that_come_and_go_are_a_warning_now_and_then_only(levels):
    assert [levels(text, 1) for text in (LESS, LESS, "", LESS)] == [["WARNING"], [], ["WARNING"], ["WARNING"]]
    for _ in range(20):
        assert [levels("", 10), levels(LESS, 10)] == [["INFO"], ["INFO"]]
    assert levels("", 10) == ["INFO"]
    assert levels(LESS, SETTINGS_TOLD_EVERY) == ["WARNING"]
    assert levels(LEAST, 1) == ["WARNING"]


async def test_the_last_warning_never_says_that_all_agree_where_they_do_not(levels):
    told = []
    for text in [LESS, LEAST, "", LESS, "", LEAST, "", LESS]:
        told.append(("differ" if text else "agree", levels(text, 1)))
    assert [state for state, seen in told if seen == ["WARNING"]] == ["differ", "differ", "agree", "differ"]


async def test_few_settings_are_remembered_as_told(levels):
    texts = [LESS.replace("50", str(limit)) for limit in range(1, 2 * MOST_TOLD)]
    assert [levels(text, 1) for text in texts] == [["WARNING"]] * len(texts)
    assert levels(texts[-2], 1) == ["INFO"]
    assert levels(texts[0], 1) == ["WARNING"]
