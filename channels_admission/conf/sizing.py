"""Open files and memory that one worker needs for its part of the limit, as measured on the test project."""

import math

from . import PoolSettings, Settings

HEADROOM = 115
"""Open files of a worker beside its connections.

15 are always open (measured with 2,000 connections: Daphne 4.2.3 has 15, uvicorn 0.54.0 has 10), and 100 are for
refused handshakes, pages and databases.
"""
CONNECTION_KIB = 81
"""KiB of memory per connection.

Measured: the growth of the resident memory of one uvicorn 0.54.0 (websockets-sansio of websockets 17.4, Channels 4.3.2,
Django 5.2.19, CPython 3.11.7, Linux) from 0 to 2,000 connections to the test project's echo consumer behind the
middleware and the session, per connection; the first 1,000 took 79 KiB each. Each client asks for compression, as
browsers do, and has had one message of 100 bytes echoed. Without compression it is 40, under Daphne 43 in both cases.
A consumer that stores data needs more.
"""
WORKER_MIB = 67
"""MiB of memory of that uvicorn after it has served 50 clients and all have left."""
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
    return STEP * math.ceil(descriptors(settings) / STEP)


def memory(settings: Settings) -> int:
    """Bytes of memory with which a worker holds its part before the monitor refuses."""
    held = (WORKER_MIB << 20) + (CONNECTION_KIB << 10) * connections(settings)
    return math.ceil(held / usable(settings, "memory"))


def usable(settings: Settings, monitor: str) -> float:
    """The share of a resource that is used before this monitor refuses; 1 where it never does."""
    thresholds = settings.pressure[monitor].thresholds
    return min(1.0, thresholds.scaling) if thresholds else 1.0
