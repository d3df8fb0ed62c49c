"""Look-ups of host names in threads of this package: one at a time for each name, however many wait for it.

asyncio looks names up in the event loop's default executor. While no name server answers, each look-up takes one of its
threads for many seconds, and the application's own work waits.
"""

import asyncio
import ipaddress
import os
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import cache
from typing import Any

from redis.asyncio.connection import Connection

Place = tuple[str, int]
"""A host's name and its port."""


class LookUps:
    """The look-ups of one process. Thread-safe."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Place, Future[Sequence[str]]] = {}

    async def addresses(self, name: str, port: int) -> Sequence[str]:
        """The addresses of ``name``, or :exc:`OSError`. Cancelling it ends no look-up, which the next one joins."""
        if _is_address(name):
            return (name,)
        return await asyncio.wrap_future(self._joined((name, port)))

    def _joined(self, place: Place) -> Future[Sequence[str]]:
        with self._lock:
            if place not in self._running:
                future = self._running[place] = Future[Sequence[str]]()
                future.set_running_or_notify_cancel()
                name = f"admission look-up of {place[0]}"
                try:
                    # A daemon: the process may end while no name server answers.
                    threading.Thread(target=self._look_up, args=(place, future), name=name, daemon=True).start()
                except RuntimeError as error:
                    del self._running[place]
                    raise OSError("no thread for the look-up of a name") from error
            return self._running[place]

    def _look_up(self, place: Place, future: Future[Sequence[str]]) -> None:
        try:
            found = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)
            addresses = tuple(dict.fromkeys(str(address[0]) for *_, address in found))
        except Exception as error:
            self._end(place)
            future.set_exception(error)
        else:
            self._end(place)
            future.set_result(addresses)

    def _end(self, place: Place) -> None:
        with self._lock:
            self._running.pop(place, None)

    def forget(self) -> None:
        """Drop all look-ups in a forked child, which has no threads of its parent."""
        self._begin()


look_ups = LookUps()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=look_ups.forget)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class ByName(Connection):
    """A connection whose host is looked up by :data:`look_ups`. Its certificate must be for the host's name."""

    _address: str | None = None

    async def _connect(self) -> None:
        failed = OSError("the name has no address")
        for address in await look_ups.addresses(self.host, self.port):
            self._address = address
            try:
                await super()._connect()  # type: ignore[no-untyped-call]
            except OSError as error:
                failed = error
            else:
                return
        raise failed

    def _connection_arguments(self) -> dict[str, Any]:
        arguments = dict(super()._connection_arguments())
        if self._address is not None:
            arguments["host"] = self._address
            if arguments.get("ssl"):
                arguments["server_hostname"] = self.host
        return arguments


@cache
def by_name(kind: type[Any]) -> type[Any]:
    """The class ``kind`` of connections with :class:`ByName`; one for Unix sockets stays as it is."""
    if not issubclass(kind, Connection) or issubclass(kind, ByName):
        return kind
    return type(kind.__name__, (ByName, kind), {})
