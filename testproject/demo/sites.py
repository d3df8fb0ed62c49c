"""Servers for a herd: workers with a port each, and a Redis of their own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .servers import Workers, redis_at

WITHOUT_ADMISSION = {"ENABLED": False}
DEFAULTS: dict[str, Any] = {"PRESSURE": {}}
"""The test project sets one thing besides: it switches the lag monitor off."""
MOST_CLIENTS = "15000"


@contextmanager
def site(
    server: str,
    workers: int,
    settings: Mapping[str, Any],
    connect_cost: float | None = None,
    redis_url: str | None = None,
) -> Iterator[Workers]:
    """Workers whose heavy consumers take ``connect_cost`` seconds of CPU time in ``connect()``.

    Their Redis is the one at ``redis_url``, or one of their own.
    """
    env = {} if connect_cost is None else {"TESTPROJECT_BURN": str(connect_cost)}
    with redis_at(redis_url, "--maxclients", MOST_CLIENTS) as redis:
        terms = {**settings, **redis.settings}
        with Workers(server, workers, redis_url=redis.url, settings=terms, env=env, shared_port=False) as running:
            yield running
