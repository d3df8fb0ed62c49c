"""Threads that read monitors, so that a monitor that fails, hangs or is slow delays nothing else."""

import logging
import math
import queue
import threading
import weakref
from collections.abc import Iterable, Mapping

from ..conf.overload import Source
from ..runtime.faults import running

logger = logging.getLogger("channels_admission")

MOST_MISSED = 8
"""Requests without an answer after which the last readings are too old."""

Readings = Mapping[str, float | None]


class Sensor:
    """A monitor that never raises: a failed reading is None, and the first failure is logged, with its traceback."""

    def __init__(self, name: str, source: Source) -> None:
        self.name = name
        self._source = source
        self._is_logged = False
        self._raised = self._counted = 0

    def read(self) -> float | None:
        try:
            reading = self._source()
            number = None if reading is None else float(reading)
        except Exception as error:
            self._raised += 1
            self.complain(repr(error), error)
            return None
        if number is not None and not math.isfinite(number):
            self.complain(f"{number} is not a finite number")
            return None
        return number

    def failures(self) -> int:
        """How many readings have raised an exception since the last call. Call it on the event loop only."""
        before, self._counted = self._counted, self._raised
        return self._counted - before

    def complain(self, why: str, error: Exception | None = None) -> None:
        if not self._is_logged:
            self._is_logged = True
            logger.error("The monitor %r gives no reading: %s", self.name, why, exc_info=error)


class Reader:
    """Reads sensors one after the other in a daemon thread. Use it from one event loop."""

    def __init__(self, *sensors: Sensor) -> None:
        self._sensors = sensors
        self._questions: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Readings] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._missed = 0
        self.is_reading = False
        """Whether a request has no answer yet."""
        self.close = weakref.finalize(self, self._questions.put, False)
        """End the thread; garbage collection of the reader does the same."""
        self.close.atexit = False

    def ask(self) -> None:
        """Request readings of all sensors, unless a request runs."""
        thread = self._thread
        if self.is_reading and thread is not None and thread.is_alive():
            self._missed += 1
            return
        try:
            args = (self._sensors, self._questions, self._answers)
            self._thread = running(thread, _read, *args, name="admission monitors")
        except (RuntimeError, MemoryError):
            # Too many threads, or the end of the process: the last readings become too old.
            self._missed += 1
            return
        self._questions.put(True)
        self.is_reading = True

    def take(self) -> Readings:
        """New readings; empty without any, and all unknown after :data:`MOST_MISSED` requests without an answer."""
        if not self._answers.empty():
            self.is_reading, self._missed = False, 0
            return self._answers.get()
        if self._missed < MOST_MISSED:
            return {}
        for sensor in self._sensors:
            sensor.complain("it takes too long")
        return {sensor.name: None for sensor in self._sensors}


def _read(
    sensors: Iterable[Sensor], questions: "queue.SimpleQueue[bool]", answers: "queue.SimpleQueue[Readings]"
) -> None:
    while questions.get():
        answers.put({sensor.name: sensor.read() for sensor in sensors})
