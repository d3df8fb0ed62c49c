"""Findings about the ledger: it cannot be read or counts anew, or it answers too late for the workers.

The calls of workers then fail. If the ledger applies them all the same, its counts look sound; else workers are silent.
"""

import math
from collections.abc import Iterator

from ...ledger import NO_ANSWER
from .. import words
from ..snapshot import is_slow, silence_allowed
from ..values import Health
from ..words import numbered
from .finding import Finder, Finding, Severity, age_of, named
from .model import Inputs, Process

UNREACHABLE = "Restore Redis, or correct its address, password or rights."
SILENT = (
    "Nothing answers at this address: see whether the process of Redis is stopped or swaps, whether a command or a "
    "script blocks it, and whether a firewall drops packets."
)
FAILED = 0.05
"""Share of a worker's calls that may fail."""


def _ledger(inputs: Inputs) -> Iterator[Finding]:
    ledger = inputs.snapshot.ledger
    if ledger.health is Health.DOWN:
        yield Finding(
            "ledger-down",
            Severity.CRITICAL,
            "The ledger cannot be read, so the workers are unknown",
            f"{ledger.kind} at {ledger.address}: {ledger.error or 'no reason given'}",
            f"{SILENT if (ledger.error or '').startswith(NO_ANSWER) else UNREACHABLE} Meanwhile each worker decides "
            "alone, by WHEN_LEDGER_DOWN.",
        )
    if ledger.health is Health.SETTLING:
        yield Finding(
            "ledger-settling",
            Severity.WARNING,
            "The ledger started empty or lost its data a moment ago",
            "Until all workers have reported, one and a half heartbeats, each is granted only what it already had.",
            "Look again in a few seconds. If this stays, see whether Redis restarts, fails over or evicts keys.",
        )


def _late(inputs: Inputs) -> Iterator[Finding]:
    timeout, took = inputs.host.ledger_timeout, inputs.snapshot.ledger.took
    is_late = is_slow(took, timeout, len(inputs.processes))
    failing = [each for each in inputs.processes if each.failing or each.failed > FAILED * each.calls]
    if inputs.snapshot.ledger.health is Health.DOWN or not (failing or is_late):
        return  # one that cannot be read at all is another finding
    allowed = silence_allowed(inputs.host.heartbeat) if is_late else math.inf
    alone = [each for each in inputs.processes if each.failing or each.silence > allowed]
    failing.sort(key=lambda process: (-process.failing, -process.failed))
    calls = f"{named(failing, _calls)}; {_took(inputs)}" if failing else ""
    yield Finding(
        "ledger-late",
        Severity.CRITICAL if alone and len(alone) == len(inputs.processes) else Severity.WARNING,
        f"The ledger answers too late: {words.alone(len(alone), len(inputs.processes))}",
        f"{calls}this command read it in {1000 * took:,.0f} ms; LEDGER_TIMEOUT is {1000 * timeout:,.0f} ms",
        "Look for slow commands (SLOWLOG GET), a busy or swapping Redis, and the network (redis-cli --latency on a "
        "worker's host). If Redis is far away, raise LEDGER_TIMEOUT. Until then workers decide by WHEN_LEDGER_DOWN.",
    )


def _took(inputs: Inputs) -> str:
    """How long the calls of the workers took that decide alone. The reply to a late call is waited for as well."""
    alone = [worker.calls for pool in inputs.snapshot.pools for worker in pool.workers if worker.failing]
    made = sum(calls.made for calls in alone)
    return f"a call took {1000 * sum(calls.seconds for calls in alone) / made:,.0f} ms on average; " if made else ""


def _calls(process: Process) -> str:
    row = f", the last {process.failing:,} in a row" if process.failing else ""
    return f"{process.failed:,} of {numbered(process.calls, 'call')} failed in {age_of(process)}{row}"


FINDERS: tuple[Finder, ...] = (_ledger, _late)
