"""Findings about incidents: what is counted, is never wanted, and may have happened once or go on.

One of the last five minutes is a warning, an older one a note.
"""

from collections.abc import Callable, Iterable, Iterator

from ...conf.ledger import CORE_LAYER
from ...core.counters import Counters, failed_functions
from ..values import PoolSnapshot
from ..words import numbered
from .finding import Finder, Finding, Severity, age_of, clock, exceeding, name_of, named, share_of, since
from .model import Inputs, Process

LASTING = (
    "With this layer every consumer waits in a call to Redis, and ends when that fails. With "
    "channels_redis.pubsub.RedisPubSubChannelLayer they stay: see docs/operations.md, The channel layer. Find out why "
    "Redis was unreachable; or the layer's own time-out ends idle consumers, which manage.py check reports (W002)."
)
"""The advice on a layer whose consumers end with the connection to Redis."""


def severity(inputs: Inputs, pools: Iterable[PoolSnapshot], event: str) -> Severity:
    """A warning if the incident was reported lately in one of the pools."""
    is_new = any(event in pool.lately(inputs.snapshot.taken) for pool in pools)
    return Severity.WARNING if is_new else Severity.NOTE


def latest(pools: Iterable[PoolSnapshot], event: str) -> str:
    """When the latest was reported, as the end of a sentence; empty if unknown."""
    known = [pool.latest[event] for pool in pools if event in pool.latest]
    return f", the latest at {clock(max(known))}" if known else ""


def _counting(
    counter: str, identifier: str, counts: str, title: str, cause: str, advice: str, *, is_fault: bool = True
) -> Finder:
    """Finds each pool whose ``counter`` has counted something.

    ``title`` has places for ``pool`` and ``count``, which is the number with what it ``counts``.
    """

    def find(inputs: Inputs) -> Iterator[Finding]:
        for pool in inputs.snapshot.pools:
            if count := getattr(pool, counter):
                yield Finding(
                    identifier,
                    severity(inputs, [pool], counter) if is_fault else Severity.NOTE,
                    title.format(pool=pool.name, count=numbered(count, counts)) + since([pool]),
                    cause + _last(pool, counter),
                    advice,
                )

    return find


def _last(pool: PoolSnapshot, counter: str) -> str:
    """The time of the latest, and the workers that were lost last, as a sentence of its own."""
    if counter == "lost" and pool.lost_workers:
        named = ", ".join(f"{each.host} {each.pid} at {clock(each.at)}" for each in pool.lost_workers)
        return f" The last: {named}."
    return f" The latest was reported at {clock(pool.latest[counter])}." if counter in pool.latest else ""


_channels = _counting(
    "channels_full",
    "channels-full",
    "connection",
    "Full channels have ended {count} of pool {pool}",
    "A consumer sent to a channel that already held as many messages as the layer's capacity.",
    "Find the consumers that receive too slowly, raise the layer's capacity, or catch ChannelFull where a "
    "message may be lost.",
)


_unaccepted = _counting(
    "unaccepted",
    "accepts-late",
    "connection",
    "Consumers of pool {pool} have not accepted {count} in time",
    "They were refused at ACCEPT_DEADLINE, and their slots released.",
    "Sync consumers and database_sync_to_async share one thread per worker, so a single blocking call "
    "delays every connect(): py-spy dump shows it. Use async consumers, or sync_to_async(…, "
    "thread_sensitive=False) for calls that may block. Otherwise check what connect() waits for.",
)


_outlived = _counting(
    "outlived",
    "handlers-outlive",
    "time",
    "Handlers of pool {pool} have outlived their client {count}",
    "They were cancelled: they had not accepted when the client left, or still ran DISCONNECT_GRACE seconds later.",
    "Move work that takes that long, or that must finish, into a task queue.",
    is_fault=False,
)


_damage = _counting(
    "healed",
    "ledger-damaged",
    "time",
    "Damaged counts of pool {pool} in the ledger were repaired {count}",
    "Something else wrote, deleted or evicted some of them. For one and a half heartbeats after each "
    "repair, workers are granted only what they already had.",
    "Find what else writes to this PREFIX, and set maxmemory-policy noeviction so that Redis evicts nothing.",
)


