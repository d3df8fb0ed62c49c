"""System checks of the channel layer: mistakes that only show under load, or when its Redis is away."""

from importlib.metadata import version
from typing import Any

from django.apps import AppConfig
from django.conf import settings as django_settings
from django.core import checks

from .. import conf
from ..conf.ledger import CORE_LAYER, shares_redis

LAYER_WITHOUT_TIMEOUT = "channels_admission.W002"
LAYER_IN_MEMORY = "channels_admission.W008"
LAYER_ENDS_CONSUMERS = "channels_admission.W011"


def in_production() -> conf.Settings | None:
    """The settings of a site in production; None if they have problems, or limit nothing."""
    settings, _problems = conf.examine()
    return settings if settings and settings.enabled and not django_settings.DEBUG else None


def check_layer_in_memory(app_configs: list[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Warn of a site in production with several workers and a channel layer in memory."""
    settings, _problems = conf.examine()
    if settings is None or django_settings.DEBUG or all(p.expected_workers == 1 for p in settings.pools.values()):
        return []
    return [
        checks.Warning(
            f"CHANNEL_LAYERS[{alias!r}] is in memory, but more than one worker is expected: a message to a group "
            "reaches only connections of the same worker.",
            hint="Use channels_redis.core.RedisChannelLayer or channels_redis.pubsub.RedisPubSubChannelLayer.",
            id=LAYER_IN_MEMORY,
        )
        for alias, layer in getattr(django_settings, "CHANNEL_LAYERS", {}).items()
        if layer.get("BACKEND") == "channels.layers.InMemoryChannelLayer"
    ]


def check_channel_layer(app_configs: list[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Warn of a channel layer whose socket timeout is as short as its waits (django/channels_redis#422)."""
    layer = getattr(django_settings, "CHANNEL_LAYERS", {}).get("default", {})
    if layer.get("BACKEND") != CORE_LAYER or int(version("redis").split(".")[0]) < 8:
        return []
    hosts = layer.get("CONFIG", {}).get("hosts") or [None]
    if all(map(_has_own_timeout, hosts)):
        return []
    return [
        checks.Warning(
            "channels_redis waits five seconds for a message, and redis-py 8 stops reading after five: every consumer "
            "that is idle for five seconds is disconnected.",
            hint="Write the hosts of CHANNEL_LAYERS as {'address': 'redis://…', 'socket_timeout': None}, "
            "or use channels_redis.pubsub.RedisPubSubChannelLayer, or redis<8.",
            id=LAYER_WITHOUT_TIMEOUT,
        )
    ]


def _has_own_timeout(host: Any) -> bool:
    if isinstance(host, dict):
        return "socket_timeout" in host or _has_own_timeout(host.get("address"))
    return "socket_timeout=" in str(host)


def check_shared_redis(app_configs: list[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Warn of a site in production whose consumers end with the connection to the ledger's Redis."""
    settings = in_production()
    layer = getattr(django_settings, "CHANNEL_LAYERS", {}).get("default", {})
    if settings is None or layer.get("BACKEND") != CORE_LAYER or not shares_redis(settings.ledger):
        return []
    return [
        checks.Warning(
            "The channel layer is in the ledger's Redis: while that is away admission goes on, but the layer ends "
            "every open connection.",
            hint="Use channels_redis.pubsub.RedisPubSubChannelLayer, as docs/operations.md says under The channel "
            f"layer, or give the layer a Redis of its own. To accept it, add {LAYER_ENDS_CONSUMERS!r} to "
            "SILENCED_SYSTEM_CHECKS.",
            id=LAYER_ENDS_CONSUMERS,
        )
    ]
