"""Findings about herds: a second with far more handshakes than usual, and clients that miss their place in the line."""

import math
from collections.abc import Iterator

from ...core.herd.line import GRACE
from ...ledger.base import LATELY
from ..values import Connects, PoolSnapshot, Second
from .finding import Finder, Finding, Severity, clock, measured
from .model import Inputs

HERD = 50
"""Least handshakes in one second of a herd."""
HERD_TIMES = 10
"""Least ratio of a herd's second to a usual one."""
KNOWN = 30.0
"""Seconds that must be known before a herd is found, when the median is 0."""
HERD_GOES_ON = 60.0
"""Seconds since the latest herd after which it is a warning, not critical."""
MANY_MISSED = 0.1
"""The share of shown tickets that came too late from which there is a finding."""
FEW_MISSED = 20
"""Tickets that came too late below which there is none."""


def _herd(inputs: Inputs) -> Iterator[Finding]:
    for pool in inputs.snapshot.pools:
        now = inputs.snapshot.taken.timestamp()
        usual = _usual(pool, now)
        seconds = [each for each in pool.connects.worst if each.handshakes >= max(HERD, HERD_TIMES * max(1, usual))]
        if not seconds:
            continue
        worst, latest = seconds[0], max(second.at for second in seconds)
        goes_on = now - latest < HERD_GOES_ON
        yield Finding(
            "herd",
            Severity.CRITICAL if goes_on else Severity.WARNING,
            f"Herd at {clock(worst.at)}: {worst.handshakes:,} connects in 1 s, {_times(worst, usual, pool.connects)}",
            f"Pool {pool.name}: {_worst_seconds(pool.connects)}.",
            "Find what disconnected them all at once: a deployment, a proxy, the network, a channel layer that "
            f"failed. Set CONNECT_RATE to what the site can take{measured(pool)}, and use clients that follow the "
            "hint, such as AdmissionSocket.",
        )


def _usual(pool: PoolSnapshot, now: float) -> float:
    """Handshakes in a usual second; infinity if too few seconds are known.

    This is the median. When the median is 0, since most seconds had no handshake or the site is
    young, it is the mean of the known seconds without the busiest ones.
    """
    connects = pool.connects
    if connects.median:
        return connects.median
    ages = (now - each.at for each in connects.worst)
    known = min(LATELY, max([*ages, *(worker.uptime for worker in pool.workers)], default=0.0))
    if known < KNOWN:
        return math.inf
    others = connects.total - sum(each.handshakes for each in connects.worst)
    return others / (known - len(connects.worst))


def _times(worst: Second, usual: float, connects: Connects) -> str:
    # A mean below one half means that the median is 0.
    if usual < 0.5:
        return "and none in most seconds"
    return f"{worst.handshakes / usual:,.0f} × the {'median' if connects.median else 'mean'}"


def _worst_seconds(connects: Connects) -> str:
    seconds = ", ".join(f"{each.handshakes:,} at {clock(each.at)}" for each in connects.worst)
    return f"{connects.total:,} connects in 5 minutes, the most in one second {seconds}"


def _places(inputs: Inputs) -> Iterator[Finding]:
    for pool in inputs.snapshot.pools:
        came = pool.redeemed + pool.missed
        if pool.missed >= max(FEW_MISSED, MANY_MISSED * came):
            yield Finding(
                "places-missed",
                Severity.NOTE,
                f"Clients of pool {pool.name} came too late for {pool.missed:,} of {came:,} places in the line",
                f"A place is given away {GRACE:g} s after the time that its client was told.",
                "Find clients that wait longer than they are told: pages that are hidden (pauseHidden), jitter added "
                "to the hint, or a proxy that lets handshakes wait.",
            )


FINDERS: tuple[Finder, ...] = (_herd, _places)