_lost = _counting(
    "lost",
    "workers-lost",
    "worker",
    "{count} of pool {pool} lost without a goodbye",
    "Their process had gone, and their slots were released at once; or they were silent for their whole lease.",
    "If it was no deployment, look for what killed them: the kernel's log (dmesg) tells of the OOM killer, the log of "
    "the supervisor of exit codes. A worker says goodbye if it has the time to end: raise the supervisor's timeout.",
)


_events = _counting(
    "events_dropped",
    "events-dropped",
    "event",
    "Workers have dropped {count} of pool {pool}",
    "Receivers of signals, mail or the webhook were too slow. No connection was delayed.",
    "Move long work of receivers into a task queue, and set EMAIL_TIMEOUT for mail.",
)


def _data_lost(inputs: Inputs) -> Iterator[Finding]:
    pools = [pool for pool in inputs.snapshot.pools if "data_lost" in pool.latest]
    if pools:
        at = clock(max(pool.latest["data_lost"] for pool in pools))
        yield Finding(
            "data-lost",
            severity(inputs, pools, "data_lost"),
            f"The ledger lost its data at {at}",
            f"Pools: {', '.join(pool.name for pool in pools)}. The workers have reported their connections again, and "
            "restored what operators have set; the counters began at 0.",
            "Find out why: Redis was restarted without persistence, failed over to a replica that lagged, or was "
            "flushed (FLUSHALL). The limit held meanwhile: each worker was granted only what it already had.",
        )


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
        detail = named(failing, told) + f"; since the worker started{latest(inputs.snapshot.pools, 'faults')}"
        yield Finding(
            identifier,
            severity(inputs, inputs.snapshot.pools, "faults"),
            title.format(name_of(failing[0])),
            detail,
            advice,
        )


def _shed(inputs: Inputs) -> Iterator[Finding]:
    def told(process: Process) -> str:
        return f"{process.shed:,} in {age_of(process)}, memory now {share_of(process.reading('memory'))}"

    shed = exceeding(inputs.processes, lambda process: process.shed)
    total = sum(pool.shed for pool in inputs.snapshot.pools)
    if total:
        yield Finding(
            "connections-shed",
            severity(inputs, inputs.snapshot.pools, "shed"),
            f"Workers have closed {numbered(total, 'connection')} because memory ran out{since(inputs.snapshot.pools)}",
            (named(shed, told) if shed else "The workers that did have ended") + latest(inputs.snapshot.pools, "shed"),
            "They closed their youngest connections past the second threshold of memory. "
            "Lower MAX_CONNECTIONS, add workers or memory, and check what consumers keep for each connection.",
        )


def _layer(inputs: Inputs) -> Iterator[Finding]:
    def told(process: Process) -> str:
        return f"{process.layer_failed:,} in {age_of(process)}"

    failed = exceeding(inputs.processes, lambda process: process.layer_failed)
    total = sum(each.layer_failed for each in failed)  # counted by the workers, as the ledger may have failed as well
    if total:
        shared = " It is in the Redis of the ledger." if inputs.host.layer.shared else ""
        is_core = inputs.host.layer.backend == CORE_LAYER
        yield Finding(
            "layer-failed",
            severity(inputs, inputs.snapshot.pools, "layer_failed"),
            f"The channel layer failed and ended {numbered(total, 'connection')}",
            f"{named(failed, told)}{latest(inputs.snapshot.pools, 'layer_failed')}; the layer is "
            f"{inputs.host.layer.backend or 'unknown here'}.{shared}",
            LASTING if is_core else "Find out why: the workers' logs have tracebacks.",
        )


FINDERS: tuple[Finder, ...] = (
    _shed,
    _layer,
    _damage,
    _lost,
    _events,
    _data_lost,
    _channels,
    _unaccepted,
    _outlived,
    _faults,
)
