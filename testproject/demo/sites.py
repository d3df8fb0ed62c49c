"""Servers for a herd: workers with a port each, and a Redis of their own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .servers import Redis, Workers

WITHOUT_ADMISSION = {"ENABLED": False}
DEFAULTS: dict[str, Any] = {"PRESSURE": {}}
"""The test project sets one thing besides: it switches the lag monitor off."""
MOST_CLIENTS = "15000"


@contextmanager
def site(
    server: str, workers: int, settings: Mapping[str, Any], connect_cost: float | None = None
) -> Iterator[Workers]:
    """Workers whose heavy consumers take ``connect_cost`` seconds of CPU time in ``connect()``."""
    env = {} if connect_cost is None else {"TESTPROJECT_BURN": str(connect_cost)}
    with (
        Redis("--maxclients", MOST_CLIENTS) as redis,
        Workers(server, workers, redis_url=redis.url, settings=settings, env=env, shared_port=False) as running,
    ):
        yield running
