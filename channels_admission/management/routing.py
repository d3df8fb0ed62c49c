"""System checks of the ASGI application: its pools, and what they know of the user."""

from collections.abc import Iterator
from typing import Any

from channels.consumer import AsyncConsumer
from django.apps import AppConfig
from django.core import checks

from .. import conf
from ..conf import PoolSettings
from ..consumers import AdmissionMixin
from ..exceptions import ConfigurationError
from .routes import Route, User, application, name_of, pool_of, routes

MIXIN_ON_THE_RIGHT = "channels_admission.E020"
POOL_UNKNOWN = "channels_admission.E044"
USER_UNKNOWN = "channels_admission.W020"
SLOT_FOR_EACH_STREAM = "channels_admission.W021"
POOL_WITHOUT_SLOTS = "channels_admission.W022"
MOST_NAMED = 3
"""Consumers that a message names."""


def check_mixin_order(app_configs: list[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Report consumers whose ``__call__`` hides the mixin's, so that they are not limited."""
    application()  # imports the consumers
    return [
        checks.Error(
            f"{name_of(consumer)} is not limited: AdmissionMixin comes after the consumer class.",
            hint=f"Write class {consumer.__name__}(AdmissionMixin, …Consumer), with the mixin first.",
            id=MIXIN_ON_THE_RIGHT,
        )
        for consumer in _consumers()
        if consumer.__mro__.index(AsyncConsumer) < consumer.__mro__.index(AdmissionMixin)
    ]


def check_pools(app_configs: list[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Report middleware and consumers of pools that do not exist."""
    settings, _problems = conf.examine()
    if settings is None:
        return []
    _, wrong = application()
    found = [wrong] if wrong else []
    consumers = [each for route in routes() for each in (route.consumer, *route.streams)]
    for consumer in dict.fromkeys(consumers):
        if consumer is not None and (pool := pool_of(consumer)) is not None:
            try:
                settings.pool_for(name_of(consumer), pool)
            except ConfigurationError as error:
                found.append(str(error))
    hint = "The server does not start, or ends each connection to that route with HTTP 500."
    return [checks.Error(message, hint=hint, id=POOL_UNKNOWN) for message in dict.fromkeys(found)]


def _consumers() -> list[type[AdmissionMixin]]:
    """The consumers with the mixin, as far as their modules are imported."""
    return [each for each in dict.fromkeys(_subclasses(AdmissionMixin)) if AsyncConsumer in each.__mro__]


def _subclasses(cls: type[AdmissionMixin]) -> Iterator[type[AdmissionMixin]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def check_users(app_configs: list[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Warn of pools whose settings concern users, on routes that count connections before the user is known."""
    settings, _problems = conf.examine()
    if settings is None or not settings.enabled:
        return []
    found = routes()
    messages = (_unknown_user(pool, found) for pool in settings.pools.values())
    return [message for message in messages if message is not None]


def _unknown_user(pool: PoolSettings, found: list[Route]) -> checks.CheckMessage | None:
    effects: dict[str, None] = {}
    blind: dict[str, User] = {}
    for route in found:
        if pool.name in route.pools and (wrong := list(_effects(pool, route))):
            effects |= dict.fromkeys(wrong)
            blind.setdefault(route.name, route.user(pool.name))
    if not blind:
        return None
    is_later = User.LATER in blind.values()
    names = ", ".join(list(blind)[:MOST_NAMED]) + (
        f" and {len(blind) - MOST_NAMED} more" if len(blind) > MOST_NAMED else ""
    )
    cause = (
        "AdmissionMiddleware stands only outside the auth stack, and the consumer has no AdmissionMixin"
        if is_later
        else "nothing around the consumer authenticates"
    )
    hint = (
        "Put a second one inside, which takes no second slot: AdmissionMiddleware(AuthMiddlewareStack("
        "AdmissionMiddleware(URLRouter(…))))."
        if is_later
        else "Put AuthMiddlewareStack around AdmissionMiddleware, or give the consumer the AdmissionMixin and call "
        "self.admission_authenticated() once it knows the client."
    )
    return checks.Warning(
        f"The pool {pool.name!r} does not know the user of {names}: {cause}. {'. '.join(effects)}.",
        hint=hint,
        id=USER_UNKNOWN,
    )


def _effects(pool: PoolSettings, route: Route) -> Iterator[str]:
    """The settings of ``pool`` that go wrong on ``route``, each with what happens."""
    user = route.user(pool.name)
    if user not in (User.LATER, User.NEVER):
        return
    if any(quota.key == "user" for quota in pool.quotas):
        yield "The quota of 'user' applies to no connection"
    if pool.classify is not None and user is User.LATER:
        yield "CLASSIFY sees no user"
    if pool_of(route.consumer) is not None:  # it may call admission_authenticated()
        return
    if pool.pending_deadline is not None:
        yield f"PENDING_DEADLINE closes every connection after {pool.pending_deadline:g} s"
    if pool.pending_share is not None:
        yield "Every connection counts in PENDING_SHARE"


def check_streams(app_configs: list[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Warn of demultiplexers whose consumers take a slot each for one connection."""
    return [
        checks.Warning(
            f"The {count} consumers with AdmissionMixin behind the demultiplexer {name} take a slot of the pool "
            f"{pool!r} each, {count} for one connection.",
            hint="Put AdmissionMiddleware, or the mixin, on the demultiplexer: its consumers then use the same slot.",
            id=SLOT_FOR_EACH_STREAM,
        )
        for (name, pool), count in _streams().items()
    ]


def _streams() -> dict[tuple[str, str], int]:
    """Demultiplexers, each with a pool and the number of its consumers that take a slot of their own there."""
    return {
        (route.name, pool): count
        for route in routes()
        for pool in dict.fromkeys(map(pool_of, route.streams))
        if pool is not None
        and pool not in route.pools
        and (count := sum(pool_of(each) == pool for each in route.streams)) > 1
    }


def check_limits(app_configs: list[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Warn of pools without a slot, unless no route uses them."""
    settings, _problems = conf.examine()
    empty = [pool.name for pool in settings.pools.values() if not pool.max_connections] if settings else []
    if not empty:
        return []
    found = routes()
    used = {pool for route in found for pool in (*route.pools, *map(pool_of, route.streams))}
    return [
        checks.Warning(
            f"The pool {pool!r} refuses every connection: its MAX_CONNECTIONS is 0.",
            hint="Set MAX_CONNECTIONS to what the workers can hold. "
            f"To refuse for a while, use manage.py ws_pause {pool}.",
            id=POOL_WITHOUT_SLOTS,
        )
        for pool in empty
        if pool in used or not found
    ]


CHECKS = (check_mixin_order, check_pools, check_users, check_streams, check_limits)
