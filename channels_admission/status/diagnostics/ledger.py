"""The finding of a ledger that answers too late for the workers, although this command can read it.

The calls of workers then fail, and the ledger applies them all the same: its counts look sound, and workers decide
alone.
"""

from collections.abc import Iterator

from .finding import Finder, Finding, Severity
from .model import Inputs, Process
from .processes import age_of, named

FAILED = 0.05
"""Share of a worker's calls that may fail."""
PER_WORKER = 0.002
"""Seconds that reading may take for each worker, beyond ``LEDGER_TIMEOUT``."""


def _late(inputs: Inputs) -> Iterator[Finding]:
    timeout, took = inputs.host.ledger_timeout, inputs.snapshot.ledger.took
    failing = [each for each in inputs.processes if each.failing or each.failed > FAILED * each.calls]
    if not failing and not (inputs.processes and took > timeout + PER_WORKER * len(inputs.processes)):
        return
    failing.sort(key=lambda process: (-process.failing, -process.failed))
    calls = f"{named(failing, _calls)}; " if failing else ""
    alone, everyone = sum(each.failing > 0 for each in failing), len(inputs.processes)
    yield Finding(
        "ledger-late",
        Severity.CRITICAL if alone == everyone else Severity.WARNING,
        f"The ledger answers too late: {alone:,} of {everyone:,} workers decide alone",
        f"{calls}this command read it in {1000 * took:,.0f} ms; LEDGER_TIMEOUT is {1000 * timeout:,.0f} ms",
        "Look for slow commands (SLOWLOG GET), a busy or swapping Redis, and the network (redis-cli --latency on a "
        "worker's host). If Redis is far away, raise LEDGER_TIMEOUT. Until then workers decide by WHEN_LEDGER_DOWN.",
    )


def _calls(process: Process) -> str:
    row = f", the last {process.failing:,} in a row" if process.failing else ""
    return f"{process.failed:,} of {process.calls:,} calls failed in {age_of(process)}{row}"


FINDERS: tuple[Finder, ...] = (_late,)
