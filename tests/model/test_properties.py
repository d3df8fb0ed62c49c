"""The real script and the real state under every fault a network and a Redis can produce, against a model.

The model knows the truth: which worker lives and what it holds. Hypothesis looks for a sequence
of steps after which one of the invariants is broken; it prints the sequence and can replay it.
"""

import asyncio
import uuid
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count, zip_longest
from types import SimpleNamespace
from unittest import mock

import pytest
from django.test import override_settings
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from channels_admission import conf
from channels_admission.conf.shares import classes
from channels_admission.core.counters import Reason
from channels_admission.core.herd.tickets import Ticket
from channels_admission.core.overrides import Controls, Order
from channels_admission.core.protocol import KEY_BYTES, Ask, Reply, Report, Shown
from channels_admission.ledger.base import Forgotten, OutOfOrder
from channels_admission.limiter.books import state as state_module
from channels_admission.limiter.books.slots import Slots
from channels_admission.limiter.books.state import State
from channels_admission.limiter.connections.slot import Slot
from channels_admission.quotas.requests import Rules
from channels_admission.runtime import identity
from channels_admission.runtime.identity import Worker

from support.reports import Clock, ClockedRedisLedger
from support.tickets import TicketJudge

LIMIT, WORKERS, HEARTBEAT, LEASE = 12, 4, 1.0, 10.0
RANKS = (None, "member", "staff", "anonymous")
"""The class of each user; who is not known is anonymous."""
USERS = st.lists(st.integers(0, 3), min_size=1, max_size=2)
AGES = st.lists(st.integers(0, 5), max_size=3)
"""How many tickets ago those were given that are shown."""
QUOTAS = {"user": 3, "site": 5}
FAULTS = ("fault in the report", "fault in the settlement", "fault in the answer")
"""Exceptions in the worker itself: before its request is sent, and as it obeys the reply."""
FATES = st.sampled_from(
    ["arrives", "arrives", "arrives", "request lost", "reply lost", "request late", "twice", *FAULTS]
)


def rank(scope):
    return RANKS[scope["user"].pk] if "user" in scope else "anonymous"


def site(scope):
    return scope["site"]


SHARED = {
    "QUOTAS": [{"key": "user", "max": QUOTAS["user"]}, {"key": f"{__name__}.site", "max": QUOTAS["site"]}],
    "CLASSIFY": f"{__name__}.rank",
    "SHARES": {"anonymous": 0.5, "member": 0.75, "staff": 1.0},
}


def client(user: int, *, is_known: bool) -> dict[str, object]:
    """The scope of a user at one of two sites, who is known from the beginning or has yet to be."""
    user %= len(RANKS)
    return {"site": user % 2, **({"user": SimpleNamespace(pk=user, is_authenticated=True)} if is_known else {})}


@contextmanager
def failing(owner: object, name: str, is_wanted: bool):
    """Have a function fail, and expect that where it is wanted."""
    if not is_wanted:
        yield
        return
    with mock.patch.object(owner, name, side_effect=OSError), pytest.raises(OSError):
        yield


@dataclass
class Actor:
    """One worker of the model, with what the ledger has heard of it."""

    state: State
    given: Slots
    alive: bool = True
    unheard: bool = True
    """Whether the ledger may have forgotten it since its last report arrived: lost data, or a lapse."""
    silent_since: float = 0.0
    late: list[Report] = field(default_factory=list)
    retelling: bool = False
    """Whether it has yet to hear that the ledger has lost its claims, or to tell them again."""
    slots: list[Slot] = field(default_factory=list)
    """Those of the connections that are open."""


