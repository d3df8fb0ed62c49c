"""Four workers of one pool that report to two ledgers at once, which must say the same."""

import copy
import uuid
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, replace

import pytest
from hypothesis import strategies as st

from channels_admission.core.agreement import numbers_of
from channels_admission.core.herd.tickets import Ticket
from channels_admission.core.overrides import EVERY_WORKER, NOTHING_SET, Controls, Drain, Order
from channels_admission.core.protocol import Aged, Ask, Key, Reply, Shown, Terms
from channels_admission.core.quotas.shares import Bound
from channels_admission.core.readings import Reading
from channels_admission.ledger.base import Forgotten, OutOfOrder
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.ledger.memory.pool import StoredPool

from support.claimants import PLACES, Claimant, key
from support.reports import HEARTBEAT, LEASE, Clock, ClockedRedisLedger, Reporter

TOLERANCE = 1e-6
"""Seconds: Redis reckons in milliseconds, and both in floating-point numbers."""
LIMIT = 12
QUOTAS = (
    Bound("user", 3, oldest=True), Bound("address", 5, rate=2.0, burst=4), Bound("pending", None, 0.2),
)  # fmt: skip
OTHER_QUOTAS = (Bound("user", 2, oldest=True), Bound("address", 5, rate=1.0, burst=6), Bound("pending", 3))
GROUPS = ("", "anonymous", "member", "staff", "exempt")
STEP = st.tuples(
    st.sampled_from(
        ["claim"] * 4 + ["drop", "pass", "pass", "die", "lapse", "goodbye", "repeat", "lost", "lost", "retell", "order"]
        + ["knock"] * 5 + ["control", "drain", "obey", "look", *["count"] * 3, "flush", "save", "fall_back", "retire"]
    ),
    st.integers(0, 3),
    st.integers(0, 6),
    st.sampled_from([1, 250, 499, 500, 999, 1000, 1001, 2500, 7000]),
    st.booleans(),
)  # fmt: skip
STEPS = st.lists(STEP, min_size=15, max_size=40)


def comparable(reply: Reply) -> dict:
    names = [name for name in Reply.__slots__ if name not in ("now", "retry_times", "waits")]
    plain = {name: getattr(reply, name) for name in names}
    retry_times = reply.retry_times and (reply.retry_times.first, reply.retry_times.step, reply.retry_times.elapsed)
    return {
        **plain,
        "neighbours": sorted(plain["neighbours"], key=lambda each: each.worker),
        "evicted": sorted(plain["evicted"]),
        "turns": [(turn.handshake, turn.wait and pytest.approx(turn.wait, abs=TOLERANCE)) for turn in plain["turns"]],
        "settings": numbers_of(reply.settings),
        "waits": pytest.approx(reply.waits, abs=TOLERANCE),
        "retry_times": retry_times and pytest.approx(retry_times, abs=TOLERANCE),
    }


def numbers(reply: Reply) -> dict:
    retry_times = reply.retry_times and (reply.retry_times.first, reply.retry_times.step, reply.retry_times.elapsed)
    turns = [tuple(turn) for turn in reply.turns]
    return {**comparable(reply), "waits": reply.waits, "retry_times": retry_times, "turns": turns}


def pictured(reading: Reading, unsaid: Container[str] = ()) -> dict:
    """A reading as it is compared; times in whole milliseconds, and without the settings of workers in ``unsaid``: what
    lease these have, Redis does not know."""
    workers = {
        each.worker: replace(
            each,
            silence=round(1000 * each.silence),
            uptime=round(1000 * each.uptime),
            settings="" if each.worker in unsaid else each.settings,
        )
        for each in reading.workers
        if each.worker not in unsaid or each.silence < LEASE
    }
    return {
        **{name: getattr(reading, name) for name in Reading.__slots__},
        "workers": workers,
        "now": round(1000 * reading.now),
        "since": reading.since and round(1000 * reading.since),
        "counters": {name: count for name, count in reading.counters.items() if count},
    }


