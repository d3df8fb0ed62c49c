"""What operators have set for a pool, and when it is done."""

from collections.abc import Container
from dataclasses import replace

from ...core.overrides import EVERY_WORKER, Controls, Drain


def left(
    controls: Controls, workers: Container[str], now: int, lease: int, *, is_within: bool, is_draining: bool
) -> Controls:
    """The controls without the orders that are done, under a new version where any is.

    ``is_within``: whether the pool is within its limit; ``is_draining``: whether a worker drains. ``now`` and
    ``lease`` are milliseconds of the pool's clock.
    """
    rest = controls
    if controls.limit and controls.limit.over is not None and is_within:
        rest = replace(rest, limit=replace(controls.limit, over=None))
    if not is_draining:
        drains = tuple(each for each in rest.drains if not _is_over(each, workers, now, lease))
        rest = replace(rest, drains=drains)
    return controls if rest == controls else replace(rest, version=controls.version + 1)


def last(controls: Controls) -> int:
    """The highest version of the pool at which a drain was ordered; no later worker may register at a lower one."""
    return max((each.version or 0 for each in controls.drains), default=0)


def _is_over(drain: Drain, workers: Container[str], now: int, lease: int) -> bool:
    """Whether all workers have heard of a drain, and none is left to obey it; a host's is for workers to come, too."""
    if now - lease < drain.clock <= now:
        return False
    return drain.target == EVERY_WORKER or (":" in drain.target and drain.target not in workers)
