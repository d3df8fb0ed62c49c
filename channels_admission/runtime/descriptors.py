"""Spare file descriptors, for use when clients have taken all others.

With them the package can still reach Redis, read monitors and look at neighbours' processes. A call that fails with
``EMFILE`` or ``ENFILE`` uses them, and they are taken again as soon as descriptors are free.
"""

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

SIZE = 8
"""Spare descriptors: for connections to Redis, the look-up of its name, and a file in each of some threads."""
FOR_REDIS = 6
"""Those for Redis only, since a worker that cannot reach the ledger loses its lease."""
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE})

ACCEPT_FAILED = "socket.accept() out of system resource"
"""Prefix of asyncio's log message for an accept without a free descriptor."""
LOGGED_EVERY = 1.0
"""Seconds between two such messages."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def is_exhausted(error: BaseException | None) -> bool:
    """Whether ``error`` or one of its causes says that no descriptor is free."""
    return any(isinstance(each, OSError) and each.errno in EXHAUSTED for each in _origins(error))


def _origins(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


class AcceptFailures(logging.Filter):
    """Logging filter that passes one message about a failed accept in :data:`LOGGED_EVERY` seconds.

    asyncio repeats a failed accept up to its backlog, 2,048 times under uvicorn, and logs a traceback for each. This
    would block the event loop for seconds, until the worker's lease runs out.
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
        self._next = now + LOGGED_EVERY
        return True


accept_failures = AcceptFailures()


class SpareDescriptors:
    """Those of one process, kept from the first :meth:`open` to the last :meth:`close`. Thread-safe."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._kept: list[int] = []
        self._users = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def is_short(self) -> bool:
        """Whether some of the descriptors were freed and have not been taken again."""
        return self._users > 0 and len(self._kept) < SIZE

    def open(self) -> None:
        """Add a user; the first one takes them, as far as descriptors are free."""
        with self._lock:
            self._users += 1
            logging.getLogger("asyncio").addFilter(accept_failures)
            self.fill()

    def close(self) -> None:
        """Remove a user; the last one frees all."""
        with self._lock:
            self._users -= 1
            if not self._users:
                logging.getLogger("asyncio").removeFilter(accept_failures)
                self.let_go()

    def fill(self) -> None:
        """Take those that are missing, as far as descriptors are free. Never fails."""
        if len(self._kept) == SIZE or not self._users:
            return
        with self._lock:
            try:
                while len(self._kept) < SIZE:
                    self._kept.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                pass

    def let_go(self, most: int = SIZE) -> None:
        """Free up to ``most`` descriptors, to open others, until :meth:`fill`."""
        with self._lock:
            for _ in range(min(most, len(self._kept))):
                os.close(self._kept.pop())

    def forget(self) -> None:
        """Free all and forget the users in a forked child, which has no event loops and threads of its parent."""
        kept = self._kept
        self._begin()
        for descriptor in kept:
            os.close(descriptor)

    def lend(self, call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Call ``call``, and again with a freed descriptor while none is left. ``call`` must not block.

        Descriptors are freed one by one, down to :data:`FOR_REDIS`: a server that accepts in another thread may take
        any that are free, and asyncio tries 2,048 times in a row.
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


spares = SpareDescriptors()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=spares.forget)
