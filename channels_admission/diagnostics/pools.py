"""What comes at the site, and what is there to meet it: the ledger, the limits, herds and refusals."""

import math
from collections.abc import Iterator

from ..core.agreement import said
from ..core.counters import ATTEMPTS, QUOTA, Reason
from ..core.levels import Level
from ..ledger.base import LATELY
from ..ledger.memory import MemoryLedger
from ..ledger.overrides import signature, whom
from ..status.snapshot import Connects, Health, PoolSnapshot, Second, Side
from .finding import Finder, Finding, Severity, clock
from .model import Case

HERD = 50
"""Handshakes in one second, the fewest that are a herd."""
HERD_TIMES = 10
"""How many times a usual second a herd is, at the least."""
KNOWN = 30.0
"""Seconds that must be known before one of them is called a herd, where the ledger has no median."""
MOST_NAMED = 5
"""Workers or drains named in one finding."""
HERD_GOES_ON = 60.0
"""Seconds after which a herd explains the past only."""
REFUSED = {
    Reason.FULL.value: "raise the limit, if there is room",
    Reason.RATE.value: "CONNECT_RATE sets the pace; the hint says when to come again",
    Reason.SETTLING.value: "see why Redis lost its data",
    Reason.CROWD.value: "add workers, or set CONNECT_RATE",
    Reason.LEDGER.value: "see why Redis was away",
    Reason.PAUSED.value: "an operator has paused the pool",
    Reason.DRAINING.value: "an operator drains the worker, or it is about to end",
    Reason.SHARE.value: "raise the share of the class, or the limit",
}
"""What to do about refusals, by their reason."""


def _ledger(case: Case) -> Iterator[Finding]:
    ledger = case.snapshot.ledger
    if ledger.health is Health.DOWN:
        yield Finding(
            "ledger-down",
            Severity.CRITICAL,
            "The ledger cannot be read, so nothing is known of the workers",
            f"{ledger.kind} at {ledger.address}: {ledger.error or 'no reason given'}",
            "Bring Redis back, or mend its address, password or rights. Meanwhile workers decide alone, "
            "by WHEN_LEDGER_DOWN.",
        )
    if ledger.health is Health.SETTLING:
        yield Finding(
            "ledger-settling",
            Severity.WARNING,
            "The ledger started empty or lost its data a moment ago",
            "Until all workers have reported, one and a half beats, each is granted only what it already had.",
            "Look again in a few seconds. If it stays, see whether Redis restarts, fails over or evicts keys.",
        )


def _switches(case: Case) -> Iterator[Finding]:
    if not case.snapshot.enabled:
        yield Finding(
            "admission-off",
            Severity.WARNING,
            "Admission is switched off",
            "ENABLED is False: no connection is refused, and none is counted.",
            "Set ENABLED to True.",
        )
    elif case.snapshot.ledger.kind == MemoryLedger.kind:
        yield Finding(
            "counts-unseen",
            Severity.WARNING,
            "The counts cannot be seen from here",
            "The memory ledger counts inside each worker process, each with the whole limit to itself.",
            "Set LEDGER to a Redis URL to share and see one count.",
        )
    elif case.snapshot.ledger.health is not Health.DOWN and not case.processes:
        yield Finding(
            "no-worker",
            Severity.WARNING,
            "No worker is known",
            "None runs, none has had a connection yet, or they report to another place.",
            "See that the servers run, have AdmissionLifespan, and the same LEDGER and PREFIX as this command.",
        )


def _herd(case: Case) -> Iterator[Finding]:
    for pool in case.snapshot.pools:
        now = case.snapshot.taken.timestamp()
        usual = _usual(pool, now)
        seconds = [each for each in pool.connects.worst if each.handshakes >= max(HERD, HERD_TIMES * max(1, usual))]
        if not seconds:
            continue
        worst, latest = seconds[0], max(second.at for second in seconds)
        goes_on = now - latest < HERD_GOES_ON
        yield Finding(
            "herd",
            Severity.CRITICAL if goes_on else Severity.WARNING,
            f"Herd at {clock(worst.at)}: {worst.handshakes:,} connects in 1 s, {_times(worst, usual, pool.connects)}",
            f"Pool {pool.name}: {_worst_seconds(pool.connects)}.",
            "Find what dropped them all at once: a deploy, a proxy, a network. Set CONNECT_RATE to what the site can "
            "take, and use clients that keep to the hint, such as AdmissionSocket.",
        )


