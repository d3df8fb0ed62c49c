"""What a site writes that checks its types strictly. Nothing here runs: mypy and pyright read it.

An ``assert_type`` says what they must find, so that a type that is lost is an error here.
"""

from typing import Any, assert_type

from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
)
from channels.routing import ProtocolTypeRouter
from channels.testing import WebsocketCommunicator

from channels_admission.consumers import AdmissionMixin, Slot, slots
from channels_admission.lifespan import AdmissionLifespan
from channels_admission.middleware import AdmissionMiddleware
from channels_admission.testing import Refused, fill, override_admission, refused, returning


class Chat(AdmissionMixin, AsyncWebsocketConsumer):
    admission_pool = "chat"

    async def connect(self) -> None:
        assert_type(self.admission_pool, str)
        slot = slots(self.scope).get("chat")
        assert_type(slot, Slot | None)
        if slot is not None:
            assert_type(slot.pool, str | None)
            assert_type(slot.is_authenticated, bool)
            slot.authenticated()
            slot.release()
        await self.accept()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        self.admission_authenticated()
        await self.send(text_data=text_data)


class Rooms(AdmissionMixin, AsyncJsonWebsocketConsumer):
    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.send_json(sorted(slots(self.scope)))


class Board(AdmissionMixin, WebsocketConsumer):
    def connect(self) -> None:
        self.admission_authenticated()
        self.accept()


class Notes(AdmissionMixin, JsonWebsocketConsumer):
    def receive_json(self, content: Any, **kwargs: Any) -> None:
        self.send_json(len(slots(self.scope)))


class Events(AdmissionMixin, AsyncHttpConsumer):
    async def handle(self, body: bytes) -> None:
        await self.send_response(200, b"")


async def outside(scope: dict[str, Any], receive: object, send: object) -> None:
    for name, slot in slots(scope).items():
        assert_type(name, str)
        assert_type(slot, Slot)


application = ProtocolTypeRouter(
    {
        "websocket": AdmissionMiddleware(Chat.as_asgi(), pool="default"),
        "lifespan": AdmissionLifespan(),
    }
)


@override_admission(MAX_CONNECTIONS=10)
async def test_a_full_pool() -> None:
    async with fill("chat", free=1) as held:
        assert_type(held, int)
        refusal = await refused(WebsocketCommunicator(Chat.as_asgi(), "/"))
    assert_type(refusal, Refused)
    assert_type(refusal.retry_after, float)
    WebsocketCommunicator(Chat.as_asgi(), "/", headers=returning(refusal.ticket))


def test_in_a_function() -> None:
    with override_admission(MAX_CONNECTIONS=10), fill() as held:
        assert_type(held, int)