class Faults(RuleBasedStateMachine):
    """Workers that open and close connections while requests, replies, keys, processes and clocks go astray."""

    url = ""
    replaced: dict[str, str] = {}
    shared: dict[str, object] = {}
    """The settings by which the pool is shared, if it is."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.override = override_settings(
            CHANNELS_ADMISSION={
                "LEDGER": self.url, "PREFIX": f"prop-{uuid.uuid4().hex}", "LEASE": LEASE, "HEARTBEAT": HEARTBEAT,
                "MAX_CONNECTIONS": LIMIT, "EXPECTED_WORKERS": WORKERS, "WHEN_LEDGER_DOWN": "freeze",
                **self.shared,
            }
        )  # fmt: skip
        self.override.enable()
        # Redis keeps the records in an order that follows from the workers' names: an example that is tried again needs
        # the same ones.
        names = (f"{number:08x}" for number in count())
        self.names = mock.patch.object(identity.secrets, "token_hex", side_effect=names)
        self.names.start()
        self.settings = conf.current()
        self.clock = Clock()
        self.ledger = ClockedRedisLedger(self.settings, self.clock, self.replaced)
        parts = ("counts", "leases", "controls", "claims", "tickets")
        self.keys = [f"{self.settings.prefix}:{{default}}:{part}" for part in parts]
        self.rules = Rules(self.settings.pool("default"), self.settings) if self.shared else None
        self.tickets: list[Ticket] = []
        """Those of all that were ever refused."""
        self.judge = TicketJudge(self.clock, Counter(), self.object_to)
        self.actors: list[Actor] = []
        self.newborn_after_loss = 0
        self.snapshot: dict[bytes, bytes] | None = None
        self.lossless = True
        self.epoch: bytes | None = None
        self.overtaken = False
        """Whether others may have had the slots of a worker that had lapsed and was heard again."""
        for _ in range(WORKERS):
            self.start()
        for actor in self.actors:
            self.exchange(actor, 0, "arrives")

    def teardown(self) -> None:
        self.run(self.ledger.aclose())
        self.loop.close()
        self.names.stop()
        self.override.disable()

    def run(self, awaitable):
        return self.loop.run_until_complete(awaitable)

    def object_to(self, kind: str, detail: str) -> None:
        raise AssertionError(f"{kind}: {detail}")

    # What the workers do

    def start(self) -> Actor:
        state = State(self.settings.pool("default"), Worker())
        owner = SimpleNamespace(take_back=lambda slot: state.release(slot.claims, slot.class_index))
        actor = Actor(state, Slots(owner, state, self.clock), silent_since=self.clock.now)
        self.actors.append(actor)
        return actor

    def living(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.alive]

    def exchange(
        self,
        actor: Actor,
        wanted: int,
        fate: str,
        asks: tuple[Ask, ...] = (),
        slot: Slot | None = None,
        shown: tuple[Shown, ...] = (),
    ) -> None:
        """One call of a limiter, its reply obeyed if it comes; ``asks`` are of newcomers, or of ``slot``."""
        state = actor.state
        report = None
        with failing(state_module, "host_token", fate == "fault in the report"):
            report = state.begin_report(wanted, asks=asks, shown=shown, heartbeat=True)
        if fate in ("request lost", "fault in the report"):
            state.fail(self.clock.now)
            return
        if fate == "request late":
            actor.late.append(report)
            state.fail(self.clock.now)
            return
        try:
            reply = self.deliver(actor, report)
        except Forgotten:
            self.overtaken = actor.unheard = True
            state.rename()
            return
        if fate == "twice":
            with pytest.raises(OutOfOrder):
                self.deliver(actor, report)
        if reply is None or fate == "reply lost":
            state.fail(self.clock.now)
            return
        self.tell_turns(report, reply)
        with failing(state_module.levels, "share_of_free", fate == "fault in the settlement"):
            state.settle(report, reply)
        if fate == "fault in the settlement":
            state.fail(self.clock.now)
            return
        if fate == "fault in the answer":
            for ask, reason in zip(asks, reply.verdicts, strict=True):
                if not reason:
                    actor.given.give_up(ask)
            return
        for ask, reason in zip(asks, reply.verdicts, strict=True):
            if reason:
                state.counters[reason] += 1
            else:
                self.give(actor, ask, slot)
        while wanted and not asks and state.has_room:
            self.give(actor)
            wanted -= 1
        for _ in range(0 if asks else wanted):
            state.counters[Reason.FULL] += 1

    def give(self, actor: Actor, ask: Ask | None = None, slot: Slot | None = None) -> None:
        given = actor.given.give(ask, slot)
        if slot is None:
            actor.slots.append(given)

    def deliver(self, actor: Actor, report: Report):
        reply = self.run(self.ledger.reconcile("default", report))
        self.judge.see_call(report, reply)
        actor.silent_since = self.clock.now
        actor.unheard = False
        self.overtaken = self.overtaken or reply.lapsed
        if self.rules:
            self.see_epoch(actor, reply.retell)
        if reply.granted:
            assert reply.total <= LIMIT
            assert not reply.settling or report.held + reply.granted <= max(report.allowance, report.held)
        return reply

    def tell_turns(self, report: Report, reply: Reply) -> None:
        """The refused have tickets from now on: the same place, or a new one."""
        waits = {turn.handshake: turn.wait for turn in reply.turns}
        for handshake, ticket in report.shown:
            if (wait := waits.get(handshake)) is not None:
                self.tickets.append(ticket._replace(due=round(self.clock.now + wait, 2)))
        for rank in range(report.wanted - reply.granted - len(waits)):
            place = round(self.clock.now + 0.2 * (rank % 4), 2)
            self.tickets.append(Ticket(place, place, len(self.tickets)))
            self.judge.see_verdict(None, self.tickets[-1], Reason.FULL)

    def see_epoch(self, actor: Actor, retell: bool) -> None:
        """As another epoch begins, the ledger has forgotten the claims of all."""
        epoch = self.run(self.ledger._redis.hget(self.keys[3], "#epoch"))
        if epoch != self.epoch:
            self.epoch = epoch
            for other in self.actors:
                other.retelling = True
        actor.retelling = retell

    @rule(
        number=st.integers(0, 9), wanted=st.integers(1, 6), fate=FATES, user=st.integers(0, 3), known=st.booleans(),
        ages=AGES,
    )  # fmt: skip
    def handshakes(self, number, wanted, fate, user, known, ages):
        actors = self.living()
        if actors:
            asks, shown = self.asks(wanted, user, known=known), self.shown(wanted, ages)
            self.exchange(actors[number % len(actors)], wanted, fate, asks, shown=shown)

    @rule(wanted=st.integers(1, 6), user=st.integers(0, 3), known=st.booleans(), ages=AGES)
    def handshakes_everywhere(self, wanted, user, known, ages):
        """With copies of the same tickets. Where some show theirs, others leave."""
        shown = self.shown(wanted, ages)
        for actor in self.living():
            if shown and actor.slots:
                actor.slots.pop(0).release()
            self.exchange(actor, wanted, "arrives", self.asks(wanted, user, known=known), shown=shown)

    def shown(self, wanted: int, ages: list[int]) -> tuple[Shown, ...]:
        """The last of the handshakes show tickets that were given lately, perhaps copies of one."""
        came = [self.tickets[-1 - age % len(self.tickets)] for age in ages[:wanted] if self.tickets]
        return tuple(Shown(wanted - len(came) + place, ticket) for place, ticket in enumerate(came))

    def asks(self, wanted: int, user: int, *, known: bool) -> tuple[Ask, ...]:
        """Every second client is another user."""
        clients = (client(user + place // 2, is_known=known) for place in range(wanted))
        return tuple(map(self.rules.ask, clients)) if self.rules else ()

    @precondition(lambda self: self.rules and self.living())
    @rule(number=st.integers(0, 9), wanted=st.integers(1, 4), fate=FATES, users=USERS, nth=st.integers(0, 9))
    def connections_learn_whose_they_are(self, number, wanted, fate, users, nth):
        """After some more have come. Each asks from one of its parts, or from two at the same time."""
        actors = self.living()
        actor = actors[number % len(actors)]
        self.exchange(actor, wanted, "arrives", self.asks(wanted, users[0], known=False))
        for slot in actor.slots[nth % max(1, len(actor.slots)) :]:
            self.claim(actor, slot, users, fate)

    def claim(self, actor: Actor, slot: Slot, users: list[int], fate: str) -> None:
        asks = [self.rules.ask_again(client(user, is_known=True), slot.claims, slot.class_index) for user in users]
        asks = tuple(filter(None, asks))
        if not actor.state.away:
            self.exchange(actor, 0, fate, asks, slot)
            return
        for ask in asks:
            if actor.state.claim_alone(ask) is None:
                actor.state.claims.take(ask.claims)
                self.give(actor, ask, slot)

    @rule(number=st.integers(0, 9), count=st.integers(1, 6))
    def handshakes_of_a_limiter_with_room(self, number, count):
        actors = self.living()
        if actors:
            state = actors[number % len(actors)].state
            while count and state.has_room and not self.rules:
                self.give(actors[number % len(actors)])
                count -= 1

    @precondition(lambda self: self.rules and self.living())
    @rule(number=st.integers(0, 9), user=st.integers(0, 3), known=st.booleans())
    def one_leaves_and_one_comes_at_once(self, number, user, known):
        """Perhaps the same one: the ledger counts still what that one asks for."""
        actors = self.living()
        actor, ask = actors[number % len(actors)], self.rules.ask(client(user, is_known=known))
        if actor.slots:
            actor.slots.pop(0).release()
        if not actor.state.away and actor.state.may_enter(ask):
            actor.slots.append(actor.given.take(ask, None))

    @precondition(lambda self: self.rules and any(actor.state.away for actor in self.living()))
    @rule(number=st.integers(0, 9), user=st.integers(0, 3), known=st.booleans())
    def a_handshake_is_decided_alone(self, number, user, known):
        actors = [actor for actor in self.living() if actor.state.away]
        actor, ask = actors[number % len(actors)], self.rules.ask(client(user, is_known=known))
        if actor.state.refusal_alone(self.clock.now, ask) is None:
            actor.state.claims.take(ask.claims)
            self.give(actor, ask)

    @rule(number=st.integers(0, 9), count=st.integers(1, 6))
    def connections_close(self, number, count):
        actors = self.living()
        if actors:
            actor = actors[number % len(actors)]
            for _ in range(min(count, actor.state.held)):
                actor.slots.pop(0).release()

    @rule(fate=FATES, seconds=st.sampled_from([0.1, 0.5, 1.0]))
    def time_passes_and_all_report(self, fate, seconds):
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
                self.judge.see_call(report, self.run(self.ledger.reconcile("default", report)))
                actor.silent_since = self.clock.now
                if self.rules:
                    self.see_epoch(actor, True)
            except (OutOfOrder, Forgotten):
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
        """The others go on; the paused one may outlive its lease."""
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
        """No worker's lease is moved by it beyond two heartbeats."""
        self.clock.now += seconds
        for actor in self.actors:
            actor.silent_since += seconds - (2 * HEARTBEAT if seconds > 0 else 0)
        self.notice_lapses()

    @rule(seconds=st.sampled_from([5.0, 40.0]))
    def redis_is_away(self, seconds):
        for actor in self.living():
            self.exchange(actor, 0, "request lost")
        self.clock.now += seconds
        for actor in self.actors:
            actor.silent_since += seconds - min(seconds, 2 * HEARTBEAT)
        self.notice_lapses()

    def data_was_lost(self) -> None:
        self.lossless = False
        self.judge.forget()
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

    @rule(which=st.sampled_from([[0], [1], [0, 1], [2], [0, 1, 2], [3], [4], [0, 1, 2, 3, 4]]))
    def keys_vanish(self, which):
        self.run(self.ledger._redis.delete(*(self.keys[index] for index in which)))
        self.data_was_lost()

    @precondition(lambda self: self.rules)
    @rule(number=st.integers(0, 9))
    def the_claims_of_one_worker_vanish(self, number):
        """Of a living one, or of one that is dead and perhaps being swept up."""
        name = self.actors[number % len(self.actors)].state.worker.id
        self.run(self.ledger._redis.delete(f"{self.keys[3]}:{name}"))
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
        return {name: await self.ledger._redis.dump(name) for name in await self._names()}

    async def _names(self):
        return [name for name in await self.ledger._redis.keys(f"{self.settings.prefix}:*") if b":now" not in name]

    async def _restore(self):
        for name in await self._names():
            await self.ledger._redis.delete(name)
        for name, dump in self.snapshot.items():
            await self.ledger._redis.restore(name, 0, dump)

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
                assert records.get(actor.state.worker.id, 0) >= actor.state.held

    @invariant()
    def the_limit_holds_while_nothing_was_lost_and_nobody_lapsed(self):
        if self.lossless and not self.overtaken and not any(actor.unheard for actor in self.actors):
            assert sum(actor.state.held for actor in self.living()) <= LIMIT

    async def _claims(self):
        """What is counted under each key, and what that is of each worker, the dead included.

        What is left from before a loss is of another epoch, and counts no more.
        """
        hashes, epoch = {}, await self.ledger._redis.hget(self.keys[3], "#epoch")
        for name in await self._names():
            _, claims, worker = name.decode().partition(":claims")
            fields = await self.ledger._redis.hgetall(name) if claims else {}
            if fields and fields[b"#epoch"] == epoch:
                hashes[worker[1:]] = Counter(
                    {key: int(value[:-2]) for key, value in fields.items() if len(key) == KEY_BYTES}
                )
        return hashes.pop("", Counter()), hashes

    @precondition(lambda self: self.rules)
    @invariant()
    def claims_are_the_sum_and_none_of_a_worker_is_below_what_it_holds(self):
        counted, own = self.run(self._claims())
        if self.lossless:
            assert counted == sum(own.values(), Counter())
        for actor in self.living():
            if not (actor.unheard or actor.retelling):
                assert own.get(actor.state.worker.id, Counter()) >= truth_of([actor])

    @precondition(lambda self: self.rules)
    @invariant()
    def quotas_hold_while_nothing_was_lost_and_nobody_lapsed(self):
        if self.lossless and not self.overtaken and not any(actor.unheard for actor in self.actors):
            assert is_within_quotas(self.living())

    def see_claims(self):
        """Whatever was lost is noticed, told of and told again within a few calls, which follow at once."""
        for _ in range(4):
            for actor in self.living():
                self.exchange(actor, 0, "arrives")
        counted, own = self.run(self._claims())
        (reading,) = self.run(self.ledger.read(("default",)))
        held_by_class = {each.worker: each.classes for each in reading.workers}
        names = [each.name for each in classes(self.rules.pool)]
        for actor in self.living():
            assert own[actor.state.worker.id] == truth_of([actor])
            assert held_by_class[actor.state.worker.id] == Counter(
                names[slot.class_index] for slot in actor.slots if names[slot.class_index]
            )
        return counted

    @rule()
    def quiet_comes(self):
        """One heartbeat after the last fault the ledger equals the truth; the dead are gone with their lease."""
        for actor in self.actors:
            actor.late.clear()
        known = [self.stored_controls(), *(actor.state.controls for actor in self.living())]
        newest = max(known, key=lambda controls: controls.version)
        for _ in range(2):
            self.clock.now += HEARTBEAT
            for actor in self.living():
                self.exchange(actor, 0, "arrives")
        total, records, leased = self.run(self._state())
        assert int(total) == sum(records.values())
        assert set(records) == leased
        if self.living():
            assert self.stored_controls() == newest
        for actor in self.living():
            assert actor.state.controls == newest
            assert records[actor.state.worker.id] == actor.state.held
        if self.rules:
            self.see_claims()
        for _ in range(int((LEASE + 2 * HEARTBEAT) / HEARTBEAT)):
            self.clock.now += HEARTBEAT
            for actor in self.living():
                self.exchange(actor, 0, "arrives")
        total, records, _ = self.run(self._state())
        truth = {actor.state.worker.id: actor.state.held for actor in self.living()}
        assert records == truth
        assert int(total) == sum(truth.values())
        claims = truth_of(self.living())
        if self.rules:
            assert self.see_claims() == claims
        self.lossless = sum(truth.values()) <= LIMIT and is_within_quotas(self.living())
        self.overtaken = False
        self.actors = self.living()


