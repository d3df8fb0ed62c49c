"""Open files and memory that one worker needs for its part of the limit, as measured on the test project."""

import math
from typing import NamedTuple

from . import PoolSettings, Settings

OPEN, SPARE = 15, 100
"""Files of a worker that are always open (measured with 2,000 connections: Daphne 4.2.3 has 15, uvicorn 0.54.0 has 10),
and those for refused handshakes, pages and databases."""
HEADROOM = OPEN + SPARE
"""Open files of a worker beside its connections."""


class Figure(NamedTuple):
    """What a server takes for the test project: MiB of a worker that has served 50 clients, and KiB per connection."""

    worker: int
    quiet: int
    """After one message of 100 bytes."""
    spoken: int
    """After 20 messages of 4,000 bytes, which the buffers of its compression have seen."""


FIGURES = {
    "uvicorn websockets-sansio": Figure(75, 78, 95),
    "uvicorn websockets": Figure(78, 142, 300),
    "uvicorn wsproto": Figure(73, 138, 293),
    "hypercorn": Figure(72, 141, 298),
    "daphne": Figure(90, 41, 46),
    "granian": Figure(83, 160, 169),
}
"""By server, with the implementation of WebSockets where it has several.

Measured by ``python -m benchmarks.footprint``: the growth of the resident memory of one worker from 0 to 1,000
connections to the test project's echo consumer behind the middleware and the session, per connection (Channels 4.3.2,
Django 5.2.19, CPython 3.11.7, Linux; the versions of the servers are in ``docs/capacity.md``). Each client asks for
compression, as browsers do. A consumer that stores data needs more.
"""
STEP = 1024
"""Recommended limits of open files are multiples of this."""


def connections(settings: Settings) -> int:
    """A worker's part of the greatest pool; a connection with slots in several pools is still one socket."""
    return max(map(part, settings.pools.values()))


def workers(settings: Settings) -> int:
    """The greatest number of workers that any pool expects."""
    return max(pool.expected_workers for pool in settings.pools.values())


def part(pool: PoolSettings) -> int:
    """Connections of one of the expected workers when the pool is full."""
    return math.ceil(pool.max_connections / pool.expected_workers)


def held_back(pool: PoolSettings) -> int:
    """Refused clients that a worker keeps open. By itself it keeps some only while there is room for many more."""
    return pool.max_refusals_held if pool.refusal_hold else 0


def descriptors(settings: Settings) -> int:
    """The limit of open files with which a worker holds its part before the monitor refuses."""
    held = max(part(pool) + held_back(pool) for pool in settings.pools.values())
    return math.ceil((held + HEADROOM) / usable(settings, "descriptors"))


def advised_descriptors(settings: Settings) -> int:
    """The same, rounded up to a multiple of :data:`STEP`."""
    return rounded(descriptors(settings))


def rounded(files: float) -> int:
    """The next multiple of :data:`STEP`."""
    return STEP * math.ceil(files / STEP)


def named(server: str, implementation: str = "") -> str:
    """The name of a server and its implementation of WebSockets in :data:`FIGURES`, or the bare name."""
    name = f"{server} {implementation}"
    return name if name in FIGURES else server


def figure(server: str) -> Figure:
    """The figure of a server; of one that is unknown, and of uvicorn without its implementation, the greatest."""
    alike = [found for name, found in FIGURES.items() if name.split()[0] == server.split(" ")[0]]
    return FIGURES.get(server) or max(alike or FIGURES.values(), key=lambda found: found.spoken)


def memory(settings: Settings, worker: int, connection: int) -> int:
    """Bytes of memory with which a worker holds its part before the monitor refuses.

    ``worker`` are the bytes without connections, ``connection`` those of each.
    """
    return math.ceil((worker + connection * connections(settings)) / usable(settings, "memory"))


def usable(settings: Settings, monitor: str) -> float:
    """The share of a resource that is used before this monitor refuses; 1 where it never does."""
    thresholds = settings.pressure[monitor].thresholds
    return thresholds.scaling if thresholds else 1.0
