"""One thing that is wrong, or worth a note, and what to do about it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from ..core.overrides import utc
from .model import Case


class Severity(StrEnum):
    CRITICAL = "critical"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """``title`` says what is so, ``detail`` the numbers, ``advice`` what to do about it."""

    id: str
    severity: Severity
    title: str
    detail: str
    advice: str


Finder = Callable[[Case], Iterator[Finding]]
"""Looks for one thing, and finds it once or more, or not."""


def clock(second: float) -> str:
    """A moment of Unix time as people say it."""
    return f"{utc(second):%H:%M:%S} UTC"
