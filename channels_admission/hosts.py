"""Where the ledger is, read from ``LEDGER`` or from the hosts of the channel layer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from channels_redis.utils import create_pool, decode_hosts
from django.conf import settings as django_settings
from django.utils.module_loading import import_string

from .values import Wrong, nearest

MEMORY = "channels_admission.ledger.memory.MemoryLedger"
REDIS = "channels_admission.ledger.redis.RedisLedger"
CLUSTER = "channels_admission.ledger.redis.RedisClusterLedger"
CLUSTER_CLIENT = "channels_admission.ledger.redis.cluster_client"
DEFAULT_URL = "redis://localhost:6379"
BACKENDS = {"memory": MEMORY, "redis": REDIS}
PARTS = ("BACKEND", "HOSTS", "CLUSTER")
HOST_FORMS = "a Redis URL, a (host, port) pair or a dict as channels_redis takes them in 'hosts'"


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """Which ledger, by dotted path, and where, in the words of channels_redis (None for memory)."""

    backend: str
    host: Mapping[str, Any] | None
    nodes: tuple[Mapping[str, Any], ...] = ()
    """Where it is a cluster: hosts of which any knows the others. ``host`` is the first of them."""


def address_of(host: Mapping[str, Any]) -> str:
    """Where a channels_redis host entry points, for people: no user, password or query."""
    if "address" in host:
        url = urlsplit(str(host["address"]))
        place = url.hostname or ""
        place = f"[{place}]" if ":" in place else place
        port = f":{url.port}" if url.port else ""
        return f"{url.scheme}://{place}{port}{url.path}"
    if "sentinels" in host:
        return f"sentinel://{host.get('master_name', '')}"
    if "path" in host:
        return f"unix://{host['path']}"
    return f"redis://{host.get('host', 'localhost')}:{host.get('port', 6379)}/{host.get('db', 0)}"


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
            raise Wrong(f"a dict of 'BACKEND', 'HOSTS' and 'CLUSTER'; {key!r} is none of them.{nearest(key, PARTS)}")
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
        raise Wrong(f"hosts of a cluster: no sentinels, no socket, no database but 0 ({_blame(error)})") from None
    return LedgerSettings(CLUSTER, hosts[0], hosts)