def same(memory: dict, redis: dict) -> None:
    unlike = {name: (value, redis[name]) for name, value in memory.items() if value != redis[name]}
    assert not unlike, f"memory and Redis say {unlike}"


@dataclass(frozen=True, slots=True)
class Saved:
    """What two ledgers have stored of a pool."""

    memory: StoredPool | None
    redis: dict[bytes, bytes]


class Both:
    """Two ledgers that must say the same; the answer is that of memory."""

    def __init__(self, memory: MemoryLedger, redis: ClockedRedisLedger) -> None:
        self.ledgers = memory, redis

    async def reconcile(self, pool, report):
        memory, redis = [await self._ask(ledger, pool, report) for ledger in self.ledgers]
        if isinstance(memory, Reply) and isinstance(redis, Reply):
            same(comparable(memory), numbers(redis))
        else:
            same({"kind": type(memory)}, {"kind": type(redis)})
        await self.compare_readings(pool)
        if isinstance(memory, Exception):
            raise memory
        return memory

    async def _ask(self, ledger, pool, report):
        try:
            return await ledger.reconcile(pool, report)
        except (OutOfOrder, Forgotten) as error:
            return error

    async def control(self, pool, controls, replaced) -> bool:
        """Set by both under the version that Redis gives, which is of its own time."""
        memory, redis = self.ledgers
        said = await redis.control(pool, controls, replaced)
        version, clock = (await redis.read((pool,)))[0].controls.version, memory._wall_clock
        memory._wall_clock = lambda: version / 1000
        try:
            assert await memory.control(pool, controls, replaced) is said
        finally:
            memory._wall_clock = clock
        await self.compare_readings(pool)
        return said

    async def flush(self, pool: str) -> None:
        """Lose all data of a pool."""
        await self.restore(pool, Saved(None, {}))

    async def save(self, pool: str) -> "Saved":
        memory, redis = self.ledgers
        dumps = {name: await redis._redis.dump(name) for name in await self._keys(pool)}
        return Saved(copy.deepcopy(memory._pools.get((memory._settings.prefix, pool))), dumps)

    async def restore(self, pool: str, saved: "Saved") -> None:
        """Go back to what was saved, as a replica that takes over goes back."""
        memory, redis = self.ledgers
        memory._pools.pop((memory._settings.prefix, pool), None)
        if saved.memory is not None:
            memory._pools[memory._settings.prefix, pool] = copy.deepcopy(saved.memory)
        if names := await self._keys(pool):
            await redis._redis.delete(*names)
        for name, dump in saved.redis.items():
            await redis._redis.restore(name, 0, dump)
        await self.compare_readings(pool)
        await self.compare_pasts(pool)

    async def _keys(self, pool: str) -> list[bytes]:
        """The keys of a pool in Redis, without the time of the test."""
        redis = self.ledgers[1]
        names = [name async for name in redis._redis.scan_iter(match=redis._key(pool, "*"), count=1000)]
        return [name for name in names if not name.endswith(b":now")]

    async def compare_readings(self, pool):
        memory, redis = [(await ledger.read((pool,)))[0] for ledger in self.ledgers]
        # The record of a worker does not say its settings, if all had the same when it was written.
        said = {each.worker for each in redis.workers if each.settings and len(redis.settings) > 1}
        unsaid = {each.worker for each in (*memory.workers, *redis.workers)} - said
        same(pictured(memory, unsaid), pictured(redis, unsaid))

    async def compare_pasts(self, pool):
        memory, redis = [await ledger.past(pool) for ledger in self.ledgers]
        same({"past": memory}, {"past": redis})


