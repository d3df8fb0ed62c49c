"""The benchmark of many workers, at a small size; and what its page says of the large one."""

import re

import pytest
from redis.asyncio import Redis

from benchmarks import scale
from channels_admission.ledger.redis import RedisLedger

from support import ROOT

PAGE = ROOT / "docs" / "scaling.md"
SMALL = {"SIZES": (3, 30), "SLOTS": 5, "HERD": 600, "ROOM": 40, "SAMPLES": 30, "HEARTBEATS": 1, "HEARTBEAT": 0.2}


@pytest.mark.integration
async def test_a_herd_over_many_workers_is_admitted_exactly_to_the_limit(admission, redis_server, monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(scale, name, value)
    settings = admission(LEDGER=redis_server.url, HEARTBEAT=0.2, LEASE=2, POOLS=scale.pools())
    ledger = RedisLedger(settings)
    async with Redis.from_url(redis_server.url) as redis:
        figures = await scale.Bench(ledger, redis, settings).measure()
    await ledger.aclose()
    assert (figures.held, figures.limit, figures.held_after_herd) == (150, 190, 190)
    assert (figures.admitted, figures.refused) == (40, 560)
    text = "\n".join(scale.table(figures))
    assert "| 30 workers that hold 150 slots | |" in text
    assert "40 admitted, 560 refused" in text


def test_the_page_has_figures_that_keep_what_was_promised():
    text = PAGE.read_text()
    assert scale.BLOCK.search(text).group()
    (times,) = re.findall(r"p99 of a report, against that with 10 \| ([\d.]+) ×", text)
    assert float(times) <= 1.5
    (size,) = re.findall(r"(\d+) bytes a worker", text)
    assert int(size) <= 460
    assert "50,000 admitted, 150,000 refused" in text
    assert "held after that, of 1,050,000 | 1,050,000 |" in text
