"""Findings about unexpected exceptions, of the workers themselves and of the site's own functions."""

from collections.abc import Iterator, Mapping, Sequence

from ...core.counters import failed_functions
from .finding import Finder, Finding, Severity
from .model import Inputs, Process
from .processes import name_of, named


def _faults(inputs: Inputs) -> Iterator[Finding]:
    found = [(process, failed_functions(process.faults)) for process in inputs.processes]
    yield from _failing(
        [(process, {kind: n for kind, n in process.faults.items() if kind not in ours}) for process, ours in found],
        "heartbeat-errors",
        "The heartbeat of {} has had unexpected errors",
        "The worker goes on; while it cannot reach the ledger it decides by WHEN_LEDGER_DOWN. Its log has a "
        "traceback of each kind (logger channels_admission): please report it.",
    )
    yield from _failing(
        found,
        "functions-fail",
        "Functions of the site have raised exceptions in {}",
        "A connection is not counted under a quota whose key function raises, and has the class with the least share "
        "if CLASSIFY raises. A monitor that raises refuses no connection. The worker's log has the traceback of each "
        "type (logger channels_admission).",
    )


def _failing(
    counts: Sequence[tuple[Process, Mapping[str, int]]], identifier: str, title: str, advice: str
) -> Iterator[Finding]:
    faults = {id(process): each for process, each in counts}
    failing = sorted((process for process, each in counts if each), key=lambda each: -sum(faults[id(each)].values()))

    def told(process: Process) -> str:
        return ", ".join(f"{count:,} {kind}" for kind, count in faults[id(process)].items())

    if failing:
        detail = named(failing, told) + "; since the worker started"
        yield Finding(identifier, Severity.WARNING, title.format(name_of(failing[0])), detail, advice)


FINDERS: tuple[Finder, ...] = (_faults,)