class Member(Claimant):
    """A worker of a shared pool that knows since when it holds a slot under a key, and may end its oldest ones."""

    def __init__(self, ledger, nonce: str, clock: Clock, **options) -> None:
        super().__init__(ledger, nonce, **options)
        self.clock = clock
        self.open: dict[Key, list[float]] = {}
        self.told_to_end: list = []

    async def claim(self, *asks, **changes):
        reply = await super().claim(*asks, **changes)
        for each, reason in zip(asks, reply.verdicts, strict=True):
            if each.claims[0] and not reason:
                self.open.setdefault(each.claims[0], []).append(self.clock.now)
        self.told_to_end = list(reply.evicted)
        return reply

    def aged(self, told):
        return tuple(
            Aged(0, each, tuple(round(self.clock.now - since, 3) for since in self.open[each]))
            for each in told
            if self.open.get(each)
        )

    def end(self, user: Key) -> None:
        """The oldest connection of a user, with whatever else it was counted under."""
        del self.open[user][0]
        self.drop(Ask((user,)))


def asked(number: int) -> Ask:
    pending = key("pending") if number == 3 else None
    here = key(f"here{number % 2}")
    return Ask((key(f"u{number % 2}"), here, pending), PLACES[GROUPS[number % 5]], tries=(None, here, None))


