"""The overload manager of an event loop: reads monitors up to four times a second, and refuses handshakes by them."""

import asyncio
import math
import random
from collections.abc import Callable, Iterator
from contextvars import Context

from ..conf import Settings, sizing
from ..core.counters import MONITOR_FAILED
from ..core.readings import Footprint, Load, Told, Work
from ..runtime.faults import Faults
from ..runtime.servers import implementation
from .memory import Memory
from .monitors import Cpu, Descriptors, Lag
from .room import Room
from .sampler import Reader, Readings, Sensor
from .threads import Threads
from .trigger import Trigger
from .usage import Record

REFRESH = 0.25
"""Seconds between readings."""
REST = 1.0
"""The same while all that have thresholds are far below them and change little."""
IDLE = 0.04
"""The share of a core up to which a process may be calm: one that works may soon take memory."""
TICK = 0.02
"""Seconds between ticks while the event loop has recently been late; otherwise half of those between readings."""
MISSED = 1.0
"""Seconds after which a late tick counts as lost, if the event loop runs."""
LAG = "lag"
SPENT = frozenset({"memory", "descriptors"})
"""What an open connection takes."""
LOOK = 0.01
"""Least seconds between two checks of memory and descriptors while no handshake may be admitted."""


class OverloadManager:
    """Reads the monitors while open, and decides which handshakes to refuse. Belongs to one event loop.

    One thread reads the built-in monitors, and one each of the site's own. The event loop only measures its lag and
    takes over the readings, up to four times a second, and less often in a calm worker: to be woken costs an idle one
    more than the work itself.

    Every handshake takes a descriptor and memory, and a herd may take the last of them between two readings. So
    descriptors are also read on the event loop, after as many handshakes as raise their reading by 0.01, and
    :class:`~.overload.room.Room` is asked as often as it demands; each takes about ten microseconds. ``present``
    returns the connections and waiting handshakes of all limiters of the event loop.

    A herd delays the event loop while it arrives. A lag that begins while ``is_spreading`` returns that the entrance
    admits a herd by turns refuses no handshake; one that was there before goes on refusing.
    """

    def __init__(
        self, settings: Settings, present: Callable[[], int] = int, is_spreading: Callable[[], bool] = bool
    ) -> None:
        self.load: tuple[Load, ...] = ()
        """The latest reading and pressure of every monitor."""
        self.footprint: Footprint | None = None
        """What this process and its connections use; None while that is unknown."""
        self.is_out_of_memory = False
        """Whether memory that the kernel cannot reclaim has reached saturation, so that refusing is not enough."""
        self.faults = Faults("the monitors of this worker")
        self._loop = asyncio.get_running_loop()
        self._lag = Lag(TICK)
        self._present = present
        self._is_spreading = is_spreading
        self._memory = Memory(settings.memory_limit)
        self._descriptors = Descriptors()
        self._threads = Threads()
        self._counted = Sensor("descriptors", self._descriptors.read)
        self._measured = Sensor("memory", self._memory.read)
        self._own = [Sensor(name, each.source) for name, each in settings.pressure.items() if each.source is not None]
        self._readers = tuple(self._open_readers())
        self._triggers = {
            name: Trigger(watch.thresholds) for name, watch in settings.pressure.items() if watch.thresholds
        }
        self._readings: dict[str, float | None] = dict.fromkeys(settings.pressure)
        self._median: float | None = 0.0
        self._longest: float | None = 0.0
        self._highest: tuple[float, str] = (0.0, "")
        self._lag_lasts = False
        """Whether the lag has had a pressure since before the herd that is being spread."""
        # Handshakes until the next check; without thresholds there is none.
        self._unlooked: float = 0 if {"descriptors", "memory"} & set(self._triggers) else math.inf
        self._look_at, self._has_room = 0.0, True
        thresholds = settings.pressure["memory"].thresholds
        self._room = Room(thresholds) if thresholds else None
        self._record = Record()
        self._expected = sizing.workers(settings)
        self._neighbours: dict[str, int] = {}
        # The first handshakes may come before a thread has read anything.
        self._readings["memory"] = self._measured.read()
        self._asked_at, self._work, self._is_calm, self._is_idle = -math.inf, Cpu(), False, False
        self._heartbeat = settings.heartbeat
        self._shed_per_heartbeat = self._shed_left = settings.shed_per_heartbeat
        self._shed_at = self._shed_until = self._measured_at = 0.0
        self._context = Context()
        self._is_closed = False
        self._tick_at = self._loop.time()
        self._tick()

    def refusing(self) -> str | None:
        """The monitor that refuses this handshake, if any; a pressure below 1 refuses at random in that proportion."""
        self._unlooked -= 1
        if self._unlooked < 0 and (self._has_room or self._loop.time() >= self._look_at):
            self._look()
        pressure, name = self._highest
        if name == LAG:
            pressure, name = self._pressing()
        return name if pressure and random.random() < pressure else None

    @property
    def saturated(self) -> bool:
        """Whether a monitor refuses every handshake."""
        return self._pressing()[0] >= 1

    @property
    def refuses(self) -> bool:
        """Whether a monitor refuses handshakes, or some of them."""
        return self._pressing()[0] > 0

    @property
    def is_tight(self) -> bool:
        """Whether memory or descriptors are nearer to their threshold than may be spent on refused clients."""
        return any(
            load.name in SPENT and load.name in self._triggers and self._triggers[load.name].is_near(load.reading)
            for load in self.load
        )

    def told(self, accepting: int) -> Told:
        """What a report says of this worker, which has so many connections that are not accepted yet."""
        return Told(self.load, self.footprint, Work(self._threads.jobs, self._threads.busy, accepting))

    def _pressing(self) -> tuple[float, str]:
        """The highest pressure and its monitor, without a lag that began with the herd which the entrance spreads."""
        pressure, name = self._highest
        if not pressure or name != LAG or self._lag_lasts or not self._is_spreading():
            return pressure, name
        return max(((load.pressure, load.name) for load in self.load if load.name != LAG), default=(0.0, ""))

    def to_shed(self) -> int:
        """How many connections the worker's limiters must close now, all together."""
        if not self.is_out_of_memory:
            return 0
        if self._loop.time() >= self._shed_until:
            # A reading counts once: it does not show yet what the connections closed since have freed.
            self._shed_left = self._shed_per_heartbeat if self._measured_at > self._shed_at else 0
        return self._shed_left

    def shed(self, count: int) -> None:
        """Note that a limiter has closed ``count`` connections; the next may close a heartbeat later."""
        if count:
            self._shed_left -= count
            self._shed_at = self._loop.time()
            self._shed_until = self._shed_at + self._heartbeat

    def revive(self) -> None:
        """Restart the ticks if they were lost. Call it regularly on the same event loop."""
        if not self._is_closed and self._loop.time() > self._tick_at + MISSED:
            # After a block of the event loop the tick may only be late, and then runs before this call.
            self._loop.call_later(TICK, self._begin_again, self._tick_at, context=self._context)

    def _begin_again(self, expected: float) -> None:
        """Restart the ticks, unless the tick ``expected`` at that time has run since."""
        if not self._is_closed and self._tick_at == expected:
            self._ticker.cancel()
            self._lag = Lag(TICK)
            self._forget_readings()
            self._tick()

    async def aclose(self) -> None:
        """Stop reading and refusing."""
        self._is_closed = True
        self._ticker.cancel()
        for reader in self._readers:
            reader.close()
        self._forget_readings()

    def _open_readers(self) -> Iterator[Reader]:
        yield Reader(self._measured, self._counted, Sensor("cpu", Cpu().read), Sensor("threads", self._threads.read))
        for sensor in self._own:
            yield Reader(sensor)

    def _tick(self) -> None:
        self._is_idle = (self._work.of_a_core() or 0.0) <= IDLE
        pause = self._period() / 2
        with self.faults.spare("the lag"):
            pause = self._lag.tick(pause)
        self._tick_at = self._loop.time() + pause
        self._ticker = self._loop.call_later(pause, self._tick, context=self._context)
        try:
            self._take_readings()
        except Exception as error:
            self.faults.note("the readings", error)
            self._forget_readings()
        else:
            self.faults.recover("the readings")

    def _take_readings(self) -> None:
        """Take new readings from the threads, and have them read again when due."""
        now = self._loop.time()
        news = {name: reading for reader in self._readers for name, reading in reader.take().items()}
        is_due = now >= self._asked_at + self._period()
        # The lag does not wait for a slow monitor.
        if news or (is_due and any(reader.is_reading for reader in self._readers)):
            before = dict(self._readings)
            self._readings.update(news)
            if "memory" in news:
                self._measured_at = now
                self._measure(news)
                trigger, uses = self._triggers.get("memory"), self._memory.last[0]
                self.is_out_of_memory = (
                    trigger is not None
                    and news["memory"] is not None
                    and any(use.firm >= trigger.saturation * use.allowed for use in uses)
                )
                self._unlooked = min(self._unlooked, self._fitting())
            self._judge()
            calm = (each.is_calm(before[name], self._readings[name]) for name, each in self._triggers.items())
            self._is_calm = not (self._highest[0] or any(each.is_reading for each in self._readers)) and all(calm)
        for sensor in self._own:
            if failures := sensor.failures():
                self.faults.count(MONITOR_FAILED + sensor.name, failures)
        if is_due:
            self._asked_at = max(self._asked_at + self._period(), now - self._period())
            for reader in self._readers:
                reader.ask()

    def _period(self) -> float:
        """Seconds between readings."""
        return REST if self._is_calm and self._is_idle else REFRESH

    def _measure(self, news: Readings) -> None:
        uses, resident = self._memory.last
        files_limit = self._descriptors.allowed() or 0
        self._record.note(self._present(), resident, round((news.get("descriptors") or 0.0) * files_limit))
        known = uses if news["memory"] is not None else ()
        self.footprint = self._record.footprint(known, files_limit, implementation())

    def _forget_readings(self) -> None:
        """Set all readings to unknown, since old readings say nothing of the present."""
        self._readings = dict.fromkeys(self._readings)
        self._highest, self._has_room, self.footprint = (0.0, ""), True, None
        self.is_out_of_memory = False
        self.load = tuple([Load(name, None, 0.0) for name in self._readings])

    def meet(self, pool: str, neighbours: int) -> None:
        """Set how many other workers of the pool share the memory of this container or machine.

        Workers that start at the same time do not know each other at the first call, so that one assumes all expected.
        """
        is_first, self._neighbours[pool] = pool not in self._neighbours, neighbours
        if self._room is not None:
            met = 1 + max(self._neighbours.values())
            self._room.workers = max(met, self._expected) if is_first else met

    def _look(self) -> None:
        """Check memory and descriptors, and set how many handshakes may follow before the next check."""
        self._unlooked = math.inf
        if self._is_closed:
            return
        self._unlooked, self._look_at = 1, self._loop.time() + LOOK
        self._is_calm = False
        with self.faults.spare("the check of memory and descriptors"):
            few = self._fitting()
            if "descriptors" in self._triggers:
                few = min(few, self._descriptors.step())
                self._readings["descriptors"] = self._counted.read()
            # The present handshake is one of them.
            self._unlooked = few - 1
            self._judge()

    def _fitting(self) -> float:
        """How many connections memory has room for; infinite if unknown."""
        if self._room is None:
            return math.inf
        uses, resident = self._memory.last
        self._room.read(uses if self._readings["memory"] is not None else (), resident)
        fitting = self._room.newcomers(self._loop.time(), self._memory.resident(), self._present())
        self._has_room = fitting > 0
        return fitting

    def _judge(self) -> None:
        now = self._loop.time()
        self._readings[LAG], self._median, self._longest = self._lag.percentiles(0.99, 0.5, 1.0)
        self.load = tuple([self._load(name, reading, now) for name, reading in self._readings.items()])
        self._highest = max(((load.pressure, load.name) for load in self.load), default=(0.0, ""))
        lag = next((load.pressure for load in self.load if load.name == LAG), 0.0)
        self._lag_lasts = lag > 0 and (self._lag_lasts or not self._is_spreading())

    def _load(self, name: str, reading: float | None, now: float) -> Load:
        trigger = self._triggers.get(name)
        pressure = trigger.pressure(reading, now) if trigger else 0.0
        if name == "memory" and not self._has_room:
            pressure = 1.0
        if name == LAG:
            return Load(name, reading, pressure, self._median, self._longest)
        return Load(name, reading, pressure)
