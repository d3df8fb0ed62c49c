"""``CHANNELS_ADMISSION`` read once into one frozen :class:`Settings`; nothing else reads Django's settings.

Every key is a :class:`Key`: its default, its check id, what it must be, and how to read it.
:func:`examine` collects all problems at once, for ``manage.py check``; :func:`current` gives the
settings in force or raises with the same list, and follows ``override_settings``.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from numbers import Real
from types import MappingProxyType
from typing import Any

from django.conf import settings as django_settings
from django.core.signals import setting_changed
from django.utils.module_loading import import_string
from django.utils.text import capfirst

from .exceptions import ConfigurationError

NAME = "CHANNELS_ADMISSION"
DEFAULT_POOL = "default"
MEMORY = "channels_admission.ledger.memory.MemoryLedger"
REDIS = "channels_admission.ledger.redis.RedisLedger"
DEFAULT_URL = "redis://localhost:6379"
BACKENDS = {"memory": MEMORY, "redis": REDIS}
HOST_FORMS = "a Redis URL, a (host, port) pair or a dict as channels_redis takes them in 'hosts'"

MAX_LIMIT = 10_000_000
"""Slots; a larger limit is taken for a mistake."""
BEATS_PER_LEASE = 6
"""A lease shorter than this many beats lapses on ordinary stalls (measured: 2 of 5 torture runs)."""
MAX_LEASE = 3600.0
"""Seconds."""
MAX_AGE = 31_536_000
"""Seconds, a year; a larger age is taken for a mistake."""
POOL_NAME = r"[a-z0-9_-]{1,40}"


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """Which ledger, by dotted path, and where, in the words of channels_redis (None for memory)."""

    backend: str
    host: Mapping[str, Any] | None


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


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the project; times in seconds."""

    enabled: bool
    ledger: LedgerSettings
    prefix: str
    lease: float
    beat: float
    ledger_timeout: float
    pools: Mapping[str, PoolSettings]

    def pool(self, name: str) -> PoolSettings:
        """The pool called ``name``; :exc:`ConfigurationError` names the nearest one if there is none."""
        try:
            return self.pools[name]
        except KeyError:
            raise ConfigurationError(
                f"There is no admission pool {name!r}.{_nearest(name, self.pools)} "
                f"Declare it under {NAME}['POOLS'], as {{{name!r}: {{'MAX_CONNECTIONS': …}}}}."
            ) from None


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the settings; ``id`` is the system check's."""

    id: str
    message: str
    hint: str


class Wrong(Exception):
    """A value is not what its key asks for; the message completes "must be …"."""


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


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise Wrong(f"a whole number from {low} to {high}")
        return value

    return read


