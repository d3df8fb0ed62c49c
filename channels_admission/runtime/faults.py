"""Unexpected exceptions: counted, logged once with their traceback, and contained.

Tasks that must run as long as the worker use :meth:`Faults.spare`. Only cancellation passes it.
"""

import asyncio
import builtins
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..core.counters import FAULT

logger = logging.getLogger("channels_admission")

AGAIN = 5.0
"""Seconds in which a type of exception in one part is logged at most once, even if the part has worked in between."""


def kind_of(error: BaseException) -> str:
    """The nearest built-in class of ``error``, so that libraries cannot create any number of counters."""
    names = (each.__name__ for each in type(error).__mro__ if getattr(builtins, each.__name__, None) is each)
    return next(names, Exception.__name__)


class Faults:
    """Unexpected exceptions in the parts of ``whole``, each counted in all ``books`` as ``fault:KIND``.

    A part logs a type of exception again only after it has worked in between.
    """

    def __init__(self, whole: str, *books: Counter[str]) -> None:
        self.books = list(books)
        self._whole = whole
        self._failing: dict[str, set[type[BaseException]]] = {}
        self._logged_at: dict[tuple[str, type[BaseException]], float] = {}

    def leave_out(self, book: Counter[str]) -> None:
        """Stop counting in ``book``."""
        self.books = [each for each in self.books if each is not book]

    @contextmanager
    def spare(self, part: str) -> Iterator[None]:
        """Contain every :exc:`Exception` of the block, named ``part``; the cancellation of its task passes."""
        try:
            yield
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self.note(part, error)
        except Exception as error:
            self.note(part, error)
        else:
            self.recover(part)

    def note(self, part: str, error: BaseException) -> None:
        """Count ``error``, and log it with its traceback unless already logged. Never fails."""
        # Without memory or stack, even this may raise.
        with suppress(Exception):
            self.count(kind_of(error))
            known = self._failing.setdefault(part, set())
            if type(error) not in known:
                known.add(type(error))
                self._log(part, error)

    def count(self, kind: str, times: int = 1) -> None:
        """Count exceptions of a ``kind`` that are logged elsewhere."""
        for book in self.books:
            book[f"{FAULT}{kind}"] += times

    def recover(self, part: str) -> None:
        """Note that ``part`` works again."""
        self._failing.pop(part, None)

    def _log(self, part: str, error: BaseException) -> None:
        now, place = time.monotonic(), (part, type(error))
        if now - self._logged_at.get(place, -AGAIN) >= AGAIN:
            self._logged_at[place] = now
            logger.error(
                "Unexpected %s in %s of %s, which goes on.", type(error).__name__, part, self._whole, exc_info=error
            )


def running(thread: threading.Thread | None, target: Callable[..., None], *args: Any, name: str) -> threading.Thread:
    """``thread`` if it runs, else a new daemon thread; :exc:`RuntimeError` if none can be started."""
    if thread is not None and thread.is_alive():
        return thread
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    thread.start()
    return thread
