"""``LEDGER``: where the ledger is; by default on the first host of the channel layer."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

from channels_redis.utils import create_pool, decode_hosts
from django.conf import settings as django_settings
from django.utils.module_loading import import_string

from ..core.guard import is_guarded
from .validators import Failed, Wrong, imported, is_number, misnamed, nearest

MEMORY = "channels_admission.ledger.memory.MemoryLedger"
REDIS = "channels_admission.ledger.redis.RedisLedger"
CLUSTER = "channels_admission.ledger.redis.cluster.RedisClusterLedger"
FOR_TESTS = "channels_admission.testing.LedgerForTests"
CLUSTER_CLIENT = "channels_admission.ledger.redis.cluster.cluster_client"
CORE_LAYER = "channels_redis.core.RedisChannelLayer"
LAYERS = ("channels_redis.", "channels_valkey.")
"""The beginning of the dotted paths of layers in Redis."""
DEFAULT_URL = "redis://localhost:6379"
BACKENDS = {"memory": MEMORY, "redis": REDIS}
PARTS = ("BACKEND", "HOSTS", "CLUSTER")
HOST_FORMS = "a Redis URL, a (host, port) pair or a dict as channels_redis takes them in 'hosts'"

HOST = r"[\w.-]+|\[?[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]?"
URL = re.compile(
    rf"(?:(?P<scheme>rediss?)://(?:[^/?#]*@)?(?P<place>(?:{HOST})(?::\d{{1,5}})?)?(?P<db>/\d{{0,9}})?/?"
    r"|(?P<socket>unix):(?://(?:[^/?#]*@)?)?(?P<path>/(?!/)[^?#@]+))"
    r"(?:\?\w+=[^&#@+]*(?:&\w+=[^&#@+]*)*)?",
    re.IGNORECASE,
)
"""The URLs that redis-py cannot misread.

It reads ``redis://:42/secret@host`` as port 42 of this machine, and silently drops what it does not understand.
"""
TIMES = ("socket_timeout", "socket_connect_timeout", "health_check_interval")
"""Options whose values redis-py reads from a URL, but not from a dict."""
UNREADABLE = (
    "a URL is redis://user:password@host:port/database with every special character of user and password "
    "percent-encoded, as urllib.parse.quote(password, safe='') does"
)


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """The dotted path of the ledger, and its host as channels_redis writes it (None for memory)."""

    backend: str
    host: Mapping[str, Any] | None = field(repr=False)
    nodes: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """The hosts of a cluster, any of which knows the others; ``host`` is the first."""


def address_of(host: Mapping[str, Any]) -> str:
    """The address of a channels_redis host, to be shown: without user, password and query."""
    if "address" in host:
        url = URL.fullmatch(str(host["address"]))
        if url is None:
            return "redis"
        return f"unix://{url['path']}" if url["socket"] else f"{url['scheme']}://{url['place'] or ''}{url['db'] or ''}"
    if "sentinels" in host:
        return f"sentinel://{host.get('master_name', '')}"
    if "path" in host:
        return f"unix://{host['path']}"
    return f"redis://{host.get('host', 'localhost')}:{host.get('port', 6379)}/{host.get('db', 0)}"


def shares_redis(ledger: LedgerSettings) -> bool:
    """Whether the default channel layer is in a Redis of the ledger, whatever the database."""
    layer = getattr(django_settings, "CHANNEL_LAYERS", {}).get("default", {})
    if ledger.host is None or not str(layer.get("BACKEND", "")).startswith(LAYERS):
        return False
    hosts = layer.get("CONFIG", {}).get("hosts")
    try:
        theirs = {_place(host) for host in decode_hosts(hosts or [DEFAULT_URL])}
    except Exception:  # the layer itself reports hosts that it cannot read
        return False
    return not theirs.isdisjoint(map(_place, (ledger.host, *ledger.nodes)))


def _place(host: Mapping[str, Any]) -> tuple[Any, ...]:
    """The server of a host, without its database and credentials."""
    if "sentinels" in host:
        return "sentinels", host.get("master_name"), frozenset(map(tuple, host["sentinels"]))
    connection = create_pool(dict(host)).make_connection()
    return getattr(connection, "path", None), getattr(connection, "host", None), getattr(connection, "port", None)


SHORTEST_SECRET = 4
"""Characters; a shorter password is no secret, and may stand in any error by chance."""


def passwords_of(host: Mapping[str, Any]) -> frozenset[str]:
    """Every text of a host that must never be shown, as written and percent-decoded.

    Twice as well, as older versions of redis-py do it with the query of a URL.
    """
    found = {_text(value) for name, value in host.items() if "password" in name}
    if "address" in host:
        url = urlsplit(str(host["address"]))
        password = url.password or ""
        # With too short a password, the secret may have been written for the user.
        user = url.username or "" if len(unquote(password)) < SHORTEST_SECRET else ""
        found |= {
            password,
            user,
            *re.findall(r"\w*pass\w*=([^&]*)", url.query),
        }
    if "sentinel_kwargs" in host:
        found |= passwords_of(host["sentinel_kwargs"] or {})
    for _ in range(2):
        found |= set(map(unquote, found))
    return frozenset(found - {""})


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


def _channel_layer_host() -> Mapping[str, Any] | None:
    """The first host of the default channel layer; None unless that is of channels_redis or channels_valkey."""
    layer = getattr(django_settings, "CHANNEL_LAYERS", {}).get("default", {})
    if not str(layer.get("BACKEND", "")).startswith(LAYERS):
        return None
    hosts = layer.get("CONFIG", {}).get("hosts")
    try:
        return _host(hosts[0] if isinstance(hosts, tuple | list) and hosts else DEFAULT_URL)
    except Wrong as wrong:
        raise Wrong(f"set, or the first host of CHANNEL_LAYERS['default'] must be {wrong}") from None


def _host(entry: Any) -> Mapping[str, Any]:
    """A channels_redis host as keyword arguments, tested by constructing a connection without opening it."""
    host: dict[str, Any] = {}
    try:
        host = _in_terms_of_redis(decode_hosts([entry])[0])
        if not _is_readable(host.get("address", DEFAULT_URL)):
            raise Wrong(f"{HOST_FORMS} ({UNREADABLE})")
        connection = create_pool(host).make_connection()
    except Wrong:
        raise
    except Exception as error:
        raise Wrong(f"{HOST_FORMS} ({_blame(error, host)})") from None
    if not 0 < getattr(connection, "port", 6379) < 65536:
        raise Wrong(f"{HOST_FORMS} (a port is a number from 1 to 65535)")
    if wrong := _misplaced(host):
        raise Wrong(f"{HOST_FORMS} ({wrong})")
    return MappingProxyType(host)


def _in_terms_of_redis(host: Mapping[str, Any]) -> dict[str, Any]:
    """The host with the URL of a Valkey as redis-py reads it: ``valkey://`` is ``redis://``, ``valkeys://`` is TLS."""
    address = host.get("address")
    if isinstance(address, str):
        scheme = re.match("valkey(s?)://", address, re.IGNORECASE)
        return {**host, "address": f"redis{'s' * bool(scheme[1])}{address[scheme.end(1) :]}" if scheme else address}
    return dict(host)