def _usual(pool: PoolSnapshot, now: float) -> float:
    """Connects in a usual second; infinity where too few seconds are known to tell.

    To the ledger's median a second before its first is one without connects. Where most seconds are,
    the mean stands for it, of those seconds that can be known, without the worst.
    """
    connects = pool.connects
    if connects.median:
        return connects.median
    ages = (now - each.at for each in connects.worst)
    known = min(LATELY, max([*ages, *(worker.uptime for worker in pool.workers)], default=0.0))
    if known < KNOWN:
        return math.inf
    others = connects.total - sum(each.handshakes for each in connects.worst)
    return others / (known - len(connects.worst))


def _times(worst: Second, usual: float, connects: Connects) -> str:
    # A mean below a half says as much of the median.
    if usual < 0.5:
        return "and none in most seconds"
    return f"{worst.handshakes / usual:,.0f} × the {'median' if connects.median else 'mean'}"


def _worst_seconds(connects: Connects) -> str:
    seconds = ", ".join(f"{each.handshakes:,} at {clock(each.at)}" for each in connects.worst)
    return f"{connects.total:,} connects in 5 minutes, the most in one second {seconds}"


def _limits(case: Case) -> Iterator[Finding]:
    for pool in case.snapshot.pools:
        origin = case.facts.origins[pool.name]
        detail = (
            f"{pool.held:,} of {pool.limit:,} slots are held, workers: {len(pool.workers):,}. "
            f"The limit comes from {case.origin(pool)}."
        )
        if pool.level is Level.FULL:
            yield Finding(
                "limit-reached",
                Severity.CRITICAL,
                f"Pool {pool.name} is full",
                detail,
                "Raise the limit if memory, descriptors and lag leave room, else add workers first. If the clients are "
                "fewer than the slots, look for connections that never end (MAX_CONNECTION_AGE).",
            )
        elif pool.level is not Level.CALM:
            yield Finding(
                "limit-near",
                Severity.WARNING,
                f"Pool {pool.name} is filling up",
                detail,
                "Raise the limit before it is reached, if memory, descriptors and lag leave room.",
            )
        reported = pool.configured if pool.controls.limit else pool.limit
        if pool.differs:
            yield _differing(pool)
        elif pool.workers and reported != origin.limit:
            yield Finding(
                "limit-differs",
                Severity.WARNING,
                f"Pool {pool.name} has another limit than the settings here",
                f"A worker reported {reported:,}; {origin.setting} is {origin.limit:,}.",
                "Restart workers that have older settings, or run this with the settings of the workers.",
            )


def _differing(pool: PoolSnapshot) -> Finding:
    sides = "; ".join(
        f"{said(name, side.value)} on {_counted(side)}" for name, sides in pool.differs.items() for side in sides
    )
    return Finding(
        "settings-differ",
        Severity.WARNING,
        f"Workers of pool {pool.name} have different settings",
        f"The strictest are in force, for all of them: {sides}.",
        "A rolling deployment ends this by itself, within a LEASE of the last worker with old settings. Else two sites "
        "share one PREFIX, which each needs for itself, or workers on a host have kept old settings: restart them.",
    )


def _counted(side: Side) -> str:
    names = [" ".join(name.split(":")[:2]) for name in side.workers]
    more = f" and {side.number - len(names):,} more" if side.number > len(names) else ""
    return f"{', '.join(names)}{more}" if names else "none that is left"


