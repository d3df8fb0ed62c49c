"""``CHANNELS_ADMISSION``, read once into a frozen :class:`Settings`.

:func:`examine` collects all problems, for ``manage.py check``. :func:`current` returns the settings in force, or raises
with the same list. It follows ``override_settings``. Only this folder reads Django's settings.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.text import capfirst

from ..core.protocol import Terms
from ..exceptions import ConfigurationError
from .alerts import Recipients
from .keys import KEYS, MAX_LEASE, MAX_LIMIT, POOL_KEYS, POOLS_ID, PROJECT_KEYS, RENAMED, SECRET, TERMS_ID, Key
from .ledger import LedgerSettings
from .overload import Watch
from .proxies import Proxies
from .quotas import Function, Quota
from .validators import Wrong, brief, nearest

__all__ = [
    "DEFAULT_POOL", "KEYS", "MAX_LIMIT", "NAME", "POOLS_ID", "POOL_KEYS", "PROJECT_KEYS", "TERMS_ID",
    "PoolSettings", "Problem", "Settings", "current", "examine", "origin", "secret", "site", "ticket_secrets",
]  # fmt: skip

NAME = "CHANNELS_ADMISSION"
DEFAULT_POOL = "default"
HEARTBEATS_PER_LEASE = 6
"""A lease of fewer heartbeats lapses on ordinary stalls (measured in 2 of 5 torture runs)."""
BURST_TIME = 0.5
"""Seconds of the rate that make the default burst: workers may have half of it in reserve, and the other half covers
the quarter of a second from one call of a busy worker to the next."""
FOR_ALL = frozenset({"POOLS", *(key.name for key in PROJECT_KEYS)})
"""Keys that no pool has of its own."""
SITES = 999_999
"""Fingerprints that there are: few digits to compare, and too little to tell of the key."""
POOL_NAME = r"[a-z0-9_-]{1,40}"


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """The settings of one pool; each field is a key in lower case."""

    name: str
    max_connections: int
    max_per_worker: int | None
    warn_at: float
    when_ledger_down: str
    expected_workers: int
    retry_after: tuple[float, float]
    refuse_with: str
    balancer_retries: bool | None
    close_code: int
    close_reason: str
    max_connection_age: float | None
    connect_rate: float | None
    connect_burst: int | None
    slow_start: float
    refusal_hold: float | None
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
        """Whether the pool has quotas or classes, so that every handshake must ask the ledger."""
        return bool(self.quotas or self.classify or self.pending_share)

    @property
    def terms(self) -> Terms:
        """The pool's rate, burst, slow start and retry times."""
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
    drain_delay: float
    lock_dir: str | None
    entrance_wait: float | None
    pools: Mapping[str, PoolSettings]
    site: int
    """The fingerprint of the project, see :func:`site`."""

    def pool(self, name: str) -> PoolSettings:
        """The pool called ``name``; :exc:`ConfigurationError` suggests a similar name where there is none."""
        try:
            return self.pools[name]
        except KeyError:
            raise ConfigurationError(
                f"There is no admission pool {name!r}.{nearest(name, self.pools)} "
                f"Declare it in {NAME}['POOLS'], as {{{name!r}: {{'MAX_CONNECTIONS': …}}}}."
            ) from None

    def pool_for(self, consumer: str, name: str) -> PoolSettings:
        """The same; the message of the error begins with the name of the ``consumer``."""
        try:
            return self.pool(name)
        except ConfigurationError as error:
            raise ConfigurationError(f"{consumer}: {error}") from None


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem with the settings; ``id`` is that of its system check."""

    id: str
    message: str
    hint: str


def _problem(check: str, message: str, hint: str) -> Problem:
    return Problem(f"channels_admission.{check}", message, hint)


def _unknown(given: Mapping[Any, Any], known: Iterable[str], where: str) -> Iterator[Problem]:
    known = sorted(known)
    for name in given:
        if name in RENAMED and RENAMED[name] in known:
            message = f"{where} has no key {name!r}: it was renamed {RENAMED[name]!r}."
            yield _problem("E002", message, f"Write {RENAMED[name]!r}.")
        elif name in FOR_ALL and "POOLS" not in known:
            message = f"{where} has no key {name!r}: it is the same for all pools."
            yield _problem("E002", message, f"Write it beside 'POOLS', as {NAME}[{name!r}].")
        elif name not in known:
            yield _problem(
                "E002", f"{where} has no key {name!r:.60}.{nearest(name, known)}", "Known keys: " + ", ".join(known)
            )


def _read(given: Mapping[str, Any], keys: Iterable[Key], where: str, problems: list[Problem]) -> dict[str, Any]:
    """The values of ``keys`` by field name; wrong values are left out and added to ``problems``."""
    values = {}
    for key in keys:
        value = given.get(key.name, key.default)
        try:
            values[key.field] = key.read(value)
        except Wrong as wrong:
            shown = "" if key.name in SECRET else f", not {brief(value)}"
            hint = f"{capfirst(key.meaning)}. Default: {key.default!r}."
            must = f" must be {wrong}{shown}." if str(wrong) else ":"
            message = f"{where}[{key.name!r}]{must} {wrong.why}".rstrip()
            problems.append(_problem(key.id, message, hint))
    return values


def _read_pools(declared: Any, common: Mapping[str, Any], problems: list[Problem]) -> dict[str, PoolSettings]:
    """The default pool and every declared one; ``common`` has the values that a pool does not override."""
    if not isinstance(declared, dict) or not all(isinstance(overrides, dict) for overrides in declared.values()):
        hint = "For example: {'POOLS': {'chat': {'MAX_CONNECTIONS': 500}}}."
        problems.append(_problem(POOLS_ID, f"{NAME}['POOLS'] must be a dict of dicts.", hint))
        return {}
    pools = {}
    keys = {key.name: key for key in POOL_KEYS}
    for name, overrides in {DEFAULT_POOL: {}, **declared}.items():
        if not isinstance(name, str) or not re.fullmatch(POOL_NAME, name):
            hint = "The name of a pool is 1 to 40 of a-z, 0-9, '_' and '-'."
            problems.append(_problem(POOLS_ID, f"{NAME}['POOLS'] has the invalid name {name!r:.60}.", hint))
            continue
        where = f"{NAME}['POOLS'][{name!r}]"
        problems.extend(_unknown(overrides, keys, where))
        own = _read(overrides, [keys[key] for key in overrides if key in keys], where, problems)
        values = {**common, **own}
        if len(values) == len(keys):
            pools[name] = PoolSettings(name=name, **values)
    return pools


def examine() -> tuple[Settings | None, tuple[Problem, ...]]:
    """The settings as Django has them now, and all problems; with any problem the settings are None."""
    given = getattr(django_settings, NAME, {})
    if not isinstance(given, dict):
        message = f"{NAME} must be a dict, not {type(given).__name__}."
        return None, (_problem("E001", message, f"For example: {NAME} = {{'MAX_CONNECTIONS': 5000}}."),)
    problems = list(_unknown(given, [*(key.name for key in KEYS), "POOLS"], NAME))
    values = _read(given, KEYS, NAME, problems)
    common = {key.field: values.pop(key.field) for key in POOL_KEYS if key.field in values}
    pools = _read_pools(given.get("POOLS", {}), common, problems)
    problems.extend(_lease_too_short(values.get("lease"), values.get("heartbeat")))
    problems.extend(_delay_too_long(values))
    if problems:
        return None, tuple(problems)
    return Settings(pools=MappingProxyType(pools), site=site(), **values), ()


def _lease_too_short(lease: float | None, heartbeat: float | None) -> Iterator[Problem]:
    if lease and heartbeat and lease < HEARTBEATS_PER_LEASE * heartbeat:
        yield _problem(
            TERMS_ID,
            f"{NAME}['LEASE'] ({lease:g} s) must be at least {HEARTBEATS_PER_LEASE} times 'HEARTBEAT' "
            f"({heartbeat:g} s).",
            f"With this heartbeat, set a lease of {min(10 * heartbeat, MAX_LEASE):g} s.",
        )


def _delay_too_long(values: Mapping[str, Any]) -> Iterator[Problem]:
    """A drain that an operator has set ends by itself after a lease without a worker that drains."""
    lease, heartbeat, delay = (values.get(name) for name in ("lease", "heartbeat", "drain_delay"))
    if lease and heartbeat and delay and delay > lease - 2 * heartbeat:
        yield _problem(
            TERMS_ID,
            f"{NAME}['DRAIN_DELAY'] ({delay:g} s) must be at most 'LEASE' less two 'HEARTBEAT' "
            f"({lease - 2 * heartbeat:g} s).",
            "Shorten it, or set a longer lease.",
        )


@cache
def current() -> Settings:
    """The settings in force, cached; :exc:`ConfigurationError` lists all problems."""
    settings, problems = examine()
    if settings is None:
        raise ConfigurationError("\n".join(f"{problem.message} {problem.hint} ({problem.id})" for problem in problems))
    return settings


def secret() -> bytes:
    """A secret of the project, derived from SECRET_KEY, for keyed hashes."""
    return _derived(django_settings.SECRET_KEY, b"claims")


def ticket_secrets() -> tuple[bytes, ...]:
    """The secrets of tickets, derived from SECRET_KEY and SECRET_KEY_FALLBACKS; the first one signs."""
    keys = (django_settings.SECRET_KEY, *django_settings.SECRET_KEY_FALLBACKS)
    return tuple(_derived(key, b"tickets") for key in keys)


def site() -> int:
    """A fingerprint of the project, from 1 to :data:`SITES`, which its workers report; 0 without a SECRET_KEY.

    It is derived from SECRET_KEY, which all hosts and releases of a project share, and no other project has. Nothing
    else is in it: names of modules are alike in many projects, and paths and addresses differ between hosts. So it
    tells two projects apart, and environments with a SECRET_KEY each. It does not tell apart a copy of a project that
    has kept the key. A SECRET_KEY that is changed is another site, until the last worker with the old one has gone.
    """
    try:
        return 1 + int.from_bytes(_derived(django_settings.SECRET_KEY, b"site")) % SITES
    except ImproperlyConfigured:  # a command that needs no key, as in a build
        return 0


def _derived(key: object, purpose: bytes) -> bytes:
    return hashlib.blake2s(str(key).encode(), person=purpose).digest()


def origin(pool: str, key: str) -> str:
    """Where a pool's ``key`` is set: in the pool's dict, in the common one, or by default."""
    given: Mapping[str, Any] = getattr(django_settings, NAME, {})
    if key in given.get("POOLS", {}).get(pool, {}):
        return f"{NAME}['POOLS'][{pool!r}][{key!r}]"
    return f"{NAME}[{key!r}]" if key in given else "the default"


def _forget(*, setting: str, **_: Any) -> None:
    if setting in (NAME, "CHANNEL_LAYERS", "SECRET_KEY", "SECRET_KEY_FALLBACKS"):
        current.cache_clear()


setting_changed.connect(_forget, dispatch_uid="channels_admission.conf")
