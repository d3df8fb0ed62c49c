"""WebSocket paths behind the middleware, and paths whose consumers use the mixin.

``ws/user/`` has both, so that a quota of its user is added to the middleware's slot.
"""

from django.urls import path

from channels_admission import conf

from .consumers import (
    HERD,
    EchoConsumer,
    HeavyConsumer,
    HeavyDatabaseConsumer,
    HeavySyncConsumer,
    HerdConsumer,
    MixinConsumer,
    SyncConsumer,
    TroubleConsumer,
    WatchConsumer,
)
from .load import HoardConsumer, LoadConsumer

behind_middleware = [
    path("ws/echo/", EchoConsumer.as_asgi()),
    path("ws/echo/<int:visitor>/", EchoConsumer.as_asgi()),
    path("ws/sync/", SyncConsumer.as_asgi()),
    path("ws/user/", MixinConsumer.as_asgi()),
    path("ws/heavy/", HeavyConsumer.as_asgi()),
    path("ws/heavy-sync/", HeavySyncConsumer.as_asgi()),
    path("ws/heavy-database/", HeavyDatabaseConsumer.as_asgi()),
    path("ws/watch/", WatchConsumer.as_asgi()),
    path("ws/trouble/", TroubleConsumer.as_asgi()),
    path("ws/load/", LoadConsumer.as_asgi()),
    path("ws/hoard/", HoardConsumer.as_asgi()),
]
with_mixin = [
    path("ws/mixin/", MixinConsumer.as_asgi()),
    # Without its pool the site would not start.
    *(
        path(f"ws/herd/{visitor}", HerdConsumer.as_asgi())
        for visitor in ("", "<int:visitor>/")
        if HERD in conf.current().pools
    ),
]