def truth_of(actors: list[Actor]) -> Counter[bytes]:
    """Slots held under each key."""
    return Counter(key for actor in actors for slot in actor.slots for key in filter(None, slot.claims))


def is_within_quotas(actors: list[Actor]) -> bool:
    """Whether nobody holds more than the quota of its place."""
    claims = [slot.claims for actor in actors for slot in actor.slots]
    held = [Counter(filter(None, keys)) for keys in zip_longest(*claims)]
    return all(count <= most for keys, most in zip(held, QUOTAS.values(), strict=False) for count in keys.values())


BUDGET = settings(
    phases=[Phase.generate],
    max_examples=30,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


def machine(url: str, replaced: dict[str, str] | None = None, shared=None) -> type[Faults]:
    return type("Faults", (Faults,), {"url": url, "replaced": replaced or {}, "shared": shared or {}})


def test_invariants_hold_under_every_fault(redis_server):
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(machine(redis_server.url), settings=BUDGET)


@pytest.mark.parametrize("shared", [SHARED, {"QUOTAS": SHARED["QUOTAS"]}], ids=["quotas and classes", "quotas"])
def test_claims_are_right_under_every_fault(redis_server, shared):
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(machine(redis_server.url, shared=shared), settings=BUDGET)


def test_it_is_noticed_when_tickets_are_good_twice(redis_server):
    """A client refused in a full pool is admitted by its ticket. A copy goes before a client that came first."""
    for replaced in ({}, {"tickets.used": "function() return {} end"}):
        faults = machine(redis_server.url, replaced)()
        try:
            faults.handshakes_everywhere(LIMIT // WORKERS, 0, False, [])
            faults.handshakes(0, 1, "arrives", 0, False, [])
            assert len(faults.tickets) == 1
            faults.connections_close(0, 1)
            faults.handshakes(0, 1, "arrives", 0, False, [0])
            assert faults.judge._counted == {"redeemed": 1}
            faults.connections_close(1, 1)
            with pytest.raises(AssertionError, match="twice: ") if replaced else nullcontext():
                faults.handshakes(1, 2, "arrives", 0, False, [0])
        finally:
            faults.teardown()
