"""The transport beneath a server's ``send``, and what may stand in front of it."""

import asyncio
import gc
import sys
from functools import partial
from importlib.util import find_spec
from types import ModuleType

import pytest

from channels_admission.limiter.connections.connection import Connection
from channels_admission.runtime.servers import IMPLEMENTATIONS, Unanswered, abort, implementation

from support.virtual import run


class Transport:
    aborted = 0

    def abort(self):
        self.aborted += 1


class Protocol:
    """As uvicorn's; with ``writer`` as hypercorn's."""

    def __init__(self, name: str = "transport") -> None:
        self.reached = Transport()
        setattr(self, name, self.reached if name == "transport" else type("Writer", (), {"transport": self.reached})())

    async def send(self, message):
        """A server's."""


class Wrapper:
    """As Channels' session has it."""

    def __init__(self, send) -> None:
        self.real_send = send

    async def pass_on(self, message):
        await self.real_send(message)


class H2Protocol(Protocol):
    pass


async def handle_reply(protocol, message):
    """As Daphne's, which is given its protocol by a partial."""


@pytest.mark.parametrize("name", ["transport", "writer"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda protocol: protocol.send,
        lambda protocol: Wrapper(protocol.send).pass_on,
        lambda protocol: Wrapper(Wrapper(protocol.send).pass_on).pass_on,
        lambda protocol: partial(handle_reply, protocol),
        lambda protocol: Connection(None, protocol.send).send,
    ],
    ids=["bare", "wrapped", "twice", "partial", "a slot of another pool"],
)
async def test_it_is_found(wrap, name):
    protocol = Protocol(name)
    assert abort(wrap(protocol))
    assert protocol.reached.aborted == 1


def test_none_is_taken_that_is_shared_or_unknown():
    protocol = H2Protocol()

    async def send(message):
        """Anything's."""

    endless = Wrapper(None)
    endless.real_send = endless.pass_on
    assert [abort(each) for each in (protocol.send, send, None, endless.pass_on)] == [False] * 4
    assert protocol.reached.aborted == 0


async def test_one_that_is_over_is_kept_by_nothing_and_one_that_is_left_is_aborted():
    left, over = Protocol(), Protocol()
    reached = over.reached
    unanswered = Unanswered(0.05)
    for each in (left.send, over.send, Wrapper(left.send).pass_on, lambda message: None, print):
        unanswered.note(each)
    del over, each
    gc.collect()
    await asyncio.sleep(0.1)
    assert (left.reached.aborted, reached.aborted) == (1, 0)


def test_each_close_has_its_time_to_be_answered():
    first, second = Protocol(), Protocol()

    async def main():
        unanswered, seen = Unanswered(3.0), []
        unanswered.note(first.send)
        await asyncio.sleep(2.0)
        unanswered.note(second.send)
        for _ in range(2):
            await asyncio.sleep(1.2)
            seen.append((first.reached.aborted, second.reached.aborted))
        await asyncio.sleep(1.0)
        unanswered.note(second.send)
        await asyncio.sleep(3.2)
        return [*seen, second.reached.aborted]

    assert run(main()) == [(1, 0), (1, 0), 2]


@pytest.mark.parametrize(
    ("loaded", "name"),
    [
        (("wsproto_impl",), "wsproto"), (("websockets_impl",), "websockets"),
        (("websockets_sansio_impl",), "websockets-sansio"), ((), ""), (("wsproto_impl", "websockets_impl"), ""),
    ],
)  # fmt: skip
def test_the_implementation_is_the_one_that_uvicorn_has_loaded(monkeypatch, loaded, name):
    for module in IMPLEMENTATIONS:
        monkeypatch.delitem(sys.modules, module, raising=False)
    for module in loaded:
        monkeypatch.setitem(sys.modules, f"uvicorn.protocols.websockets.{module}", ModuleType(module))
    assert implementation() == name


def test_the_implementations_are_modules_of_uvicorn():
    assert [name for name in IMPLEMENTATIONS if find_spec(name) is None] == []
