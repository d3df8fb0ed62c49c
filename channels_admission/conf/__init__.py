"""``CHANNELS_ADMISSION`` read once into one frozen :class:`Settings`; nothing else reads Django's settings.

Every key is a :class:`Key`: its default, its check id, what it must be, and how to read it.
:func:`examine` collects all problems at once, for ``manage.py check``; :func:`current` gives the
settings in force or raises with the same list, and follows ``override_settings``.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any

from django.conf import settings as django_settings
from django.core.signals import setting_changed
from django.utils.text import capfirst

from ..core.protocol import Terms
from ..exceptions import ConfigurationError
from .alerts import Recipients, recipients
from .ledger import LedgerSettings, ledger
from .overload import Watch, pressure
from .proxies import Proxies, trusted_proxies
from .quotas import Function, Quota, classify, deadline, part, quotas, shares
from .validators import (
    Wrong,
    age,
    burst,
    close_code,
    drain,
    flag,
    nearest,
    one_of,
    patience,
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

NAME = "CHANNELS_ADMISSION"
DEFAULT_POOL = "default"
MAX_LIMIT = 10_000_000
"""Slots; a larger limit is taken for a mistake."""
BEATS_PER_LEASE = 6
"""A lease shorter than this many beats lapses on ordinary stalls (measured: 2 of 5 torture runs)."""
MAX_LEASE = 3600.0
"""Seconds."""
BURST_TIME = 0.25
"""Seconds: a worker asks the ledger at least four times in a second of a herd, and loses no admissions between."""
POOL_NAME = r"[a-z0-9_-]{1,40}"


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """The settings of one pool; field names are the keys in lower case."""

    name: str
    max_connections: int
    warn_at: float
    when_ledger_down: str
    expected_workers: int
    retry_after: tuple[float, float]
    refuse_with: str
    close_code: int
    close_reason: str
    max_connection_age: float | None
    connect_rate: float | None
    connect_burst: int | None
    slow_start: float
    refusal_hold: float
    max_refusals_held: int
    quotas: tuple[Quota, ...]
    classify: Function | None
    shares: Mapping[str, float]
    pending_share: float | None
    pending_deadline: float | None
    accept_deadline: float | None
    disconnect_grace: float | None
    dry_run: bool

    @property
    def is_shared(self) -> bool:
        """Whether quotas or classes share the pool out, so that every handshake must ask the ledger."""
        return bool(self.quotas or self.classify or self.pending_share)

    @property
    def terms(self) -> Terms:
        """What the ledger must know to set the pace; a burst that is not given is a quarter of a second's rate."""
        burst = self.connect_burst or max(1, math.ceil(BURST_TIME * (self.connect_rate or 0)))
        return Terms(self.connect_rate, burst, self.slow_start, self.retry_after)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the project; times in seconds."""

    enabled: bool
    ledger: LedgerSettings
    prefix: str
    lease: float
    heartbeat: float
    ledger_timeout: float
    pressure: Mapping[str, Watch]
    memory_limit: int | None
    shed_per_heartbeat: int
    status_token: str | None = field(repr=False)
    trusted_proxies: Proxies
    alerts: Recipients
    drain_on_stop: float | None
    pools: Mapping[str, PoolSettings]

    def pool(self, name: str) -> PoolSettings:
        """The pool called ``name``; :exc:`ConfigurationError` names the nearest one if there is none."""
        try:
            return self.pools[name]
        except KeyError:
            raise ConfigurationError(
                f"There is no admission pool {name!r}.{nearest(name, self.pools)} "
                f"Declare it under {NAME}['POOLS'], as {{{name!r}: {{'MAX_CONNECTIONS': …}}}}."
            ) from None


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the settings; ``id`` is the system check's."""

    id: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the settings dict: ``read`` turns its value into ours or raises :exc:`Wrong`."""

    name: str
    id: str
    default: Any
    read: Callable[[Any], Any]
    meaning: str

    @property
    def field(self) -> str:
        return self.name.lower()


PROJECT_KEYS = (
    Key("ENABLED", "E003", True, flag, "whether anything is refused or counted at all"),
    Key("LEDGER", "E004", None, ledger, "where the counts are summed; None is the Redis of CHANNEL_LAYERS, or memory"),
    Key(
        "PREFIX", "E005", "channels_admission", prefix, "prefix of every key in Redis; one per project and environment"
    ),
    Key("LEASE", "E006", 30, seconds(1, MAX_LEASE), "seconds the ledger believes a worker after its last report"),
    Key("HEARTBEAT", "E007", 3, seconds(0.1, 600), "seconds between a worker's periodic reports"),
    Key("LEDGER_TIMEOUT", "E008", 0.25, seconds(0.01, 4), "seconds a handshake may wait for the ledger"),
    Key("PRESSURE", "E026", {}, pressure, "from which readings on a monitor refuses: {'lag': (scaling, saturation)}"),
    Key(
        "SHED_PER_HEARTBEAT",
        "E028",
        50,
        whole(0, 100_000),
        "connections a worker closes in a beat where memory runs out",
    ),
    Key("STATUS_TOKEN", "E050", None, token, "the bearer token for status.json and the metrics; None for users only"),
    Key(
        "ALERTS", "E041", {}, recipients, "who is told when a pool fills: {'MAIL_ADMINS': True, 'WEBHOOK': 'https://…'}"
    ),
    Key("DRAIN_ON_STOP", "E042", None, drain, "seconds in which a worker that is to stop closes its connections first"),
    Key("MEMORY_LIMIT", "E027", None, size, "bytes of memory one worker process may use; None for what there is"),
    Key("TRUSTED_PROXIES", "E029", 0, trusted_proxies, "proxies in front: their number, or a list of their networks"),
)
OUTAGE_POLICIES = one_of("share", "freeze", "open", "closed")
REFUSALS = one_of("close", "http")
POOL_KEYS = (
    Key("MAX_CONNECTIONS", "E010", 5000, whole(0, MAX_LIMIT), "slots in the pool, all workers together"),
    Key("WARN_AT", "E011", 0.70, share, "share of the limit from which the status warns"),
    Key("WHEN_LEDGER_DOWN", "E012", "share", OUTAGE_POLICIES, "what a worker may admit while the ledger is away"),
    Key("EXPECTED_WORKERS", "E013", 1, whole(1, 100_000), "workers, for the part of one the ledger has never met"),
    Key("RETRY_AFTER", "E014", (1, 60), retry_bounds, "bounds of the hint to a refused client, seconds"),
    Key("REFUSE_WITH", "E015", "close", REFUSALS, "a WebSocket close, or HTTP 503 where the server can"),
    Key("CLOSE_CODE", "E016", 1013, close_code, "the close code of a refusal"),
    Key("CLOSE_REASON", "E017", "Try Again Later", reason, "the close reason of a refusal"),
    Key("MAX_CONNECTION_AGE", "E019", None, age, "seconds after which a connection is closed with 1012, ± 10 %"),
    Key("CONNECT_RATE", "E021", None, rate, "admissions per second, all workers together; None for no limit"),
    Key("CONNECT_BURST", "E022", None, burst, "admissions that may come at once; None for a quarter of a second's"),
    Key(
        "SLOW_START", "E023", 0, seconds(0, 3600), "seconds in which the rate grows to its full value in an empty pool"
    ),
    Key("REFUSAL_HOLD", "E024", 0, seconds(0, 60), "seconds a refused client is kept before the close, at the most"),
    Key("MAX_REFUSALS_HELD", "E025", 1000, whole(0, 100_000), "refused clients that one worker keeps at a time"),
    Key(
        "QUOTAS", "E030", (), quotas, "slots and attempts that one client may have: a list of {'key': 'user', 'max': 3}"
    ),
    Key("CLASSIFY", "E031", None, classify, "dotted path of a function from a scope to the name of a class"),
    Key("SHARES", "E032", {}, shares, "the share of the limit up to which each class may fill the pool"),
    Key("PENDING_SHARE", "E033", None, part, "share of the limit for those who have not authenticated yet"),
    Key("PENDING_DEADLINE", "E034", None, deadline, "seconds to authenticate, after which one is closed with 1008"),
    Key("ACCEPT_DEADLINE", "E075", 10, patience(1), "seconds to accept a connection, after which it is refused"),
    Key("DISCONNECT_GRACE", "E076", 10, patience(0), "seconds a handler may go on after its client has left"),
    Key("DRY_RUN", "E040", False, flag, "whether all is decided and counted, and nobody refused"),
)
KEYS = PROJECT_KEYS + POOL_KEYS
SECRET = frozenset({"LEDGER", "ALERTS", "STATUS_TOKEN"})
"""Keys whose value may hold a password."""
POOLS_ID = "E018"
TERMS_ID = "E009"
RENAMED = {"BEAT": "HEARTBEAT", "RAMP": "SLOW_START", "SHED_PER_BEAT": "SHED_PER_HEARTBEAT"}
"""Earlier names of keys, each with the name it has now."""


def _problem(check: str, message: str, hint: str) -> Problem:
    return Problem(f"channels_admission.{check}", message, hint)


def _unknown(given: Mapping[Any, Any], known: Iterable[str], where: str) -> Iterator[Problem]:
    known = sorted(known)
    for name in given:
        if name in RENAMED and RENAMED[name] in known:
            message = f"{where} has no key {name!r}: it is called {RENAMED[name]!r} now."
            yield _problem("E002", message, f"Write {RENAMED[name]!r}.")
        elif name not in known:
            yield _problem(
                "E002", f"{where} has no key {name!r:.60}.{nearest(name, known)}", "Keys: " + ", ".join(known)
            )


def _read(given: Mapping[str, Any], keys: Iterable[Key], where: str, problems: list[Problem]) -> dict[str, Any]:
    """The values of ``keys`` by field name; one that is wrong is noted in ``problems`` and left out."""
    values = {}
    for key in keys:
        value = given.get(key.name, key.default)
        try:
            values[key.field] = key.read(value)
        except Wrong as wrong:
            shown = "" if key.name in SECRET else f", not {value!r:.60}"
            hint = f"{capfirst(key.meaning)}. Default: {key.default!r}."
            problems.append(_problem(key.id, f"{where}[{key.name!r}] must be {wrong}{shown}.", hint))
    return values


def _read_pools(declared: Any, common: Mapping[str, Any], problems: list[Problem]) -> dict[str, PoolSettings]:
    """Every declared pool and the default one; ``common`` holds what a pool does not override."""
    if not isinstance(declared, dict) or not all(isinstance(overrides, dict) for overrides in declared.values()):
        hint = "For example: {'POOLS': {'chat': {'MAX_CONNECTIONS': 500}}}."
        problems.append(_problem(POOLS_ID, f"{NAME}['POOLS'] must be a dict of dicts.", hint))
        return {}
    pools = {}
    keys = {key.name: key for key in POOL_KEYS}
    for name, overrides in {DEFAULT_POOL: {}, **declared}.items():
        if not isinstance(name, str) or not re.fullmatch(POOL_NAME, name):
            hint = "A pool's name is 1 to 40 of a-z, 0-9, '_' and '-'."
            problems.append(
                _problem(POOLS_ID, f"{NAME}['POOLS'] has the name {name!r:.60}, which no pool can have.", hint)
            )
            continue
        where = f"{NAME}['POOLS'][{name!r}]"
        problems.extend(_unknown(overrides, keys, where))
        own = _read(overrides, [keys[key] for key in overrides if key in keys], where, problems)
        values = {**common, **own}
        if len(values) == len(keys):
            pools[name] = PoolSettings(name=name, **values)
    return pools


def examine() -> tuple[Settings | None, tuple[Problem, ...]]:
    """The settings as Django has them now, and every problem with them; None when there is one."""
    given = getattr(django_settings, NAME, {})
    if not isinstance(given, dict):
        message = f"{NAME} must be a dict, not {type(given).__name__}."
        return None, (_problem("E001", message, f"For example: {NAME} = {{'MAX_CONNECTIONS': 5000}}."),)
    problems = list(_unknown(given, [*(key.name for key in KEYS), "POOLS"], NAME))
    values = _read(given, KEYS, NAME, problems)
    common = {key.field: values.pop(key.field) for key in POOL_KEYS if key.field in values}
    pools = _read_pools(given.get("POOLS", {}), common, problems)
    lease, beat = values.get("lease"), values.get("heartbeat")
    if lease and beat and lease < BEATS_PER_LEASE * beat:
        message = f"{NAME}['LEASE'] ({lease:g} s) must be at least {BEATS_PER_LEASE} times 'HEARTBEAT' ({beat:g} s)."
        good = min(10 * beat, MAX_LEASE)
        problems.append(_problem(TERMS_ID, message, f"With this beat, a lease of {good:g} s is a good one."))
    if problems:
        return None, tuple(problems)
    return Settings(pools=MappingProxyType(pools), **values), ()


@cache
def current() -> Settings:
    """The settings in force, read once; :exc:`ConfigurationError` lists all problems."""
    settings, problems = examine()
    if settings is None:
        raise ConfigurationError("\n".join(f"{problem.message} {problem.hint} ({problem.id})" for problem in problems))
    return settings


def secret() -> bytes:
    """A secret of this project's own, from SECRET_KEY, to hash what must not be told."""
    return hashlib.blake2s(str(django_settings.SECRET_KEY).encode(), person=b"claims").digest()


def origin(pool: str, key: str) -> str:
    """Where the value of a pool's ``key`` is written: in its own dict, in the common one, or nowhere."""
    given: Mapping[str, Any] = getattr(django_settings, NAME, {})
    if key in given.get("POOLS", {}).get(pool, {}):
        return f"{NAME}['POOLS'][{pool!r}][{key!r}]"
    return f"{NAME}[{key!r}]" if key in given else "the default"


def _forget(*, setting: str, **_: Any) -> None:
    if setting in (NAME, "CHANNEL_LAYERS", "SECRET_KEY"):
        current.cache_clear()


setting_changed.connect(_forget, dispatch_uid="channels_admission.conf")
