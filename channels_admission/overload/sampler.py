"""Monitors asked in threads of their own: one that fails, hangs or takes its time holds up nothing but itself."""

import logging
import math
import queue
import threading
import weakref
from collections.abc import Iterable, Mapping

from ..conf.overload import Source
from ..runtime.faults import running

logger = logging.getLogger("channels_admission")

PATIENCE = 8
"""Questions without an answer after which what was read last is too old to go by."""

Readings = Mapping[str, float | None]


class Sensor:
    """A monitor that never fails: what it cannot tell is None, and the log hears of it once."""

    def __init__(self, name: str, source: Source) -> None:
        self.name = name
        self._source = source
        self._is_told_of = False

    def read(self) -> float | None:
        try:
            reading = self._source()
            number = None if reading is None else float(reading)
        except Exception as error:
            self.complain(repr(error))
            return None
        if number is not None and not math.isfinite(number):
            self.complain(f"{number} is no number")
            return None
        return number

    def complain(self, why: str) -> None:
        if not self._is_told_of:
            self._is_told_of = True
            logger.error("The monitor %r gives no reading: %s", self.name, why)


class Reader:
    """Reads sensors, one after the other, in a thread for which not even the end of the process waits.

    Whoever asks it belongs to one event loop.
    """

    def __init__(self, *sensors: Sensor) -> None:
        self._sensors = sensors
        self._questions: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Readings] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._in_vain = 0
        self.is_reading = False
        """Whether it was asked, and has not answered yet."""
        self.close = weakref.finalize(self, self._questions.put, False)
        """Have the thread end; so it does when nobody knows its reader any more."""
        self.close.atexit = False

    def ask(self) -> None:
        """Have all sensors read, unless they are being read."""
        thread = self._thread
        if self.is_reading and thread is not None and thread.is_alive():
            self._in_vain += 1
            return
        try:
            args = (self._sensors, self._questions, self._answers)
            self._thread = running(thread, _read, *args, name="admission monitors")
        except (RuntimeError, MemoryError):
            # Too many threads, or the end of the process: what was read last becomes too old.
            self._in_vain += 1
            return
        self._questions.put(True)
        self.is_reading = True

    def hear(self) -> Readings:
        """What was read since the last time; without an answer nothing, and after :data:`PATIENCE` all as unknown."""
        if not self._answers.empty():
            self.is_reading, self._in_vain = False, 0
            return self._answers.get()
        if self._in_vain < PATIENCE:
            return {}
        for sensor in self._sensors:
            sensor.complain("it takes too long")
        return {sensor.name: None for sensor in self._sensors}


def _read(
    sensors: Iterable[Sensor], questions: "queue.SimpleQueue[bool]", answers: "queue.SimpleQueue[Readings]"
) -> None:
    while questions.get():
        answers.put({sensor.name: sensor.read() for sensor in sensors})
