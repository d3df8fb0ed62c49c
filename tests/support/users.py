"""Users that enter a limiter, or open connections through the middleware and the mixin."""

import asyncio
from types import SimpleNamespace

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.testing import WebsocketCommunicator

from channels_admission.consumers import AdmissionMixin
from channels_admission.core.protocol import Refusal
from channels_admission.limiter.limiter import Slot
from channels_admission.limiter.registry import close_limiters
from channels_admission.middleware import AdmissionMiddleware

KIM, LEE, NOBODY = (SimpleNamespace(pk=pk, is_authenticated=pk is not None) for pk in (1, 2, None))


def rank(scope):
    return scope.get("rank")


async def enter(limiter, **scope) -> Slot | Refusal:
    return await limiter.acquire(limiter.rules.ask({"type": "websocket", **scope}))


async def enter_all(limiter, *scopes) -> list[Slot | Refusal]:
    return list(await asyncio.gather(*(enter(limiter, **scope) for scope in scopes)))


def why(verdicts) -> list[str]:
    return [verdict.reason if isinstance(verdict, Refusal) else "" for verdict in verdicts]


class Echo(AdmissionMixin, AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        if text_data == "it is me":
            self.admission_authenticated()
        await self.send(text_data)


def with_user(user, inner):
    async def authenticate(scope, receive, send):
        await inner({**scope, "user": user}, receive, send)

    return authenticate


class Client:
    def __init__(self, application):
        self.socket = WebsocketCommunicator(application, "/")

    async def opens(self) -> bool:
        """Whether it is admitted, and not closed with 1013 at once."""
        accepted, _ = await self.socket.connect(5)
        assert accepted
        return await self.is_open()

    async def is_open(self) -> bool:
        """Whether it gets an echo, and not a close with 1013."""
        await self.socket.send_to(text_data="are you there?")
        answer = await self.socket.receive_output(5)
        assert answer["type"] == "websocket.send" or answer["code"] == 1013
        return answer["type"] == "websocket.send"


def site(user, inner=None):
    return AdmissionMiddleware(with_user(user, inner or Echo.as_asgi()))


async def open_all(*users, inner=None) -> list[Client]:
    """Those who are admitted."""
    clients = [Client(site(user, inner)) for user in users]
    return [client for client in clients if await client.opens()]


async def leave(clients) -> None:
    for client in clients:
        await client.socket.disconnect()
    await close_limiters()


class AsyncWebsocketAccept:
    async def __call__(self, scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.send", "text": "yes"})
