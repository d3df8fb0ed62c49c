"""The WebSocket routes of a site: the layers from the ASGI application to each consumer."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from importlib import import_module
from itertools import islice
from typing import Any

from channels.auth import AuthMiddleware
from channels.consumer import AsyncConsumer
from channels.routing import ProtocolTypeRouter, URLRouter, get_default_application
from channels.security.websocket import OriginValidator
from channels.sessions import CookieMiddleware, SessionMiddleware
from django.conf import settings as django_settings

from ..consumers import AdmissionMixin
from ..exceptions import ConfigurationError
from ..middleware import Admission, AdmissionMiddleware, ReadableOrigin
from ..readiness import AdmissionReadiness

MOST_LAYERS = 40
MOST_ROUTES = 2_000
"""Routes beyond are not seen."""
FINDS_NO_USER = frozenset(
    {
        AdmissionMiddleware, AdmissionReadiness, CookieMiddleware, OriginValidator,
        ProtocolTypeRouter, ReadableOrigin, SessionMiddleware, URLRouter,
    }
)  # fmt: skip
"""Layers that add no user to the scope."""


class User(Enum):
    """Whether the layers of a route find the user before the innermost of them that counts in a pool."""

    KNOWN = auto()
    LATER = auto()
    """A layer further in finds the user."""
    NEVER = auto()
    UNCLEAR = auto()


@dataclass(frozen=True, slots=True)
class Route:
    """A way to a consumer: the layers above it, the outermost first. The consumer is None if it cannot be seen."""

    layers: tuple[Any, ...]
    consumer: type[AsyncConsumer] | None
    streams: tuple[type[AsyncConsumer], ...] = ()
    """The consumers that a demultiplexer runs for one connection."""

    @property
    def name(self) -> str:
        return "" if self.consumer is None else name_of(self.consumer)

    @property
    def pools(self) -> list[str]:
        """The pools of which a connection holds a slot before the consumer runs."""
        found = map(pool_of, (*self.layers, self.consumer))
        return [pool for pool in dict.fromkeys(found) if pool is not None]

    def user(self, pool: str) -> User:
        outer, inner = self.layers, ()
        if pool_of(self.consumer) != pool:
            last = max(at for at, layer in enumerate(self.layers) if pool_of(layer) == pool)
            outer, inner = self.layers[:last], self.layers[last + 1 :]
        if self.consumer is None or any(map(finds_user, outer)):
            return User.UNCLEAR if self.consumer is None else User.KNOWN
        if any(map(finds_user, inner)):
            return User.LATER
        return User.NEVER if all(type(layer) in FINDS_NO_USER for layer in outer) else User.UNCLEAR


def finds_user(layer: Any) -> bool:
    """Whether a layer authenticates, by its class or the name of its class."""
    return isinstance(layer, AuthMiddleware) or "auth" in type(layer).__name__.lower()


def name_of(consumer: type) -> str:
    return f"{consumer.__module__}.{consumer.__qualname__}"


def pool_of(layer: Any) -> str | None:
    """The pool in which a middleware or a consumer with the mixin counts."""
    if isinstance(layer, type):
        return layer.admission_pool if issubclass(layer, AdmissionMixin) else None
    return layer.pool if isinstance(layer, Admission) else None


def application() -> tuple[Any, str]:
    """The ASGI application, or None with what the package finds wrong in its import.

    Without ASGI_APPLICATION it is ``application`` of the module ``asgi`` beside the URLconf, where there is one. Other
    errors of the import are for the server to report.
    """
    try:
        if getattr(django_settings, "ASGI_APPLICATION", None):
            return get_default_application(), ""
        package = str(getattr(django_settings, "ROOT_URLCONF", "")).rpartition(".")[0]
        return (import_module(f"{package}.asgi").application if package else None), ""
    except ConfigurationError as error:
        return None, str(error)
    except Exception:
        return None, ""


def routes() -> list[Route]:
    """The routes of the ASGI application."""
    found, _ = application()
    if found is None:
        return []
    with suppress(Exception):  # any object may stand in an application
        return list(islice(_routes(found, ()), MOST_ROUTES))
    return []


def _routes(layer: Any, above: tuple[Any, ...]) -> Iterator[Route]:
    consumer = getattr(layer, "consumer_class", layer)
    if isinstance(consumer, type):
        is_consumer = issubclass(consumer, AsyncConsumer)
        yield Route(above, consumer if is_consumer else None, tuple(_streams(layer, consumer)))
    elif len(above) < MOST_LAYERS and (within := list(_within(layer))):
        for each in within:
            yield from _routes(each, (*above, layer))
    elif type(layer) not in FINDS_NO_USER:
        yield Route((*above, layer), None)


def _within(layer: Any) -> Iterable[Any]:
    """What a layer calls with a WebSocket, as far as its attributes tell."""
    mapping = getattr(layer, "application_mapping", None)
    if isinstance(mapping, Mapping):
        return [mapping["websocket"]] if "websocket" in mapping else []
    listed = getattr(layer, "routes", None)
    if isinstance(listed, list | tuple):
        called = (getattr(each, "callback", None) or getattr(each, "app", None) for each in listed)
        return [each for each in called if callable(each)]
    inner = (getattr(layer, name, None) for name in ("inner", "application", "app"))
    return [each for each in inner if callable(each)][:1]


def _streams(layer: Any, consumer: type) -> Iterator[type[AsyncConsumer]]:
    """The consumers to which the demultiplexers of channelsmultiplexer and channels-demultiplexer pass messages."""
    named = (getattr(consumer, "applications", {}), getattr(consumer, "consumer_classes", {}))
    for children in (*named, getattr(layer, "consumer_initkwargs", {})):
        for child in children.values() if isinstance(children, Mapping) else ():
            found = getattr(child, "consumer_class", child)
            if isinstance(found, type) and issubclass(found, AsyncConsumer):
                yield found
