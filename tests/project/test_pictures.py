"""The pictures of the admin in the documents: the figures in them agree."""

import screenshots

from channels_admission.core.levels import Level
from channels_admission.status import history
from channels_admission.status.snapshot import collect
from channels_admission.status.values import Health


async def test_the_figures_in_the_pictures_of_the_admin_agree(admission, redis_server, prefix, monkeypatch):
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    settings = admission(LEDGER=redis_server.url, PREFIX=prefix, HEARTBEAT=0.2, MAX_CONNECTIONS=screenshots.LIMIT)
    async with screenshots.a_day():
        seen = await collect(settings)
        day = await history.collect("default", settings)
    (pool,) = seen.pools
    assert seen.ledger.health is Health.OK
    assert (pool.held, pool.limit, pool.level, pool.alert) == (38, 50, Level.WARNING, Level.WARNING)
    assert pool.held == sum(worker.held for worker in pool.workers)
    assert day.minutes.held[-1] >= day.seconds.held[-1] == pool.held
    assert pool.admitted == sum(day.minutes.admitted) > 50_000
    assert pool.refused == {reason: sum(counts) for reason, counts in day.minutes.refused.items()}
    assert pool.refused["full"] > pool.refused["rate"] > 1_000
    refused = sum(pool.refused.values())
    assert (pool.promised, pool.redeemed, pool.missed) == (refused, round(0.9 * refused), round(0.01 * refused))
    first = next(place for place, count in enumerate(day.minutes.admitted) if count)
    counted_for = 60 * (len(day.minutes.admitted) - first)
    for worker in pool.workers:
        assert counted_for <= worker.uptime <= 60 * len(day.minutes.admitted)
        assert worker.silence < settings.lease
