"""An application whose consumers join a group, and send to it what begins with ``all``."""

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
pages = get_asgi_application()

# Consumers may need models, and so Django set up.
from channels_admission.lifespan import AdmissionLifespan  # noqa: E402
from channels_admission.middleware import AdmissionMiddleware  # noqa: E402

from demo.consumers import EchoConsumer  # noqa: E402

ROOM = "room"


class RoomConsumer(EchoConsumer):
    groups = [ROOM]

    async def receive(self, text_data=None, bytes_data=None):
        if text_data.startswith("all"):
            await self.channel_layer.group_send(ROOM, {"type": "say", "text": text_data})
        else:
            await super().receive(text_data, bytes_data)

    async def say(self, event):
        await self.send(event["text"])


application = ProtocolTypeRouter(
    {
        "http": pages,
        "lifespan": AdmissionLifespan(),
        "websocket": AdmissionMiddleware(URLRouter([path("ws/echo/", RoomConsumer.as_asgi())])),
    }
)
