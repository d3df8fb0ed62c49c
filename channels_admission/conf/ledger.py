"""Where the ledger is, read from ``LEDGER`` or from the hosts of the channel layer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

from channels_redis.utils import create_pool, decode_hosts
from django.conf import settings as django_settings
from django.utils.module_loading import import_string

from .validators import Wrong, misnamed, nearest

MEMORY = "channels_admission.ledger.memory.MemoryLedger"
REDIS = "channels_admission.ledger.redis.RedisLedger"
CLUSTER = "channels_admission.ledger.redis.RedisClusterLedger"
CLUSTER_CLIENT = "channels_admission.ledger.redis.cluster_client"
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
"""The URLs that redis-py reads as a person does.

It takes ``redis://:42/secret@host`` for port 42 of this machine, drops what it does not understand, and says nothing.
"""
UNREADABLE = (
    "a URL is redis://user:password@host:port/database with every special character of user and password "
    "percent-encoded, as urllib.parse.quote(password, safe='') does"
)


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """Which ledger, by dotted path, and where, in the words of channels_redis (None for memory)."""

    backend: str
    host: Mapping[str, Any] | None = field(repr=False)
    nodes: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """Where it is a cluster: hosts of which any knows the others. ``host`` is the first of them."""


def address_of(host: Mapping[str, Any]) -> str:
    """Where a channels_redis host entry points, for people: no user, password or query."""
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


def passwords_of(host: Mapping[str, Any]) -> frozenset[str]:
    """Every text of a host entry that may be shown to nobody, as it is written and as it is meant."""
    found = {_text(value) for name, value in host.items() if "password" in name}
    if "address" in host:
        url = urlsplit(str(host["address"]))
        found |= {
            url.password or url.username or "",
            *re.findall(r"\w*pass\w*=([^&]*)", url.query),
        }
    if "sentinel_kwargs" in host:
        found |= passwords_of(host["sentinel_kwargs"] or {})
    return frozenset(found | set(map(unquote, found)) - {""})


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


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
    host: dict[str, Any] = {}
    try:
        host = decode_hosts([entry])[0]
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


def _is_readable(address: Any) -> bool:
    return isinstance(address, str) and address.isprintable() and " " not in address and bool(URL.fullmatch(address))


def _misplaced(host: Mapping[str, Any]) -> str:
    """What is wrong with parts that are shown, and may be a whole URL by mistake; an empty text where nothing is."""
    name = host.get("host", "localhost")
    if not isinstance(name, str) or not re.fullmatch(HOST, name):
        return "a host is a name or an address alone"
    if any("://" in str(host.get(part, "")) for part in ("path", "master_name")):
        return "a path or the name of a master is no URL"
    return "" if re.fullmatch(r"\d{1,9}", str(host.get("db") or 0)) else "a database is a number"


def _blame(error: Exception, host: Mapping[str, Any]) -> str:
    """What is wrong with a host, not in the error's own words: they may quote a URL, and so a password."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown is None:
        return f"{type(error).__name__} for what is there"
    # A name in a URL may be a part of a password.
    return f"redis-py has no option {unknown[1]!r}" if unknown[1] in host else "redis-py has not all options of the URL"


def _listed(hosts: Any) -> list[Any]:
    """The hosts where one, or a list of them, is given; a list of a name and a port is one host."""
    if isinstance(hosts, list) and (len(hosts) != 2 or not isinstance(hosts[1], int)):
        return hosts or [DEFAULT_URL]
    return [hosts]


def ledger(value: Any) -> LedgerSettings:
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
            raise Wrong(f"a dict of 'BACKEND', 'HOSTS' and 'CLUSTER'; {misnamed(key, PARTS)} is none of them.{known}")
    backend = value.get("BACKEND", "redis")
    path = BACKENDS.get(backend, backend) if isinstance(backend, str) else ""
    try:
        ledger = import_string(path)
    except (ImportError, TypeError, ValueError):
        ledger = None
    if not hasattr(ledger, "reconcile"):
        raise Wrong("a dict whose 'BACKEND' is 'redis', 'memory' or the dotted path of a ledger")
    if value.get("CLUSTER", False) is not False:
        return _cluster(value, path)
    if path == MEMORY:
        return LedgerSettings(path, None)
    return LedgerSettings(path, _host(_listed(value.get("HOSTS") or DEFAULT_URL)[0]))


def _cluster(value: Mapping[str, Any], path: str) -> LedgerSettings:
    """A cluster, tried by making a client of it, which connects to nothing."""
    if value["CLUSTER"] is not True or path != REDIS:
        raise Wrong("a dict whose 'CLUSTER' is True or False, and True only where 'BACKEND' is 'redis'")
    hosts = tuple(_host(host) for host in _listed(value.get("HOSTS") or DEFAULT_URL))
    try:
        import_string(CLUSTER_CLIENT)(hosts)
    except Exception as error:
        raise Wrong(
            f"hosts of a cluster: no sentinels, no socket, no database but 0 ({_blame(error, hosts[0])})"
        ) from None
    return LedgerSettings(CLUSTER, hosts[0], hosts)
