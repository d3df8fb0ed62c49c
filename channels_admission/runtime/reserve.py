"""A few file descriptors that a process keeps for the package's own needs, for when clients have taken all others.

Redis must be reached, monitors read and neighbours looked at even then. A call that meets the limit uses the reserve,
which is filled again as soon as there is room.
"""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

SIZE = 8
"""Descriptors kept: connections to Redis, the look-up of its name, and a file in each of a few threads."""
FOR_REDIS = 6
"""Those of them that are lent to nothing else: a worker that cannot reach its ledger loses its place in the count."""
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE})

ACCEPT_FAILED = "socket.accept() out of system resource"
"""How asyncio's log begins to tell of each such accept."""
TOLD_EVERY = 1.0
"""Seconds from one line of that to the next."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def is_exhausted(error: BaseException | None) -> bool:
    """Whether ``error``, or what it comes from, says that no file can be opened any more."""
    return any(isinstance(each, OSError) and each.errno in EXHAUSTED for each in _origins(error))


def _origins(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


class AcceptFailures(logging.Filter):
    """Let through one line in :data:`TOLD_EVERY` seconds of accepts that failed for want of a descriptor.

    asyncio repeats such an accept up to its backlog, 2,048 times under uvicorn, and writes a traceback for each: the
    event loop would stand for seconds, and the worker's lease run out.
    """

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if not str(record.msg).startswith(ACCEPT_FAILED):
            return True
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + TOLD_EVERY
        return True


accept_failures = AcceptFailures()


class Reserve:
    """The descriptors of one process, kept while anybody has :meth:`open` ed it. Threads may share it."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._kept: list[int] = []
        self._users = 0

    def __len__(self) -> int:
        return len(self._kept)

    def open(self) -> None:
        """Keep descriptors from now on, as far as there are any."""
        with self._lock:
            self._users += 1
            logging.getLogger("asyncio").addFilter(accept_failures)
            self.fill()

    def close(self) -> None:
        """One user less; the last one lets go of them."""
        with self._lock:
            self._users -= 1
            if not self._users:
                logging.getLogger("asyncio").removeFilter(accept_failures)
                self.let_go()

    def fill(self) -> None:
        """Take back what was let go, as far as there is room. Never fails."""
        if len(self._kept) == SIZE or not self._users:
            return
        with self._lock:
            try:
                while len(self._kept) < SIZE:
                    self._kept.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                pass

    def let_go(self, most: int = SIZE) -> None:
        """Free so many of them for what is about to be opened, until :meth:`fill`."""
        with self._lock:
            for _ in range(min(most, len(self._kept))):
                os.close(self._kept.pop())

    def forget(self) -> None:
        """Begin anew in a forked child, which has none of its parent's event loops and threads."""
        kept = self._kept
        self._begin()
        for descriptor in kept:
            os.close(descriptor)

    def lend(self, call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """The result of ``call``, made again with the reserve where no file could be opened. It must not block.

        The reserve is freed one by one, down to :data:`FOR_REDIS`: a server that accepts in another thread may take
        what is free meanwhile, and asyncio's tries 2,048 times in a row where no descriptor is left.
        """
        try:
            return call(*args, **kwargs)
        except OSError as error:
            if not is_exhausted(error):
                raise
            exhausted = error
        with self._lock:
            try:
                while len(self._kept) > FOR_REDIS:
                    self.let_go(1)
                    try:
                        return call(*args, **kwargs)
                    except OSError as error:
                        if not is_exhausted(error):
                            raise
                        exhausted = error
                raise exhausted
            finally:
                self.fill()


reserve = Reserve()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=reserve.forget)
