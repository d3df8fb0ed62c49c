"""The rules by which clients of a herd reconnect. Times are in seconds.

A rule draws each wait evenly between two bounds that depend only on the number of the attempt, or
follows the server's hint. So it can be run one client at a time, or for a million at once.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from channels_admission.client import RetryPolicy

CAP = 60.0
HAMMER = 0.5
"""Seconds between two attempts of a client that heeds nothing."""
POLICY = RetryPolicy()
TICKET = re.compile(r"(?:^|;\s*)ticket=([A-Za-z0-9_-]{1,64})(?=;|\Z)", re.ASCII)
TICKET_PARAMETER = "admission_ticket"
"""The query parameter in which a client hands back its ticket."""

Bounds = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule for reconnecting."""

    name: str
    meaning: str
    bounds: Callable[[int], Bounds]
    """The bounds of the wait after that many failed attempts, counted from 1."""
    first: Bounds = (0.0, 0.0)
    """The bounds of the wait for the first attempt after a loss."""
    follows_hint: bool = False
    hands_back_ticket: bool = False
    """Whether an attempt shows the ticket of the refusal before."""
    gives_up: bool = False
    """Whether the first refusal is the end."""
    resets_on_open: bool = False
    """Whether an opened connection resets its failures, even one that is then refused."""

    def wait(self, failures: int, hint: float | None, draw: float) -> float:
        """The wait after so many failed attempts; ``draw`` is a random number from 0 to 1."""
        if self.follows_hint and hint is not None:
            return max(POLICY.floor, hint)
        shortest, longest = self.bounds(failures)
        return shortest + draw * (longest - shortest)

    def query(self, reason: str) -> str:
        """The query string of the attempt that follows a refusal with this close reason."""
        ticket = TICKET.search(reason) if self.hands_back_ticket else None
        return f"{TICKET_PARAMETER}={ticket[1]}" if ticket else ""


def _full_jitter(failures: int) -> Bounds:
    return 0.0, min(CAP, 2.0 ** min(failures - 1, 30))


def _doubling(failures: int) -> Bounds:
    wait = min(CAP, 2.0 ** min(failures - 1, 30))
    return wait, wait + 1.0


def _naive(failures: int) -> Bounds:
    wait = min(CAP, 0.1 * 2.0 ** min(failures - 1, 30))
    return wait, wait


def _hammer(failures: int) -> Bounds:
    return HAMMER, HAMMER


RULES = {
    rule.name: rule
    for rule in (
        Rule(
            "spread", "the server's hint; the first attempt within five seconds, as our clients do after a loss",
            POLICY.bounds, first=POLICY.bounds(1, was_up=True), follows_hint=True, hands_back_ticket=True,
        ),
        Rule(
            "ticket", "the server's hint, with its ticket; the first attempt at once",
            POLICY.bounds, follows_hint=True, hands_back_ticket=True,
        ),
        Rule("hint", "the server's hint, no ticket; the first attempt at once", POLICY.bounds, follows_hint=True),
        Rule("full-jitter", "at random up to 1, 2, 4 … 60 s", _full_jitter),
        Rule("doubling", "1, 2, 4 … 60 s and up to one more; starts over on open", _doubling, resets_on_open=True),
        Rule("patient-doubling", "the same, but does not start over on open", _doubling),
        Rule("naive", "0.1, 0.2, 0.4 … 60 s; starts over on open", _naive, resets_on_open=True),
        Rule("hammer", "every half second", _hammer),
        Rule("gone", "never again after a refusal", POLICY.bounds, gives_up=True),
    )
}  # fmt: skip