class World:
    """Four workers of one pool, and a clock of whole milliseconds; each third one is an ``other``, with settings of
    its own, which are those of another two ledgers."""

    def __init__(self, both: Both, other: Both | None, clock: Clock, *, shared: bool, terms: Terms) -> None:
        self.both, self.other, self.clock, self.shared = both, other, clock, shared
        self.pool, self.born = uuid.uuid4().hex, 0
        self.losses, self.saved = 0, None
        self.terms = terms
        self.controls = NOTHING_SET
        self.tickets: list[Ticket] = []
        """The last ones that clients have been given."""
        self.counters: dict[str, Counter] = {}
        self.workers = [self.start() for _ in range(4)]

    def start(self):
        self.born += 1
        is_other = self.other is not None and self.born % 3 == 0
        both = self.other if self.other is not None and is_other else self.both
        options = {"pool": self.pool, "limit": LIMIT - 3 * is_other}
        if self.shared:
            quotas = OTHER_QUOTAS if is_other else QUOTAS
            worker = Member(both, f"{self.born:x}", self.clock, quotas=quotas, **options)
        else:
            worker = Reporter(both, f"{self.born:x}", **options)
        terms = replace(self.terms, rate=self.terms.rate and self.terms.rate / (1 + is_other))
        worker.last = replace(worker.last, terms=terms, warn_at=0.7 - 0.2 * is_other)
        worker.began, worker.losses = self.clock.now, 0
        self.counters[worker.last.worker] = Counter()
        return worker

    async def settle(self) -> None:
        """Let a first worker come and go, and the time pass in which Redis settles over an empty pool."""
        await settle(self.both, self.clock, type(self.workers[0]), self.pool, self.workers[0].last)

    async def report(self, worker, number=0, *, is_lost=False, **changes):
        """Report, and hear the reply unless it ``is_lost``."""
        changes["counters"] = dict(self.counters[worker.last.worker])
        changes["age"] = round(self.clock.now - worker.began, 3)
        changes["controls"] = changes.get("controls", self.controls)
        changes["allowance"] = worker.last.held + number // 2
        changes["ahead"] = number % 4
        changes["unused"] = changes.get("unused", number // 5)
        before = worker.last
        if not self.shared:
            reply = await worker.say(worker.last.held, number, **changes)
            held, reserve = worker.last.held + reply.granted + reply.ahead, worker.last.reserve + reply.ahead
            worker.last = replace(worker.last, held=held, reserve=reserve)
        else:
            heard = worker.heard
            reply = await worker.claim(*map(asked, range(number)), parts=number % 4, **changes)
        worker.losses = self.losses
        if is_lost:
            worker.last = replace(worker.last, version=before.version)
            if self.shared:
                worker.heard, worker.told = heard, {*worker.claims}
            return
        self.give_tickets(reply, number, changes.get("shown", ()))
        if reply.controls:
            self.controls = reply.controls
        heard = {"settings": reply.settings, "level": reply.level, "acknowledged": changes["counters"]}
        worker.last = replace(worker.last, **heard)

    def give_tickets(self, reply, number, shown):
        """To the refused: the same ones with another time, or new ones."""
        now, given = self.clock.now, {each.handshake: each.ticket for each in shown}
        for turn in reply.turns:
            if turn.wait is not None:
                due = round(now + min(60.0, max(1.0, turn.wait)), 2)
                self.tickets.append(given[turn.handshake]._replace(due=due))
        for place in range(number if reply.retry_times else 0):
            time = now + reply.retry_times.first + place * reply.retry_times.step - reply.retry_times.elapsed
            self.tickets.append(Ticket(round(time, 2), round(min(time, now + 50.0), 2), self.born * 100 + place))
        del self.tickets[:-20]

    async def do_knock(self, worker, place, number, milliseconds, heartbeat):
        """Handshakes of which most show tickets, some of them twice, some early or late; time passes up to the next."""
        if heartbeat and self.tickets:
            due = sorted(each.due for each in self.tickets)
            later = [each for each in due if each > self.clock.now]
            self.clock.now = round(max(self.clock.now, (later or [0.0])[0]) + milliseconds % 7 / 10, 3)
        shown = tuple(
            Shown(handshake, self.tickets[-1 - (handshake * (1 + place)) % len(self.tickets)])
            for handshake in range(number)
            if self.tickets and handshake != place
        )
        try:
            await self.report(worker, number, shown=shown)
        finally:
            worker.last = replace(worker.last, shown=())

    async def step(self, what, place, number, milliseconds, heartbeat):
        worker = self.workers[place]
        act = getattr(self, f"do_{what}", None)
        if act is not None:
            await act(worker, place, number, milliseconds, heartbeat)
            return
        is_lost = what == "lost"
        await self.report(worker, number if what == "claim" or is_lost else 0, heartbeat=heartbeat, is_lost=is_lost)

    async def do_flush(self, worker, place, number, milliseconds, heartbeat):
        self.losses += 1
        await self.both.flush(self.pool)

    async def do_save(self, worker, place, number, milliseconds, heartbeat):
        self.saved = await self.both.save(self.pool)

    async def do_fall_back(self, worker, place, number, milliseconds, heartbeat):
        """Lose what has happened since the pool was saved, or at least one report."""
        saved = self.saved or await self.both.save(self.pool)
        await self.report(worker, number, heartbeat=heartbeat)
        self.losses, self.saved = self.losses + 1, None
        await self.both.restore(self.pool, saved)

    async def do_retire(self, worker, place, number, milliseconds, heartbeat):
        """Another worker of its process has taken its place: it asks for no more, and holds what it has."""
        await self.report(worker, heartbeat=heartbeat, retired=True)

    async def do_pass(self, worker, place, number, milliseconds, heartbeat):
        self.clock.now = round(self.clock.now + milliseconds / 1000, 3)

    async def do_look(self, worker, place, number, milliseconds, heartbeat):
        await self.both.compare_pasts(self.pool)

    async def do_die(self, worker, place, number, milliseconds, heartbeat):
        self.workers[place] = self.start()
        gone = (worker.last.worker,) if heartbeat and worker.last.seq else ()
        if number > 3:  # and with it a second one
            second = self.workers[place - 2]
            self.workers[place - 2] = self.start()
            gone += (second.last.worker,) if second.last.seq else ()
        other = self.workers[place - 1]
        await self.report(other, gone=gone)
        other.last = replace(other.last, gone=())

    async def do_lapse(self, worker, place, number, milliseconds, heartbeat):
        """A worker is taken for gone, and lives."""
        other = self.workers[place - 1]
        await self.report(other, gone=(worker.last.worker,))
        other.last = replace(other.last, gone=())

    async def do_goodbye(self, worker, place, number, milliseconds, heartbeat):
        if self.shared:
            worker.held, worker.told = 0, {*worker.claims}
            worker.claims, worker.classes, worker.open = Counter(), Counter(), {}
        else:
            worker.last = replace(worker.last, held=0, reserve=0)
        await self.report(worker, goodbye=True)
        self.workers[place] = self.start()

    async def do_repeat(self, worker, place, number, milliseconds, heartbeat):
        """A report that was applied is repeated, unless its worker was forgotten since."""
        (reading,) = await worker.ledger.ledgers[0].read((self.pool,))
        is_counted = worker.last.worker in {each.worker for each in reading.workers}
        if is_counted and worker.losses == self.losses:
            with pytest.raises((OutOfOrder, Forgotten)):
                await worker.ledger.reconcile(self.pool, worker.last)

    async def do_retell(self, worker, place, number, milliseconds, heartbeat):
        """Tell all claims, as a worker must that has been told to and is told to again."""
        if self.shared:
            worker.heard, worker.told = min(worker.heard, number), {*worker.claims}
        await self.report(worker, heartbeat=heartbeat)

    async def do_order(self, worker, place, number, milliseconds, heartbeat):
        """A worker knows newer controls than the ledger."""
        self.controls = replace(
            self.controls, version=self.controls.version + 1, limit=order(2 * number, over=heartbeat)
        )
        await self.report(worker)

    async def do_control(self, worker, place, number, milliseconds, heartbeat):
        drain = Drain((EVERY_WORKER, worker.last.worker, "host")[number % 3], 1.5, "kim", 2.0)
        chosen = (
            {"limit": order(2 * place)}, {"limit": order(2 * place, over=True)}, {"paused": order(1)},
            {"dry_run": order(1), "drains": (drain,)}, {"drains": (drain,)}, {},
        )[number % 6]  # fmt: skip
        version = (await self.both.ledgers[0].read((self.pool,)))[0].controls.version
        assert await self.both.control(self.pool, Controls(**chosen), version - (number == 6)) is (number != 6)

    async def do_drain(self, worker, place, number, milliseconds, heartbeat):
        await self.report(worker, draining=heartbeat, heartbeat=True)

    async def do_obey(self, worker, place, number, milliseconds, heartbeat):
        for each in worker.told_to_end if self.shared else ():
            for _ in range(min(each.number, len(worker.open.get(each.key, ())))):
                worker.end(each.key)
        await self.report(worker, heartbeat=heartbeat)

    async def do_count(self, worker, place, number, milliseconds, heartbeat):
        for name in ("admitted", "full", "released", "fault:OSError"):
            self.counters[worker.last.worker][name] = (number * 7 + len(name)) % 11
        reserve = 0 if self.shared else min(number, worker.last.held)
        worker.last = replace(worker.last, speed=12.125 * number, unreserved=number % 3, reserve=reserve)
        await self.report(worker, heartbeat=heartbeat)

    async def do_drop(self, worker, place, number, milliseconds, heartbeat):
        if not self.shared:
            held = max(0, worker.last.held - 1)
            worker.last = replace(worker.last, held=held, reserve=min(worker.last.reserve, held))
        elif users := [user for user, since in worker.open.items() if since]:
            worker.end(users[0])
        await self.report(worker, heartbeat=heartbeat)

    async def run(self, steps):
        await self.settle()
        for step in steps:
            await self.survive(step)
        await self.both.compare_pasts(self.pool)

    async def survive(self, step):
        try:
            await self.step(*step)
        except (Forgotten, OutOfOrder):  # both ledgers said so; the worker takes another name
            self.workers[step[1]] = self.start()


def order(value: int, *, over: bool = False) -> Order:
    return Order(value, "kim", 1.0, 2.0 if over else None)


async def settle(both, clock: Clock, kind=Reporter, pool: str = "default", like=None) -> None:
    """Let a first worker come and go, and the time pass in which Redis settles over an empty pool."""
    for nonce in ("ffff", "eeee"):
        for ledger in both.ledgers:
            more = {"clock": clock, "quotas": QUOTAS} if kind is Member else {}
            first = kind(ledger, nonce, pool=pool, limit=LIMIT, **more)
            if like is not None:
                first.last = replace(first.last, terms=like.terms, warn_at=like.warn_at)
            await (first.say(goodbye=True) if kind is Reporter else first.claim(goodbye=True))
        clock.now = round(clock.now + 2 * HEARTBEAT, 3)
