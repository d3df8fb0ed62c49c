"""The pressure on one event loop: its monitors, read a few times a second, and what they make of each handshake."""

import asyncio
import math
import random
from collections.abc import Callable, Iterator
from contextvars import Context

from ..conf import Settings, sizing
from ..core.readings import Load
from ..runtime.faults import Faults
from .memory import Memory
from .monitors import Cpu, Descriptors, Lag
from .room import Room
from .sampler import Reader, Sensor
from .trigger import Trigger

REFRESH = 0.25
"""Seconds from one reading to the next."""
TICK = 0.02
"""Seconds from one look at the event loop to the next, while it is late now and then; else half of :data:`REFRESH`."""

MISSED = 1.0
"""Seconds that a look at the event loop is late, while that turns, when it is taken to have ended."""


LOOK = 0.01
"""Seconds from one look at what newcomers have taken to the next, at the least, while nobody else may come."""


class OverloadManager:
    """Reads the monitors while it is open, and says which handshakes to refuse. Belongs to one event loop.

    Threads read, one for the built-in monitors and one for each of the site's own; the event loop only
    looks now and then at its own lag and at what was read, since each time that an idle worker wakes
    costs more than what it then does.

    Every handshake holds a descriptor and takes memory, and a herd may take the last of them between
    two readings. So the descriptors are also read, on the event loop, each time that so many handshakes
    have arrived as would raise their reading by a hundredth, and the :class:`~.overload.room.Room` is asked as
    often as it says. Each takes some ten microseconds. ``present`` tells the connections of all limiters
    of the event loop, and their handshakes that wait.
    """

    def __init__(self, settings: Settings, present: Callable[[], int] = int) -> None:
        self.load: tuple[Load, ...] = ()
        """The latest reading of every monitor, with the pressure it makes."""
        self.faults = Faults("the monitors of this worker")
        self._loop = asyncio.get_running_loop()
        self._lag = Lag(TICK, REFRESH / 2)
        self._present = present
        self._memory = Memory(settings.memory_limit)
        self._descriptors = Descriptors()
        self._counted = Sensor("descriptors", self._descriptors.read)
        self._measured = Sensor("memory", self._memory.read)
        self._readers = tuple(self._open_readers(settings))
        self._triggers = {
            name: Trigger(watch.thresholds) for name, watch in settings.pressure.items() if watch.thresholds
        }
        self._readings: dict[str, float | None] = dict.fromkeys(settings.pressure)
        self._median: float | None = 0.0
        self._longest: float | None = 0.0
        self._highest: tuple[float, str] = (0.0, "")
        # Handshakes until what they take is looked at again; without thresholds it matters to none.
        self._unlooked: float = 0 if {"descriptors", "memory"} & set(self._triggers) else math.inf
        self._look_at = 0.0
        self._has_room = True
        thresholds = settings.pressure["memory"].thresholds
        self._room = Room(thresholds) if thresholds else None
        self._expected = sizing.workers(settings)
        self._neighbours: dict[str, int] = {}
        # The first handshakes may all come before a thread has read anything.
        self._readings["memory"] = self._measured.read()
        self._ask_at = self._loop.time()
        self._beat = settings.heartbeat
        self._shed_per_beat = self._shed_left = settings.shed_per_heartbeat
        self._shed_at = self._shed_until = self._measured_at = 0.0
        self._context = Context()
        self._is_closed = False
        self._tick_at = self._loop.time()
        self._tick()

    def refusing(self) -> str | None:
        """The monitor that refuses this handshake, by chance where the pressure is not yet whole."""
        self._unlooked -= 1
        if self._unlooked < 0 and (self._has_room or self._loop.time() >= self._look_at):
            self._look()
        pressure, name = self._highest
        return name if pressure and random.random() < pressure else None

    @property
    def saturated(self) -> bool:
        """Whether a monitor refuses every handshake."""
        return self._highest[0] >= 1

    @property
    def out_of_memory(self) -> bool:
        """Whether memory is past saturation by what the kernel cannot take back, so that refusing is not enough."""
        trigger = self._triggers.get("memory")
        if trigger is None or self._readings["memory"] is None:
            return False
        return any(use.firm >= trigger.saturation * use.allowed for use in self._memory.last[0])

    def to_shed(self) -> int:
        """How many connections the worker's limiters may close now, all together; none while memory suffices."""
        if not self.out_of_memory:
            return 0
        if self._loop.time() >= self._shed_until:
            # Not twice for one reading: it does not tell what the last ones closed have given back.
            self._shed_left = self._shed_per_beat if self._measured_at > self._shed_at else 0
        return self._shed_left

    def shed(self, count: int) -> None:
        """A limiter has closed so many of them; there are more to close a beat after the last."""
        if count:
            self._shed_left -= count
            self._shed_at = self._loop.time()
            self._shed_until = self._shed_at + self._beat

    def revive(self) -> None:
        """Tick again where that has ended: to be called now and then by what runs on the same event loop."""
        if not self._is_closed and self._loop.time() > self._tick_at + MISSED:
            # After a block of the event loop it may only be late. Then it comes before this does.
            self._loop.call_later(TICK, self._begin_again, self._tick_at, context=self._context)

    def _begin_again(self, expected: float) -> None:
        """Tick again, unless it was done since the tick that was expected then."""
        if not self._is_closed and self._tick_at == expected:
            self._ticker.cancel()
            self._lag = Lag(TICK, REFRESH / 2)
            self._go_blind()
            self._tick()

    async def aclose(self) -> None:
        """Read nothing any more, and refuse nobody."""
        self._is_closed = True
        self._ticker.cancel()
        for reader in self._readers:
            reader.close()
        self._go_blind()

    def _open_readers(self, settings: Settings) -> Iterator[Reader]:
        yield Reader(self._measured, self._counted, Sensor("cpu", Cpu().read))
        for name, watch in settings.pressure.items():
            if watch.source is not None:
                yield Reader(Sensor(name, watch.source))

    def _tick(self) -> None:
        pause = REFRESH / 2
        with self.faults.spare("the lag"):
            pause = self._lag.tick()
        self._tick_at = self._loop.time() + pause
        self._ticker = self._loop.call_later(pause, self._tick, context=self._context)
        try:
            self._listen()
        except Exception as error:
            self.faults.note("the readings", error)
            self._go_blind()
        else:
            self.faults.recover("the readings")

    def _listen(self) -> None:
        """Take what the threads have read meanwhile, and have them read again when it is time."""
        now = self._loop.time()
        news = {name: reading for reader in self._readers for name, reading in reader.hear().items()}
        is_due = now >= self._ask_at
        # A monitor may take its time, and the lag shall not wait for it.
        if news or (is_due and any(reader.is_reading for reader in self._readers)):
            self._readings.update(news)
            if "memory" in news:
                self._measured_at = now
                self._unlooked = min(self._unlooked, self._fitting())
            self._judge()
        if is_due:
            self._ask_at = max(self._ask_at + REFRESH, now)
            for reader in self._readers:
                reader.ask()

    def _go_blind(self) -> None:
        """Know of nothing: what was read once is no reading of now."""
        self._readings = dict.fromkeys(self._readings)
        self._highest, self._has_room = (0.0, ""), True
        self.load = tuple([Load(name, None, 0.0) for name in self._readings])

    def meet(self, pool: str, neighbours: int) -> None:
        """So many other workers of the pool share the memory of this container or machine.

        Those that start at the same time have not met when they are told for the first time.
        """
        is_first, self._neighbours[pool] = pool not in self._neighbours, neighbours
        if self._room is not None:
            met = 1 + max(self._neighbours.values())
            self._room.workers = max(met, self._expected) if is_first else met

    def _look(self) -> None:
        """See what newcomers have taken, and how many more may come until it is looked at again."""
        self._unlooked = math.inf
        if self._is_closed:
            return
        self._unlooked, self._look_at = 1, self._loop.time() + LOOK
        with self.faults.spare("the look at what newcomers have taken"):
            few = self._fitting()
            if "descriptors" in self._triggers:
                few = min(few, self._descriptors.step())
                self._readings["descriptors"] = self._counted.read()
            # One of them is whoever has this looked at.
            self._unlooked = few - 1
            self._judge()

    def _fitting(self) -> float:
        """How many more may come by the memory there is, as far as that is known."""
        if self._room is None:
            return math.inf
        uses, resident = self._memory.last
        self._room.read(uses if self._readings["memory"] is not None else (), resident)
        fitting = self._room.newcomers(self._loop.time(), self._memory.resident(), self._present())
        self._has_room = fitting > 0
        return fitting

    def _judge(self) -> None:
        now = self._loop.time()
        self._readings["lag"], self._median, self._longest = self._lag.percentiles(0.99, 0.5, 1.0)
        self.load = tuple([self._load(name, reading, now) for name, reading in self._readings.items()])
        self._highest = max(((load.pressure, load.name) for load in self.load), default=(0.0, ""))

    def _load(self, name: str, reading: float | None, now: float) -> Load:
        trigger = self._triggers.get(name)
        pressure = trigger.pressure(reading, now) if trigger else 0.0
        if name == "memory" and not self._has_room:
            pressure = 1.0
        if name == "lag":
            return Load(name, reading, pressure, self._median, self._longest)
        return Load(name, reading, pressure)