def _seconds(low: float, high: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if not _is_number(value) or not low <= value <= high:
            raise Wrong(f"a number of seconds from {low:g} to {high:g}")
        return float(value)

    return read


def _share(value: Any) -> float:
    if not _is_number(value) or not 0 < value <= 1:
        raise Wrong("a share of the limit above 0 and at most 1, such as 0.7")
    return float(value)


def _one_of(*choices: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in choices:
            raise Wrong("one of " + ", ".join(map(repr, choices)))
        return str(value)

    return read


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Wrong("True or False")
    return value


def _prefix(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 64 or not value.isprintable() or set(value) & set("{} "):
        raise Wrong("1 to 64 printable characters without spaces and braces")
    return value


def _reason(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value.encode()) > 100:
        raise Wrong("one printable line of at most 100 bytes (a close frame carries 123, the hint needs the rest)")
    return value


def _close_code(value: Any) -> int:
    # RFC 6455, section 7.4: what an endpoint may send, less 1010, which is the client's.
    sendable = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 1014}
    if not isinstance(value, int) or isinstance(value, bool) or (value not in sendable and not 3000 <= value <= 4999):
        raise Wrong("a close code a server may send: 1013 (Try Again Later), another registered one, or 3000 to 4999")
    return value


def _retry_bounds(value: Any) -> tuple[float, float]:
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(map(_is_number, value)):
        raise Wrong("two numbers of seconds, (least, most)")
    low, high = map(float, value)
    if not 0.5 <= low <= high <= 3600:
        raise Wrong("two numbers of seconds, (least, most), with 0.5 <= least <= most <= 3600")
    return low, high


def _age(value: Any) -> float | None:
    if value is not None and (not _is_number(value) or not 1 <= value <= MAX_AGE):
        raise Wrong(f"None or a number of seconds from 1 to {MAX_AGE}")
    return None if value is None else float(value)


def _channel_layer_host() -> Mapping[str, Any] | None:
    """The first host of the default channel layer where that is channels_redis, else None."""
    layer = getattr(django_settings, "CHANNEL_LAYERS", {}).get("default", {})
    if not str(layer.get("BACKEND", "")).startswith("channels_redis."):
        return None
    hosts = layer.get("CONFIG", {}).get("hosts")
    try:
        return _host(hosts[0] if isinstance(hosts, tuple | list) and hosts else DEFAULT_URL)
    except Wrong as wrong:
        raise Wrong(f"given, since the first host of CHANNEL_LAYERS['default'] is not {wrong}") from None


def _host(entry: Any) -> Mapping[str, Any]:
    """One channels_redis host entry as keyword arguments, tried by making a connection of it, which is not opened."""
    from channels_redis.utils import create_pool, decode_hosts

    try:
        host: dict[str, Any] = decode_hosts([entry])[0]
        connection = create_pool(host).make_connection()
    except Exception as error:
        raise Wrong(f"{HOST_FORMS} ({_blame(error)})") from None
    if not 0 < getattr(connection, "port", 6379) < 65536:
        raise Wrong(f"{HOST_FORMS} (a port is a number from 1 to 65535)")
    return MappingProxyType(host)


def _blame(error: Exception) -> str:
    """What is wrong with a host, not in the error's own words: they may quote a URL, and so a password."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    return f"redis-py has no option {unknown[1]!r}" if unknown else f"{type(error).__name__} for what is there"


def _first(hosts: Any) -> Any:
    """The host to use where one, or a list of them, is given; a list of a name and a port is one host."""
    if isinstance(hosts, list) and (len(hosts) != 2 or not isinstance(hosts[1], int)):
        return hosts[0] if hosts else DEFAULT_URL
    return hosts


def _ledger(value: Any) -> LedgerSettings:
    if value is None:
        host = _channel_layer_host()
        return LedgerSettings(REDIS, host) if host is not None else LedgerSettings(MEMORY, None)
    if value == "memory":
        return LedgerSettings(MEMORY, None)
    if isinstance(value, dict) and ("BACKEND" in value or "HOSTS" in value):
        return _ledger_from_dict(value)
    return LedgerSettings(REDIS, _host(_first(value)))


def _ledger_from_dict(value: Mapping[str, Any]) -> LedgerSettings:
    for key in value:
        if key not in ("BACKEND", "HOSTS"):
            raise Wrong(f"a dict of 'BACKEND' and 'HOSTS'; {key!r} is neither.{_nearest(key, ('BACKEND', 'HOSTS'))}")
    backend = value.get("BACKEND", "redis")
    path = BACKENDS.get(backend, backend) if isinstance(backend, str) else ""
    try:
        ledger = import_string(path)
    except (ImportError, TypeError, ValueError):
        ledger = None
    if not hasattr(ledger, "reconcile"):
        raise Wrong("a dict whose 'BACKEND' is 'redis', 'memory' or the dotted path of a ledger")
    if path == MEMORY:
        return LedgerSettings(path, None)
    return LedgerSettings(path, _host(_first(value.get("HOSTS") or DEFAULT_URL)))


PROJECT_KEYS = (
    Key("ENABLED", "E003", True, _flag, "whether anything is refused or counted at all"),
    Key("LEDGER", "E004", None, _ledger, "where the counts are summed; None is the Redis of CHANNEL_LAYERS, or memory"),
    Key(
        "PREFIX", "E005", "channels_admission", _prefix, "prefix of every key in Redis; one per project and environment"
    ),
    Key("LEASE", "E006", 30, _seconds(1, MAX_LEASE), "seconds the ledger believes a worker after its last report"),
    Key("BEAT", "E007", 3, _seconds(0.1, 600), "seconds between a worker's periodic reports"),
    Key("LEDGER_TIMEOUT", "E008", 0.25, _seconds(0.01, 4), "seconds a handshake may wait for the ledger"),
)
OUTAGE_POLICIES = _one_of("share", "freeze", "open", "closed")
REFUSALS = _one_of("close", "http")
POOL_KEYS = (
    Key("MAX_CONNECTIONS", "E010", 5000, _whole(0, MAX_LIMIT), "slots in the pool, all workers together"),
    Key("WARN_AT", "E011", 0.70, _share, "share of the limit from which the status warns"),
    Key("WHEN_LEDGER_DOWN", "E012", "share", OUTAGE_POLICIES, "what a worker may admit while the ledger is away"),
    Key("EXPECTED_WORKERS", "E013", 1, _whole(1, 100_000), "workers, for the part of one the ledger has never met"),
    Key("RETRY_AFTER", "E014", (1, 60), _retry_bounds, "bounds of the hint to a refused client, seconds"),
    Key("REFUSE_WITH", "E015", "close", REFUSALS, "a WebSocket close, or HTTP 503 where the server can"),
    Key("CLOSE_CODE", "E016", 1013, _close_code, "the close code of a refusal"),
    Key("CLOSE_REASON", "E017", "Try Again Later", _reason, "the close reason of a refusal"),
    Key("MAX_CONNECTION_AGE", "E019", None, _age, "seconds after which a connection is closed with 1012, ± 10 %"),
)
KEYS = PROJECT_KEYS + POOL_KEYS
POOLS_ID = "E018"
TERMS_ID = "E009"


def _nearest(name: object, known: Iterable[str]) -> str:
    by_fold = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(str(name).casefold(), by_fold, 1, 0.5)
    return f" Did you mean {by_fold[close[0]]!r}?" if close else ""


def _problem(check: str, message: str, hint: str) -> Problem:
    return Problem(f"channels_admission.{check}", message, hint)


def _unknown(given: Mapping[Any, Any], known: Iterable[str], where: str) -> Iterator[Problem]:
    known = sorted(known)
    for name in given:
        if name not in known:
            yield _problem(
                "E002", f"{where} has no key {name!r:.60}.{_nearest(name, known)}", "Keys: " + ", ".join(known)
            )


def _read(given: Mapping[str, Any], keys: Iterable[Key], where: str, problems: list[Problem]) -> dict[str, Any]:
    """The values of ``keys`` by field name; one that is wrong is noted in ``problems`` and left out."""
    values = {}
    for key in keys:
        value = given.get(key.name, key.default)
        try:
            values[key.field] = key.read(value)
        except Wrong as wrong:
            # A ledger's value may hold a password.
            shown = "" if key.name == "LEDGER" else f", not {value!r:.60}"
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
    lease, beat = values.get("lease"), values.get("beat")
    if lease and beat and lease < BEATS_PER_LEASE * beat:
        message = f"{NAME}['LEASE'] ({lease:g} s) must be at least {BEATS_PER_LEASE} times 'BEAT' ({beat:g} s)."
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


def _forget(*, setting: str, **_: Any) -> None:
    if setting in (NAME, "CHANNEL_LAYERS"):
        current.cache_clear()


setting_changed.connect(_forget, dispatch_uid="channels_admission.conf")