def _is_readable(address: Any) -> bool:
    return isinstance(address, str) and address.isprintable() and " " not in address and bool(URL.fullmatch(address))


def _misplaced(host: Mapping[str, Any]) -> str:
    """The problem with a part that is shown and may be a whole URL by mistake, or an empty text."""
    name = host.get("host", "localhost")
    if not isinstance(name, str) or not re.fullmatch(HOST, name):
        return "a host is only a name or an address"
    if any("://" in str(host.get(part, "")) for part in ("path", "master_name")):
        return "a path or the name of a master is not a URL"
    for option in TIMES:
        value = host.get(option)
        if value is not None and not (is_number(value) and value >= 0):
            return f"{option} is a number of seconds"
    return "" if re.fullmatch(r"\d{1,9}", str(host.get("db") or 0)) else "a database is a number"


def _blame(error: Exception, host: Mapping[str, Any]) -> str:
    """The problem with a host. The error's own message is not used: it may quote a URL with its password."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown is None:
        return f"redis-py raises {type(error).__name__} for this value"
    # A name in a URL may be a part of a password.
    return (
        f"redis-py has no option {unknown[1]!r}" if unknown[1] in host else "the URL has an option unknown to redis-py"
    )


def _listed(hosts: Any) -> list[Any]:
    """A list of hosts from one host or a list; a list of a name and a port is one host."""
    if isinstance(hosts, list) and (len(hosts) != 2 or not isinstance(hosts[1], int)):
        return hosts or [DEFAULT_URL]
    return [hosts]


def ledger(value: Any) -> LedgerSettings:
    """The ledger that ``LEDGER`` names, or that of tests in a process that is guarded."""
    found = _ledger(value)
    return LedgerSettings(FOR_TESTS, None) if is_guarded(os.environ) else found


def _ledger(value: Any) -> LedgerSettings:
    if value is None:
        host = _channel_layer_host()
        return LedgerSettings(REDIS, host) if host is not None else LedgerSettings(MEMORY, None)
    if value == "memory":
        return LedgerSettings(MEMORY, None)
    if isinstance(value, dict) and any(part in value for part in PARTS):
        return _ledger_from_dict(value)
    return LedgerSettings(REDIS, _host(_listed(value)[0]))


def _ledger_from_dict(value: Mapping[str, Any]) -> LedgerSettings:
    for key in value:
        if key not in PARTS:
            known = nearest(key, PARTS)
            raise Wrong("a dict of 'BACKEND', 'HOSTS' and 'CLUSTER'", f"{misnamed(key, PARTS)} is unknown.{known}")
    backend = value.get("BACKEND", "redis")
    path = BACKENDS.get(backend, backend) if isinstance(backend, str) else ""
    try:
        is_ledger = hasattr(imported(path), "reconcile")
    except Failed:
        raise
    except Wrong:  # its message quotes what may be a URL
        is_ledger = False
    if not is_ledger:
        raise Wrong("a dict whose 'BACKEND' is 'redis', 'memory' or the dotted path of a ledger")
    if value.get("CLUSTER", False) is not False:
        return _cluster(value, path)
    if path == MEMORY:
        return LedgerSettings(path, None)
    return LedgerSettings(path, _host(_listed(value.get("HOSTS") or DEFAULT_URL)[0]))


def _cluster(value: Mapping[str, Any], path: str) -> LedgerSettings:
    """A cluster, tested by constructing a client without connecting it."""
    if value["CLUSTER"] is not True or path != REDIS:
        raise Wrong("a dict whose 'CLUSTER' is True or False, and True only with the 'BACKEND' 'redis'")
    hosts = tuple(_host(host) for host in _listed(value.get("HOSTS") or DEFAULT_URL))
    try:
        import_string(CLUSTER_CLIENT)(hosts)
    except Exception as error:
        raise Wrong(
            f"hosts of a cluster, without sentinels, sockets and databases other than 0 ({_blame(error, hosts[0])})"
        ) from None
    return LedgerSettings(CLUSTER, hosts[0], hosts)