def _controls(case: Case) -> Iterator[Finding]:
    for pool in case.snapshot.pools:
        if paused := pool.controls.paused:
            yield Finding(
                "paused",
                Severity.CRITICAL,
                f"Pool {pool.name} is paused",
                f"Nobody is let in{signature(paused)}.",
                f"When it is over: manage.py ws_pause {pool.name} --resume.",
            )
        if pool.dry_run:
            by = signature(pool.controls.dry_run) if pool.controls.dry_run else ", by DRY_RUN"
            yield Finding(
                "dry-run",
                Severity.WARNING,
                f"Dry run: pool {pool.name} refuses nobody",
                f"{sum(pool.would_refuse.values()):,} connections would have been refused so far; dry run{by}.",
                f"To refuse from now on: manage.py ws_dry_run {pool.name} off.",
            )
        if any(worker.draining for worker in pool.workers):
            draining = [worker for worker in pool.workers if worker.draining]
            hosts = ", ".join(f"{worker.host} {worker.pid}" for worker in draining[:MOST_NAMED])
            yield Finding(
                "draining",
                Severity.WARNING if len(draining) == len(pool.workers) else Severity.NOTE,
                f"Workers of pool {pool.name} drain: {len(draining):,} of {len(pool.workers):,}",
                f"They take no new connections: {hosts}"
                + "".join(
                    f"; drain of {whom(each.target)}{signature(each)}" for each in pool.controls.drains[:MOST_NAMED]
                )
                + ".",
                "Workers that are about to end drain by themselves; else manage.py ws_drain --all --cancel.",
            )


def _refusals(case: Case) -> Iterator[Finding]:
    for pool in case.snapshot.pools:
        refused = sorted(((count, reason) for reason, count in pool.refused.items() if count), reverse=True)
        if refused:
            _, most = refused[0]
            yield Finding(
                "refusals",
                Severity.NOTE,
                f"Pool {pool.name} has refused {sum(count for count, _ in refused):,} connections so far",
                "By reason: " + ", ".join(f"{count:,} {reason}" for count, reason in refused),
                f"For {most}: {_advice(most)}.",
            )


def _advice(reason: str) -> str:
    if reason.startswith(QUOTA):
        return "one client opens more than its quota allows; raise it if that is right"
    if reason.startswith(ATTEMPTS):
        return "one client tries to connect too often; raise the quota's rate if many users share its key"
    return REFUSED.get(reason, "a monitor refused; see the readings of the workers")


def _channels(case: Case) -> Iterator[Finding]:
    for pool in case.snapshot.pools:
        if pool.channels_full:
            yield Finding(
                "channels-full",
                Severity.WARNING,
                f"Full channels have ended {pool.channels_full:,} connections of pool {pool.name} so far",
                "A consumer sent to a channel that held as many messages as the layer's capacity allows.",
                "See which consumers are slow to take what is sent to them, raise the layer's capacity, or catch "
                "ChannelFull where a message may be lost.",
            )


def _unaccepted(case: Case) -> Iterator[Finding]:
    for pool in case.snapshot.pools:
        if pool.unaccepted:
            yield Finding(
                "accepts-late",
                Severity.WARNING,
                f"Consumers of pool {pool.name} have not accepted {pool.unaccepted:,} connections in time so far",
                "They were refused at ACCEPT_DEADLINE, and their slots given back.",
                "Sync consumers and database_sync_to_async share one thread of a worker, so that a single call that "
                "blocks holds up every connect(): py-spy dump shows where it stands. Use async consumers, or "
                "sync_to_async(…, thread_sensitive=False) for what may block. Else see what connect() waits for.",
            )


def _outlived(case: Case) -> Iterator[Finding]:
    for pool in case.snapshot.pools:
        if pool.outlived:
            yield Finding(
                "handlers-outlive",
                Severity.NOTE,
                f"Handlers of pool {pool.name} have outlived their client {pool.outlived:,} times so far",
                "They had not accepted when the client left, or went on for DISCONNECT_GRACE after that, and were "
                "cancelled.",
                "Move work that takes so long, or must be finished, into a task queue.",
            )


def _damage(case: Case) -> Iterator[Finding]:
    for pool in case.snapshot.pools:
        if pool.healed:
            yield Finding(
                "ledger-damaged",
                Severity.WARNING,
                f"Counts of pool {pool.name} in the ledger were damaged and put right {pool.healed:,} times so far",
                "Something else wrote, deleted or evicted a part of them. For one and a half heartbeats after each, "
                "workers are granted only what they already had.",
                "See what else writes to this PREFIX, and that Redis evicts nothing (maxmemory-policy noeviction).",
            )


FINDERS: tuple[Finder, ...] = (
    _ledger,
    _damage,
    _switches,
    _controls,
    _herd,
    _limits,
    _channels,
    _unaccepted,
    _outlived,
    _refusals,
)
