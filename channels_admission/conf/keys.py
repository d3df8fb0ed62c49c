"""The keys of ``CHANNELS_ADMISSION``: default, system check, type and meaning of each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .alerts import recipients
from .ledger import ledger
from .overload import pressure
from .proxies import trusted_proxies
from .quotas import classify, pending_share, quotas, shares
from .validators import (
    MAX_AGE,
    burst,
    close_code,
    flag,
    folder,
    one_of,
    optional_flag,
    optional_seconds,
    optional_whole,
    prefix,
    rate,
    reason,
    retry_bounds,
    seconds,
    share,
    size,
    token,
    whole,
)

MAX_LIMIT = 10_000_000
"""Most slots of a pool; a larger number is taken for a mistake."""
MAX_LEASE = 3600.0
"""Seconds."""
MAX_ENTRANCE_WAIT = 4
"""Seconds; Daphne gives up a handshake after five."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the settings: ``read`` converts its value or raises :exc:`Wrong`; ``meaning`` is the hint."""

    name: str
    id: str
    default: Any
    read: Callable[[Any], Any]
    meaning: str

    @property
    def field(self) -> str:
        return self.name.lower()


PROJECT_KEYS = (
    Key("ENABLED", "E003", True, flag, "whether connections are limited and counted"),
    Key(
        "LEDGER",
        "E004",
        None,
        ledger,
        "the Redis that keeps the counts; None for that of CHANNEL_LAYERS, or else memory",
    ),
    Key(
        "PREFIX",
        "E005",
        "channels_admission",
        prefix,
        "prefix of every key in Redis; each project and environment needs its own",
    ),
    Key("LEASE", "E006", 30, seconds(1, MAX_LEASE), "seconds for which a worker is counted after its last report"),
    Key("HEARTBEAT", "E007", 3, seconds(0.1, 600), "seconds between a worker's periodic reports"),
    Key("LEDGER_TIMEOUT", "E008", 0.25, seconds(0.01, 4), "seconds a handshake may wait for the ledger"),
    Key(
        "PRESSURE",
        "E026",
        {},
        pressure,
        "thresholds of each monitor: {'lag': (scaling, saturation)}; None to show its reading only",
    ),
    Key(
        "SHED_PER_HEARTBEAT",
        "E028",
        50,
        whole(0, 100_000),
        "connections that a worker closes per heartbeat while it is out of memory",
    ),
    Key(
        "STATUS_TOKEN",
        "E050",
        None,
        token,
        "bearer token for status.json and the metrics; None to admit only logged-in users",
    ),
    Key("ALERTS", "E041", {}, recipients, "recipients of alerts: {'MAIL_ADMINS': True, 'WEBHOOK': 'https://…'}"),
    Key(
        "DRAIN_ON_STOP",
        "E042",
        None,
        optional_seconds(0),
        "seconds in which a stopping worker closes its connections; None to stop at once",
    ),
    Key(
        "DRAIN_DELAY",
        "E080",
        0,
        seconds(0, 600),
        "seconds before a drain in which the worker is not ready but still admits",
    ),
    Key(
        "LOCK_DIR",
        "E081",
        None,
        folder,
        "a directory that outlives a container, where workers keep lock files; None where they see each other",
    ),
    Key(
        "ENTRANCE_WAIT",
        "E077",
        MAX_ENTRANCE_WAIT,
        optional_seconds(0.1, MAX_ENTRANCE_WAIT),
        "seconds an admitted handshake may wait at the entrance; None lets all in at once",
    ),
    Key(
        "MEMORY_LIMIT",
        "E027",
        None,
        size,
        "bytes of memory that one worker process may use; None for all of the container or machine",
    ),
    Key("TRUSTED_PROXIES", "E029", 0, trusted_proxies, "proxies in front: their number, or a list of their networks"),
)
OUTAGE_POLICIES = one_of("share", "freeze", "open", "closed")
REFUSALS = one_of("close", "http")
POOL_KEYS = (
    Key("MAX_CONNECTIONS", "E010", 5000, whole(0, MAX_LIMIT), "slots in the pool, all workers together"),
    Key(
        "MAX_PER_WORKER",
        "E079",
        None,
        optional_whole(1, MAX_LIMIT),
        "slots of the pool that one worker may hold; None for all",
    ),
    Key("WARN_AT", "E011", 0.70, share, "share of the limit from which the level is a warning"),
    Key("WHEN_LEDGER_DOWN", "E012", "share", OUTAGE_POLICIES, "what a worker admits while the ledger is away"),
    Key(
        "EXPECTED_WORKERS",
        "E013",
        1,
        whole(1, 100_000),
        "number of workers; one that has not reached the ledger yet takes its part of the limit",
    ),
    Key(
        "RETRY_AFTER", "E014", (1, 60), retry_bounds, "shortest and longest retry time of a refused client, in seconds"
    ),
    Key("REFUSE_WITH", "E015", "close", REFUSALS, "a WebSocket close, or HTTP 503 where the server supports it"),
    Key(
        "BALANCER_RETRIES",
        "E078",
        None,
        optional_flag,
        "whether a balancer tries another worker after a 503; None if the header Admission-Retry says so",
    ),
    Key("CLOSE_CODE", "E016", 1013, close_code, "the close code of a refusal"),
    Key("CLOSE_REASON", "E017", "Try Again Later", reason, "the close reason of a refusal"),
    Key(
        "MAX_CONNECTION_AGE",
        "E019",
        None,
        optional_seconds(1, MAX_AGE),
        "seconds after which a connection is closed with 1012, ± 10 %",
    ),
    Key("CONNECT_RATE", "E021", None, rate, "admissions per second, all workers together; None for no limit"),
    Key(
        "CONNECT_BURST",
        "E022",
        None,
        burst,
        "admissions that may come at once; None for half a second at the rate",
    ),
    Key(
        "SLOW_START",
        "E023",
        0,
        seconds(0, 3600),
        "seconds in which the rate rises to its full value while an empty pool fills",
    ),
    Key(
        "REFUSAL_HOLD",
        "E024",
        None,
        optional_seconds(0, 60),
        "most seconds for which a refused client is kept before its close; None to keep only those that hammer",
    ),
    Key("MAX_REFUSALS_HELD", "E025", 1000, whole(0, 100_000), "refused clients that one worker keeps at the same time"),
    Key("QUOTAS", "E030", (), quotas, "slots and attempts per client: a list of {'key': 'user', 'max': 3}"),
    Key("CLASSIFY", "E031", None, classify, "dotted path of a function from a scope to the name of a class"),
    Key("SHARES", "E032", {}, shares, "the share of the limit up to which each class may fill the pool"),
    Key("PENDING_SHARE", "E033", None, pending_share, "share of the limit for unauthenticated connections"),
    Key(
        "PENDING_DEADLINE",
        "E034",
        None,
        optional_seconds(0.1),
        "seconds to authenticate, after which a connection is closed with 1008",
    ),
    Key(
        "ACCEPT_DEADLINE", "E075", 10, optional_seconds(1), "seconds to accept a connection, after which it is refused"
    ),
    Key(
        "DISCONNECT_GRACE",
        "E076",
        10,
        optional_seconds(0),
        "seconds for which a handler may run after its client has left",
    ),
    Key("DRY_RUN", "E040", False, flag, "whether to decide and count only, and refuse no client"),
)
KEYS = PROJECT_KEYS + POOL_KEYS
SECRET = frozenset({"LEDGER", "ALERTS", "STATUS_TOKEN"})
"""Keys whose value may contain a password, so no message quotes it."""
POOLS_ID = "E018"
TERMS_ID = "E009"
RENAMED = {"BEAT": "HEARTBEAT", "RAMP": "SLOW_START", "SHED_PER_BEAT": "SHED_PER_HEARTBEAT"}
"""Former names of keys, with the present ones."""
