"""Find what is wrong on a site: findings with advice, and the numbers behind them.

Pure: a snapshot and what the host shows go in, one frozen :class:`Diagnosis` comes out.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from ..growth import Growth
from ..values import FORMAT, Connects, LedgerSnapshot, Snapshot
from . import agreement, herd, incidents, ledger, pools, workers
from .finding import Finding, Severity
from .host import HostInfo, Layer
from .model import Inputs, Process, inputs_of

SCHEMA = """\
--diagnose --json prints one object:

  format, taken, ledger  as above
  exit_code       0, 1 with a warning, 2 with something critical
  findings        a list, the cause first
    id            a fixed identifier
    severity      "critical", "warning" or "note"
    title, detail, advice
  limits          a list, one entry per pool
    pool, held, limit, connects, site, settings  as above
    setting       where the limit is set
  processes       a list
    host, pid, server
    held          slots held in all pools
    silence       seconds since its last report
    connections   the least number of connections that hold these slots
    sockets       established TCP connections; null where unknown
    ports         sockets, by port
    open_files, allowed_files    null where unknown
    resident      bytes of memory; null where unknown
    load          the highest reading of each monitor
    faults        its unexpected exceptions, and those of functions of the site,
                  by kind
    state         "stopped", "absent" (not on this host), "running",
                  "sleeping" or another; "" where unknown
    uptime        seconds since it started
    calls, failed calls to the ledger since then, and those that failed
    failing       those that failed since one has succeeded; above 0 the worker
                  decides alone
    shed          connections that it closed because memory ran out
    layer_failed  connections ended because the channel layer failed
    accepting     connections that their consumer has not accepted yet
    jobs_waiting  jobs of sync code that wait for its thread
    threads_busy  threads of sync code that run a job
  layer           the default channel layer
    backend, capacity
    shared        whether it is in the ledger's Redis

The exit code is 0, 1 with a warning, and 2 with something critical. It is also
2 when the settings are wrong: then only their error is printed.
"""

EXIT_CODES = {Severity.CRITICAL: 2, Severity.WARNING: 1, Severity.NOTE: 0}

WEIGHTS = (
    "ledger-down",
    "ledger-late",
    "paused",
    "worker-killed",
    "herd",
    "memory-short",
    "descriptors-short",
    "worker-silent",
    "loop-blocked",
    "threads-blocked",
    "heartbeat-errors",
    "functions-fail",
    "none-authenticated",
    "limit-reached",
    "connections-shed",
    "layer-failed",
    "channels-full",
    "accepts-late",
    "accepts-wait",
    "admission-off",
    "counts-unseen",
    "dry-run",
    "ledger-damaged",
    "events-dropped",
    "ledger-settling",
    "data-lost",
    "workers-lost",
    "monitor-refuses",
    "sites-differ",
    "settings-differ",
    "limit-near",
    "limit-ahead",
    "releases-differ",
    "limit-differs",
    "sockets-missing",
    "no-worker",
    "draining",
    "refusals-unpassed",
    "refusals",
    "places-missed",
    "handlers-outlive",
    "sockets-beyond",
)
"""The ids of all findings. Within one severity an earlier id may be the cause of a later one."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A pool's limit in force, where it is set, and the recent handshakes."""

    pool: str
    held: int
    limit: int
    setting: str
    connects: Connects
    site: int | None = None
    settings: str | None = None
    """The fingerprints, as in the snapshot."""


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
        """Plain values for JSON, ``taken`` in ISO 8601."""
        taken = self.taken.isoformat(timespec="milliseconds")
        return {"format": FORMAT, **asdict(self), "taken": taken, "exit_code": self.exit_code}


def diagnose(snapshot: Snapshot, host: HostInfo, growths: tuple[Growth, ...] = ()) -> Diagnosis:
    """Diagnose a snapshot together with what the host shows, and how the pools have grown."""
    inputs = inputs_of(snapshot, host, growths)
    return Diagnosis(
        taken=snapshot.taken,
        ledger=snapshot.ledger,
        findings=_findings(inputs),
        limits=tuple(
            Limit(pool.name, pool.held, pool.limit, inputs.origin(pool), pool.connects, pool.site, pool.settings)
            for pool in snapshot.pools
        ),
        processes=inputs.processes,
        layer=host.layer,
    )


def _findings(inputs: Inputs) -> tuple[Finding, ...]:
    """All findings by severity, the likeliest cause first within each."""
    severities = list(Severity)
    finders = (
        *ledger.FINDERS, *pools.FINDERS, *agreement.FINDERS, *herd.FINDERS, *workers.FINDERS,
        *incidents.FINDERS,
    )  # fmt: skip
    found = [finding for finder in finders for finding in finder(inputs)]
    return tuple(sorted(found, key=lambda finding: (severities.index(finding.severity), WEIGHTS.index(finding.id))))
