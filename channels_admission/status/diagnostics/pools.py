"""Findings about the ledger and the pools: limits, overrides, refusals and ended connections."""

from collections.abc import Iterator, Mapping

from ...core.counters import ATTEMPTS, OVERDUE, QUOTA, Reason, unwanted
from ...core.levels import Level
from ...core.overrides import signature, target_name
from ...ledger.memory import MemoryLedger
from ..values import Health
from ..words import duration, numbered
from .finding import Finder, Finding, Severity, clock, measured, since
from .model import Inputs

MOST_NAMED = 5
"""Workers or drains named in one finding."""
REFUSED = {
    Reason.FULL.value: "raise the limit, if there is room",
    Reason.RATE.value: "CONNECT_RATE sets the pace; the hint says when to try again",
    Reason.SETTLING.value: "find out why Redis lost its data",
    Reason.CROWD.value: "add workers, or set CONNECT_RATE",
    Reason.ENTRANCE.value: "add workers, or make connect() cheaper",
    Reason.LEDGER.value: "find out why Redis was unreachable",
    Reason.PAUSED.value: "an operator has paused the pool",
    Reason.DRAINING.value: "an operator drains the worker, or it is about to end",
    Reason.WORKER.value: "add workers, raise MAX_PER_WORKER, or spread new connections more evenly",
    Reason.SHARE.value: "raise the share of the class, or the limit",
}
"""Advice by reason of refusal."""
PACED = (Reason.RATE.value, Reason.CROWD.value)
"""Reasons whose advice names CONNECT_RATE."""


def _switches(inputs: Inputs) -> Iterator[Finding]:
    if not inputs.snapshot.enabled:
        yield Finding(
            "admission-off",
            Severity.WARNING,
            "Admission is switched off",
            "ENABLED is False: no connection is refused, and none is counted.",
            "Set ENABLED to True.",
        )
    elif inputs.snapshot.ledger.kind == MemoryLedger.kind:
        yield Finding(
            "counts-unseen",
            Severity.WARNING,
            "This command cannot read the counts",
            "With the memory ledger each worker process counts for itself, up to the whole limit.",
            "Set LEDGER to a Redis URL for one shared count.",
        )
    elif inputs.snapshot.ledger.health is not Health.DOWN and not inputs.processes and not _elsewhere(inputs):
        yield Finding(
            "no-worker",
            Severity.WARNING,
            "No worker is known",
            "No worker runs, none has had a connection yet, or they report to another ledger.",
            "Check that the servers run with AdmissionLifespan, and with the LEDGER and PREFIX of this command.",
        )


def _elsewhere(inputs: Inputs) -> int:
    """Workers of releases whose counts are kept apart."""
    return sum(pool.elsewhere.workers for pool in inputs.snapshot.pools)


def _limits(inputs: Inputs) -> Iterator[Finding]:
    for pool in inputs.snapshot.pools:
        detail = (
            f"{pool.held:,} of {pool.limit:,} slots are held, workers: {len(pool.workers):,}. "
            f"The limit comes from {inputs.origin(pool)}."
        )
        if pool.level is Level.FULL:
            yield Finding(
                "limit-reached",
                Severity.WARNING if pool.dry_run else Severity.CRITICAL,
                f"Pool {pool.name} is full{', but the dry run admits everybody' if pool.dry_run else ''}",
                detail,
                "Raise the limit if memory, descriptors and lag leave room; else add workers first. If there are fewer "
                "clients than slots, look for connections that never end (MAX_CONNECTION_AGE).",
            )
        elif pool.level is not Level.CALM:
            yield Finding(
                "limit-near",
                Severity.WARNING,
                f"Pool {pool.name} is filling up",
                detail,
                "Raise the limit before it is reached, if memory, descriptors and lag leave room.",
            )


def _growing(inputs: Inputs) -> Iterator[Finding]:
    calm = {pool.name for pool in inputs.snapshot.pools if pool.level is Level.CALM}
    for growth in inputs.growths:
        if growth.reached_in is not None and growth.pool in calm:
            yield Finding(
                "limit-ahead",
                Severity.NOTE,
                f"Pool {growth.pool} is full in {' '.join(duration(growth.reached_in))} if it grows on as it does now",
                f"{growth.held:,} of {growth.limit:,} slots are held, {growth.per_hour:+,g} an hour over the last "
                f"{growth.hours:.1f} h. A daily peak may end before.",
                "See with manage.py ws_capacity what the workers can hold, and raise the limit or add workers in time.",
            )


