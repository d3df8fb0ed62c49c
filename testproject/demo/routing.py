"""WebSocket paths: those that go through the middleware, and those whose consumers ask for a slot themselves.

``ws/user/`` does both, so that a quota of its user is added to the slot that the middleware took.
"""

from django.urls import path

from .consumers import EchoConsumer, HerdConsumer, MixinConsumer, SyncConsumer, TroubleConsumer
from .strain import HoardConsumer, StrainConsumer

behind_middleware = [
    path("ws/echo/", EchoConsumer.as_asgi()),
    path("ws/sync/", SyncConsumer.as_asgi()),
    path("ws/user/", MixinConsumer.as_asgi()),
    path("ws/trouble/", TroubleConsumer.as_asgi()),
    path("ws/strain/", StrainConsumer.as_asgi()),
    path("ws/hoard/", HoardConsumer.as_asgi()),
]
with_mixin = [
    path("ws/mixin/", MixinConsumer.as_asgi()),
    path("ws/herd/", HerdConsumer.as_asgi()),
]
