"""The answer to "what is wrong here?": findings with what to do, and the numbers they come from.

Pure: a snapshot and the facts of this machine in, one frozen :class:`Diagnosis` out.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from ..status.snapshot import Connects, LedgerSnapshot, Snapshot
from . import pools, workers
from .finding import Finding, Severity
from .host import Facts, Layer
from .model import Case, Process, open_case

SHAPE = """\
--diagnose --json prints one object of the same kind:

  taken, ledger   as above
  exit_code       0, 1 with a warning, 2 with something critical
  findings        a list, the cause first
    id            what it is, always in the same word
    severity      "critical", "warning" or "note"
    title, detail, advice
  limits          a list, one for each pool
    pool, held, limit, connects  as above
    setting       where the limit comes from
  processes       a list
    host, pid, server
    held          slots of all pools
    silence       seconds since the last beat
    connections   connections that hold them, at the least
    sockets       established TCP connections; null where unknown
    ports         the same for each port
    open_files, allowed_files    null where unknown
    resident      bytes of memory; null where unknown
    load          the worst reading of each monitor
    faults        unexpected exceptions in its heartbeats, by kind
  layer           the default channel layer
    backend, capacity

Its exit code is 0, 1 with a warning, and 2 with something critical, or where
the settings are wrong: then nothing is printed but what is wrong with them.
"""

EXIT_CODES = {Severity.CRITICAL: 2, Severity.WARNING: 1, Severity.NOTE: 0}

WEIGHTS = (
    "ledger-down",
    "paused",
    "herd",
    "memory-short",
    "descriptors-short",
    "worker-silent",
    "loop-blocked",
    "heartbeat-errors",
    "limit-reached",
    "channels-full",
    "accepts-late",
    "admission-off",
    "counts-unseen",
    "dry-run",
    "ledger-damaged",
    "ledger-settling",
    "monitor-refuses",
    "limit-near",
    "settings-differ",
    "limit-differs",
    "sockets-missing",
    "no-worker",
    "draining",
    "refusals",
    "handlers-outlive",
    "sockets-beyond",
)
"""Every finding there is. Of those equally severe, the one further up may be the cause of those further down."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A pool's limit in force, where it is written, and how fast connections come."""

    pool: str
    held: int
    limit: int
    setting: str
    connects: Connects


@dataclass(frozen=True, slots=True)
class Diagnosis:
    taken: datetime
    ledger: LedgerSnapshot
    findings: tuple[Finding, ...]
    limits: tuple[Limit, ...]
    processes: tuple[Process, ...]
    layer: Layer

    @property
    def exit_code(self) -> int:
        return max((EXIT_CODES[finding.severity] for finding in self.findings), default=0)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: ``taken`` in ISO 8601, the rest as the fields say."""
        return {**asdict(self), "taken": self.taken.isoformat(timespec="milliseconds"), "exit_code": self.exit_code}


def diagnose(snapshot: Snapshot, facts: Facts) -> Diagnosis:
    """What the snapshot and the facts mean."""
    case = open_case(snapshot, facts)
    return Diagnosis(
        taken=snapshot.taken,
        ledger=snapshot.ledger,
        findings=_findings(case),
        limits=tuple(
            Limit(pool.name, pool.held, pool.limit, case.origin(pool), pool.connects) for pool in snapshot.pools
        ),
        processes=case.processes,
        layer=facts.layer,
    )


def _findings(case: Case) -> tuple[Finding, ...]:
    """Everything found, the gravest first, and of those equally grave the likeliest cause."""
    grades = list(Severity)
    found = [finding for finder in (*pools.FINDERS, *workers.FINDERS) for finding in finder(case)]
    return tuple(sorted(found, key=lambda finding: (grades.index(finding.severity), WEIGHTS.index(finding.id))))