def _controls(inputs: Inputs) -> Iterator[Finding]:
    for pool in inputs.snapshot.pools:
        if paused := pool.controls.paused:
            yield Finding(
                "paused",
                Severity.CRITICAL,
                f"Pool {pool.name} is paused",
                f"New connections are refused{signature(paused)}.",
                f"To resume: manage.py ws_pause {pool.name} --resume.",
            )
        if pool.dry_run:
            by = signature(pool.controls.dry_run) if pool.controls.dry_run else ", by DRY_RUN"
            spared = numbered(sum(pool.would_refuse.values()), "connection")
            yield Finding(
                "dry-run",
                Severity.WARNING,
                f"Dry run: pool {pool.name} refuses no connection",
                f"{spared} would have been refused so far; dry run{by}.",
                f"To end it: manage.py ws_dry_run {pool.name} off.",
            )
        if any(worker.draining for worker in pool.workers):
            draining = [worker for worker in pool.workers if worker.draining]
            hosts = ", ".join(f"{worker.host} {worker.pid}" for worker in draining[:MOST_NAMED])
            yield Finding(
                "draining",
                Severity.WARNING if len(draining) == len(pool.workers) else Severity.NOTE,
                f"Draining workers of pool {pool.name}: {len(draining):,} of {len(pool.workers):,}",
                f"They refuse new connections: {hosts}"
                + "".join(
                    f"; drain of {target_name(each.target)}{signature(each)}"
                    for each in pool.controls.drains[:MOST_NAMED]
                )
                + ".",
                "A worker that shuts down drains by itself. To cancel the others: manage.py ws_drain --all --cancel.",
            )


def _refusals(inputs: Inputs) -> Iterator[Finding]:
    for pool in inputs.snapshot.pools:
        refused = {reason: count for reason, count in pool.refused.items() if count}
        recent, latest = pool.connects.refused, pool.connects.refused_at
        if not refused and not recent:
            continue
        most = _most(recent or refused)
        lately = f"{sum(recent.values()):,}" if recent else "none"
        when = f", the latest at {clock(latest)}: {_listed(recent)}" if latest is not None else ""
        yield Finding(
            "refusals",
            Severity.WARNING if unwanted(recent) else Severity.NOTE,
            f"Pool {pool.name} has refused {numbered(sum(refused.values()), 'connection')}{since([pool])}",
            f"By reason: {_listed(refused)}. In the last five minutes {lately}{when}",
            f"For {most}: {_advice(most)}{measured(pool) if most in PACED else ''}.",
        )


def _most(counts: Mapping[str, int]) -> str:
    """The most frequent reason."""
    return max(counts, key=lambda reason: (counts[reason], reason))


def _listed(counts: Mapping[str, int]) -> str:
    """The reasons with their counts, the most frequent first."""
    pairs = sorted(((count, reason) for reason, count in counts.items()), reverse=True)
    return ", ".join(f"{count:,} {reason}" for count, reason in pairs) or "none"


def _advice(reason: str) -> str:
    if reason.startswith(QUOTA):
        return "a key has used up its quota; raise the quota if such use is legitimate"
    if reason.startswith(ATTEMPTS):
        return "a key attempts to connect too often; raise the quota's rate if many users share the key"
    return REFUSED.get(reason, "a monitor refused; see the readings of the workers")


def _unauthenticated(inputs: Inputs) -> Iterator[Finding]:
    for pool in inputs.snapshot.pools:
        if pool.none_authenticated:
            spared = pool.would_refuse.get(OVERDUE, 0)
            dry = f", {spared:,} would have been but for the dry run" if spared else ""
            yield Finding(
                "none-authenticated",
                Severity.WARNING,
                f"No connection of pool {pool.name} has ever authenticated",
                f"{pool.overdue:,} were closed with 1008 at PENDING_DEADLINE{since([pool])}{dry}.",
                "If users do log in, the AdmissionMiddleware does not see it: put one inside the auth stack as well, "
                "as in asgi.py of the README, or the mixin on the consumer. A consumer that authenticates its clients "
                "itself calls admission_authenticated(). manage.py check names the routes (W020).",
            )


FINDERS: tuple[Finder, ...] = (
    _switches,
    _controls,
    _limits,
    _growing,
    _unauthenticated,
    _refusals,
)
