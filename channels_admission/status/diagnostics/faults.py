"""Findings about unexpected exceptions, of the workers themselves and of the site's own functions."""

from collections.abc import Callable, Iterator

from ...core.counters import Counters, failed_functions
from .finding import Finder, Finding, Severity, exceeding, name_of, named
from .model import Inputs, Process


def _own(process: Process) -> Counters:
    ours = failed_functions(process.faults)
    return {kind: count for kind, count in process.faults.items() if kind not in ours}


def _of_the_site(process: Process) -> Counters:
    return failed_functions(process.faults)


def _faults(inputs: Inputs) -> Iterator[Finding]:
    yield from _failing(
        inputs,
        _own,
        "heartbeat-errors",
        "The heartbeat of {} has had unexpected errors",
        "The worker goes on; while it cannot reach the ledger it decides by WHEN_LEDGER_DOWN. Its log has a "
        "traceback of each kind (logger channels_admission): please report it.",
    )
    yield from _failing(
        inputs,
        _of_the_site,
        "functions-fail",
        "Functions of the site have raised exceptions in {}",
        "A connection is not counted under a quota whose key function raises, and has the class with the least share "
        "if CLASSIFY raises. A monitor that raises refuses no connection. The worker's log has the traceback of each "
        "type (logger channels_admission).",
    )


def _failing(
    inputs: Inputs, faults: Callable[[Process], Counters], identifier: str, title: str, advice: str
) -> Iterator[Finding]:
    def told(process: Process) -> str:
        return ", ".join(f"{count:,} {kind}" for kind, count in faults(process).items())

    if failing := exceeding(inputs.processes, lambda process: sum(faults(process).values())):
        detail = named(failing, told) + "; since the worker started"
        yield Finding(identifier, Severity.WARNING, title.format(name_of(failing[0])), detail, advice)


FINDERS: tuple[Finder, ...] = (_faults,)
