"""What one worker needs for its part of the limit: open files and memory, both as measured on the test project."""

import math

from . import PoolSettings, Settings

HEADROOM = 115
"""Open files of a worker beside its open connections.

15 that it always has (measured with 2,000 connections open: Daphne 4.2.3 has 15, uvicorn 0.54.0 has
10), and 100 for what comes and goes: handshakes that are refused, pages, databases.
"""
CONNECTION_KIB = 81
"""KiB of memory for a connection.

The growth of the resident memory of one uvicorn 0.54.0 (websockets-sansio of websockets 17.4,
Channels 4.3.2, Django 5.2.19, CPython 3.11.7, Linux) that serves the test project's echo consumer
behind the middleware and the session, from 0 to 2,000 open connections, divided by these; the first
1,000 took 79 each. Each client asks for compression, as browsers do, and has had one message of 100
bytes echoed. Without compression it is 40, under Daphne 43 in both cases. A consumer that keeps data
of its own needs more.
"""
WORKER_MIB = 67
"""MiB of memory of that uvicorn once it has served 50 clients, and none is left."""
STEP = 1024
"""Advised limits of open files are multiples of this."""


def connections(settings: Settings) -> int:
    """A worker's part of the greatest pool: a connection is one socket, however many pools it has slots in."""
    return max(map(part, settings.pools.values()))


def workers(settings: Settings) -> int:
    """The most workers that a pool expects."""
    return max(pool.expected_workers for pool in settings.pools.values())


def part(pool: PoolSettings) -> int:
    """What one of the expected workers holds of a full pool."""
    return math.ceil(pool.max_connections / pool.expected_workers)


def held_back(pool: PoolSettings) -> int:
    """Refused clients that a worker may be keeping open."""
    return pool.max_refusals_held if pool.refusal_hold else 0


def descriptors(settings: Settings) -> int:
    """The limit of open files under which a worker can hold its part before it refuses for want of them."""
    held = max(part(pool) + held_back(pool) for pool in settings.pools.values())
    return math.ceil((held + HEADROOM) / usable(settings, "descriptors"))


def advised_descriptors(settings: Settings) -> int:
    """The same, rounded up to what one would write in a configuration."""
    return STEP * math.ceil(descriptors(settings) / STEP)


def memory(settings: Settings) -> int:
    """Bytes of memory that a worker needs to hold its part before it refuses for want of them."""
    held = (WORKER_MIB << 20) + (CONNECTION_KIB << 10) * connections(settings)
    return math.ceil(held / usable(settings, "memory"))


def usable(settings: Settings, monitor: str) -> float:
    """The share of what there is from which on this monitor refuses; all of it where it never does."""
    thresholds = settings.pressure[monitor].thresholds
    return min(1.0, thresholds.scaling) if thresholds else 1.0
