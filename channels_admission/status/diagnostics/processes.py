"""Processes in the words of findings."""

from collections.abc import Callable, Iterable

from ..words import duration
from .model import Process

NAMED = 5
"""Workers named in one finding."""


def exceeding(processes: Iterable[Process], amount: Callable[[Process], float], allowed: float = 0.0) -> list[Process]:
    """Those of which the amount is more than is allowed, the greatest first."""
    return sorted((each for each in processes if amount(each) > allowed), key=amount, reverse=True)


def named(processes: list[Process], told: Callable[[Process], str]) -> str:
    """The first few processes, each with its description."""
    text = "; ".join(f"{name_of(process)}: {told(process)}" for process in processes[:NAMED])
    return f"{text}; and {len(processes) - NAMED:,} more" if len(processes) > NAMED else text


def name_of(process: Process) -> str:
    """Host and pid."""
    return f"{process.host} {process.pid}"


def share_of(share: float | None) -> str:
    """A share in per cent."""
    return "unknown" if share is None else f"{100 * share:.0f} %"


def age_of(process: Process) -> str:
    """How long it has run."""
    return " ".join(duration(process.uptime))
