"""The real script and the real account under every fault a network and a Redis can produce, against a model.

The model knows the truth: which worker lives and what it holds. Hypothesis looks for a sequence
of steps after which one of the invariants is broken; it prints the sequence and can replay it.
"""

import asyncio
import uuid
from dataclasses import dataclass, field

import pytest
from django.test import override_settings
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from channels_admission import conf
from channels_admission.account import Account
from channels_admission.ledger.base import OutOfOrder
from channels_admission.types import Controls, Order, Reason, Report
from channels_admission.worker import Worker

from reports import Clock, ClockedRedisLedger

LIMIT, WORKERS, BEAT, LEASE = 12, 4, 1.0, 10.0
FATES = st.sampled_from(["arrives", "arrives", "arrives", "request lost", "reply lost", "request late", "twice"])


@dataclass
class Actor:
    """One worker of the model, with what the ledger has heard of it."""

    account: Account
    alive: bool = True
    unheard: bool = True
    """Whether the ledger may have forgotten it since its last report arrived: lost data, or a lapse."""
    silent_since: float = 0.0
    late: list[Report] = field(default_factory=list)


class Faults(RuleBasedStateMachine):
    """Workers that open and close connections while requests, replies, keys, processes and clocks go astray."""

    url = ""
    patches: dict[str, str] = {}

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.override = override_settings(
            CHANNELS_ADMISSION={
                "LEDGER": self.url, "PREFIX": f"prop-{uuid.uuid4().hex}", "LEASE": LEASE, "BEAT": BEAT,
                "MAX_CONNECTIONS": LIMIT, "EXPECTED_WORKERS": WORKERS, "WHEN_LEDGER_DOWN": "freeze",
            }
        )  # fmt: skip
        self.override.enable()
        self.settings = conf.current()
        self.clock = Clock()
        self.ledger = ClockedRedisLedger(self.settings, self.clock, self.patches)
        self.keys = [f"{self.settings.prefix}:{{default}}:{part}" for part in ("counts", "leases", "controls")]
        self.actors: list[Actor] = []
        self.newborn_after_loss = 0
        self.snapshot: list[bytes | None] | None = None
        self.lossless = True
        self.overtaken = False
        """Whether others may have had the slots of a worker that had lapsed and was heard again."""
        for _ in range(WORKERS):
            self.start()
        for actor in self.actors:
            self.exchange(actor, 0, "arrives")

    def teardown(self) -> None:
        self.run(self.ledger.aclose())
        self.loop.close()
        self.override.disable()

    def run(self, awaitable):
        return self.loop.run_until_complete(awaitable)

    # What the workers do

    def start(self) -> Actor:
        actor = Actor(Account(self.settings.pool("default"), Worker()), silent_since=self.clock.now)
        self.actors.append(actor)
        return actor

    def living(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.alive]

    def exchange(self, actor: Actor, wanted: int, fate: str) -> None:
        """One call of a gate, its reply obeyed if it comes."""
        account = actor.account
        report = account.report(wanted, beat=True)
        if fate == "request lost":
            account.fail(self.clock.now)
            return
        if fate == "request late":
            actor.late.append(report)
            account.fail(self.clock.now)
            return
        view = self.deliver(actor, report)
        if fate == "twice":
            with pytest.raises(OutOfOrder):
                self.deliver(actor, report)
        if view is None or fate == "reply lost":
            account.fail(self.clock.now)
            return
        account.settle(report, view)
        while wanted and account.has_room:
            account.admit()
            wanted -= 1
        for _ in range(wanted):
            account.refuse(Reason.FULL)

    def deliver(self, actor: Actor, report: Report):
        view = self.run(self.ledger.reconcile("default", report))
        actor.silent_since = self.clock.now
        actor.unheard = False
        self.overtaken = self.overtaken or view.lapsed
        if view.granted:
            assert view.total <= LIMIT
            assert not view.settling or report.held + view.granted <= max(report.allowance, report.held)
        return view

    @rule(number=st.integers(0, 9), wanted=st.integers(1, 6), fate=FATES)
    def handshakes(self, number, wanted, fate):
        actors = self.living()
        if actors:
            self.exchange(actors[number % len(actors)], wanted, fate)

    @rule(number=st.integers(0, 9), count=st.integers(1, 6))
    def handshakes_of_a_gate_with_room(self, number, count):
        actors = self.living()
        if actors:
            account = actors[number % len(actors)].account
            while count and account.has_room:
                account.admit()
                count -= 1

    @rule(number=st.integers(0, 9), count=st.integers(1, 6))
    def connections_close(self, number, count):
        actors = self.living()
        if actors:
            account = actors[number % len(actors)].account
            for _ in range(min(count, account.held)):
                account.release()

    @rule(fate=FATES, seconds=st.sampled_from([0.1, 0.5, 1.0]))
    def time_passes_and_all_beat(self, fate, seconds):
        self.clock.now += seconds
        self.notice_lapses()
        for actor in self.living():
            self.exchange(actor, 0, fate)

    @rule(number=st.integers(0, 9))
    def one_beats(self, number):
        actors = self.living()
        if actors:
            self.exchange(actors[number % len(actors)], 0, "arrives")

    def notice_lapses(self) -> None:
        # The pool's clock may run slower than the true one, never faster: who may have lapsed, counts as unheard.
        for actor in self.actors:
            if self.clock.now - actor.silent_since >= LEASE:
                actor.unheard = True

    # What goes wrong

    @rule(number=st.integers(0, 9))
    def a_late_request_arrives(self, number):
        late = [(actor, report) for actor in self.actors for report in actor.late]
        if late:
            actor, report = late[number % len(late)]
            actor.late.remove(report)
            try:
                self.run(self.ledger.reconcile("default", report))
                actor.silent_since = self.clock.now
            except OutOfOrder:
                pass

    @rule(number=st.integers(0, 9))
    def a_worker_is_killed(self, number):
        actors = self.living()
        if len(actors) > 1:
            actors[number % len(actors)].alive = False

    @precondition(lambda self: len(self.living()) < WORKERS)
    @rule(fate=FATES)
    def a_worker_starts(self, fate):
        actor = self.start()
        if not self.lossless:
            self.newborn_after_loss += 1
        self.exchange(actor, 0, fate)

    @rule(number=st.integers(0, 9), seconds=st.sampled_from([3.0, 9.0, 15.0]))
    def one_worker_is_paused(self, number, seconds):
        """The others beat on; the paused one may outlive its lease."""
        actors = self.living()
        if not actors:
            return
        paused = actors[number % len(actors)]
        for _ in range(int(seconds)):
            self.clock.now += 1
            self.notice_lapses()
            for actor in self.living():
                if actor is not paused:
                    self.exchange(actor, 0, "arrives")

    @rule(seconds=st.sampled_from([-3600.0, 3600.0]))
    def the_clock_of_redis_jumps(self, seconds):
        """No worker's lease is moved by it beyond two beats."""
        self.clock.now += seconds
        for actor in self.actors:
            actor.silent_since += seconds - (2 * BEAT if seconds > 0 else 0)
        self.notice_lapses()

    @rule(seconds=st.sampled_from([5.0, 40.0]))
    def redis_is_away(self, seconds):
        for actor in self.living():
            self.exchange(actor, 0, "request lost")
        self.clock.now += seconds
        for actor in self.actors:
            actor.silent_since += seconds - min(seconds, 2 * BEAT)
        self.notice_lapses()

    def data_was_lost(self) -> None:
        self.lossless = False
        for actor in self.actors:
            actor.unheard = True

    @rule(dry_run=st.booleans())
    def an_operator_sets_something(self, dry_run):
        stored = self.stored_controls()
        controls = Controls(dry_run=Order(int(dry_run), "ann", self.clock.now))
        assert self.run(self.ledger.control("default", controls, stored.version))
        assert self.stored_controls().version > stored.version

    def stored_controls(self) -> Controls:
        (reading,) = self.run(self.ledger.read(("default",)))
        return reading.controls

    @rule(which=st.sampled_from([[0], [1], [0, 1], [2], [0, 1, 2]]))
    def keys_vanish(self, which):
        self.run(self.ledger._redis.delete(*(self.keys[index] for index in which)))
        self.data_was_lost()

    @rule(name=st.sampled_from(["#total", "#clock", "#version", "#settled", "#counters"]))
    def a_field_vanishes(self, name):
        self.run(self.ledger._redis.hdel(self.keys[0], name))
        self.data_was_lost()

    @rule()
    def redis_is_saved(self):
        self.snapshot = self.run(self._dump())

    @precondition(lambda self: self.snapshot is not None)
    @rule()
    def redis_goes_back_to_its_last_save(self):
        self.run(self._restore())
        self.data_was_lost()

    async def _dump(self):
        return [await self.ledger._redis.dump(key) for key in self.keys]

    async def _restore(self):
        for key, dump in zip(self.keys, self.snapshot, strict=True):
            await self.ledger._redis.delete(key)
            if dump is not None:
                await self.ledger._redis.restore(key, 0, dump)

    # What must hold

    async def _state(self):
        counts = await self.ledger._redis.hgetall(self.keys[0])
        leased = await self.ledger._redis.lrange(self.keys[1], 0, -1)
        records = {
            name.decode(): int(value.split(b"|")[0]) for name, value in counts.items() if not name.startswith(b"#")
        }
        return counts.get(b"#total"), records, {name.decode() for name in leased}

    @invariant()
    def the_total_is_the_sum_and_the_counted_are_the_leased(self):
        total, records, leased = self.run(self._state())
        if self.lossless:
            assert int(total) == sum(records.values())
            assert set(records) == leased

    @invariant()
    def no_worker_that_was_heard_is_counted_below_what_it_holds(self):
        _, records, _ = self.run(self._state())
        for actor in self.living():
            if not actor.unheard:
                assert records.get(actor.account.worker.id, 0) >= actor.account.held

    @invariant()
    def the_limit_holds_while_nothing_was_lost_and_nobody_lapsed(self):
        if self.lossless and not self.overtaken and not any(actor.unheard for actor in self.actors):
            assert sum(actor.account.held for actor in self.living()) <= LIMIT

    @rule()
    def quiet_comes(self):
        """One beat after the last fault the ledger equals the truth; the dead are gone with their lease."""
        for actor in self.actors:
            actor.late.clear()
        known = [self.stored_controls(), *(actor.account.controls for actor in self.living())]
        newest = max(known, key=lambda controls: controls.version)
        for _ in range(2):
            self.clock.now += BEAT
            for actor in self.living():
                self.exchange(actor, 0, "arrives")
        total, records, leased = self.run(self._state())
        assert int(total) == sum(records.values())
        assert set(records) == leased
        if self.living():
            assert self.stored_controls() == newest
        for actor in self.living():
            assert actor.account.controls == newest
            assert records[actor.account.worker.id] == actor.account.held
        for _ in range(int((LEASE + 2 * BEAT) / BEAT)):
            self.clock.now += BEAT
            for actor in self.living():
                self.exchange(actor, 0, "arrives")
        total, records, _ = self.run(self._state())
        truth = {actor.account.worker.id: actor.account.held for actor in self.living()}
        assert records == truth
        assert int(total) == sum(truth.values())
        self.lossless = sum(truth.values()) <= LIMIT
        self.overtaken = False
        self.actors = self.living()


BUDGET = settings(
    phases=[Phase.generate],
    max_examples=30,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


def machine(url: str, patches: dict[str, str] | None = None) -> type[Faults]:
    return type("Faults", (Faults,), {"url": url, "patches": patches or {}})


def test_invariants_hold_under_every_fault(redis_server):
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(machine(redis_server.url), settings=BUDGET)
