"""What a simulation calls wrong. It knows the truth, which worker lives and what it holds, and compares.

After every call and every turn of a process:

- *total*: the ledger's total is the sum of its counts, as that of the reserves, and the counted workers are the leased.
- *undercounted*: a worker is counted below what it holds, although the ledger has heard its
  newest report since it last lost it.
- *over the limit*: more slots are held than the pool has, in a strict profile, beyond the shares of
  the workers born while data was lost.
- *unexplained*: more is held than the ledger's total and what the workers hold that it has lost.
- *raised*: a call raised the total above the limit by more than what a lost worker already held.
- *too fast*: more entered by the ledger's word in some time than the connect rate and one burst allow.
- *drained young*: a worker drains that was born after the last order to drain all.
- *overgranted*: slots were granted above the limit, or above a worker's allowance while settling.
- *forgotten early*: a living worker was forgotten before its lease had passed on a clock that no
  jump and no outage moves by more than two heartbeats.
- *renamed*: a live call was answered as out of order.
- what :mod:`~support.tickets` calls wrong.

At each quiet point, two heartbeats after the last fault: *wrong*, a count without its reserve is not what is held,
*leaked*, it holds what no client has, *unanswered*, a handshake waits for its verdict, and *away*, it does not reach
the ledger; a lease and two heartbeats later: *ghost*, a worker is counted that does not live.

While something has been altered that the ledger has yet to find, what stands there is not believed
by it, nor compared here: *total* and *undercounted* wait until it begins to count anew.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from channels_admission.core.protocol import Reply, Report

from support.processes import Actor
from support.stored import Stored
from support.tickets import TicketJudge

if TYPE_CHECKING:
    from support.simulation import Simulation

SLACK = 0.01
"""Seconds that the ledger's whole milliseconds may make of a lease."""


@dataclass
class Outcome:
    """A run in figures."""

    seed: int
    calls: int = 0
    seconds: float = 0.0
    """Virtual."""
    faults: Counter[str] = field(default_factory=Counter)
    tickets: Counter[str] = field(default_factory=Counter)
    """What clients did with theirs, and what became of those that the ledger saw."""
    violations: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """The first violation of each kind."""
    healed: int = 0
    """Times that the ledger found damage and began to count anew."""
    excess: int = 0
    """The most slots held above the highest limit in force."""

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {name}" for name, count in sorted((self.faults + self.tickets).items()))
        found = "; ".join(f"{count} {name}, first {self.examples[name]}" for name, count in self.violations.items())
        return (
            f"SIMULATION_SEED={self.seed}: {self.calls} calls in {self.seconds:.0f} virtual seconds, "
            f"{faults or 'no faults'}; {self.healed} times healed; at most {self.excess} above the limit; "
            f"{found or 'nothing violated'}"
        )


class Judge:
    """Compares what the ledger counts with the truth; see the module for what it calls wrong."""

    def __init__(self, simulation: "Simulation") -> None:
        self.simulation = simulation
        self.settings = simulation.settings
        self.state = Stored()
        self.tickets = TicketJudge(simulation.redis_time, simulation.outcome.tickets, self._object)
        self.known: dict[str, Actor] = {}
        """Everybody who ever reported, by name."""
        self.clock = 0.0
        """The pool's clock as the contract has it, seconds."""
        self.real = 0.0
        self.terms = simulation.pool.terms
        self.entries: list[float] = []
        """When handshakes entered by the ledger's word, by the pool's clock; those that it granted, at that time."""
        self.lost_at = -math.inf
        self.ordered_at = -math.inf
        """When all who ran were last ordered to drain."""
        self.damaged = False
        """Whether something has been altered that the ledger has yet to find."""
        self.grace = 0
        """Slots that newborn workers may hold above the limit, after a loss of data."""

    def _object(self, kind: str, detail: str) -> None:
        outcome = self.simulation.outcome
        outcome.violations[kind] += 1
        outcome.examples.setdefault(kind, f"at call {outcome.calls}, {self.simulation.now:.3f} s: {detail}")

    def _living(self) -> list[Actor]:
        return [actor for process in self.simulation.processes for actor in process.actors]

    def see_birth(self, actor: Actor) -> None:
        self.known[actor.id] = actor
        actor.born = self.simulation.now
        if actor.born - self.lost_at < 2 * self.settings.heartbeat:
            self.grace += self._share(actor)

    def _share(self, actor: Actor) -> int:
        return actor.limiter.pool.max_connections // actor.limiter.pool.expected_workers

    def see_loss(self, left: Stored) -> None:
        """The ledger's data went astray, except for what is ``left``."""
        self.state = left
        self.lost_at = self.simulation.now
        self.real = -math.inf
        self.tickets.forget()
        for actor in self.known.values():
            actor.heard, actor.leased_at = False, -math.inf
        newborn = [actor for actor in self._living() if self.lost_at - actor.born < 2 * self.settings.heartbeat]
        self.grace += sum(self._share(actor) for actor in newborn)

    def see_damage(self) -> None:
        """Something was altered; whatever it is, nobody may be let in by it."""
        self.damaged = True

    def see_refusal(self, actor: Actor, awaited: bool) -> None:
        if awaited and actor.process.alive:
            self._object("renamed", f"{actor.id} was told that its newest report is out of order")

    def see_call(self, actor: Actor, report: Report, reply: Reply) -> None:
        if reply.healed:
            self.damaged = False
            self.see_loss(Stored())
            self.simulation.outcome.healed += 1
        before, self.state = self.state, self.simulation.ledger.state
        after = self.state
        now = self.simulation.redis_time()
        elapsed = max(0.0, min(now - self.real, 2 * self.settings.heartbeat))
        self.clock += elapsed
        self.real = now
        actor.clocks[report.seq] = self.clock
        is_equal = (
            after.total == sum(after.counts.values())
            and after.reserve == sum(after.reserves.values())
            and set(after.counts) == after.leased
        )
        if not is_equal and not self.damaged:
            self._object("total", f"{after}")
        if report.draining and actor.born > self.ordered_at:
            self._object("drained young", f"{actor.id}, born {actor.born - self.ordered_at:.1f} s after the last order")
        if reply.total != after.total:
            self._object("total", f"{actor.id} was told {reply.total}, not {after.total}")
        # What a retired worker was configured to no longer counts.
        limit = reply.limit if report.retired else report.limit
        if (reply.granted or reply.ahead) and reply.total > limit:
            self._object("overgranted", f"{reply} for {report}")
        given = reply.granted + reply.ahead
        if reply.settling and given and report.held + given > report.allowance:
            self._object("overgranted", f"{reply} for {report}")
        lost = 0 if actor.heard else report.held
        if (after.total or 0) > max((before.total or 0) + lost, limit):
            self._object("raised", f"from {before.total} to {after.total} by {report}")
        self._see_forgotten(actor, before.counts.keys() - after.counts.keys())
        self.tickets.see_call(report, reply)
        # A copy that comes after a loss of data is no news: what its first arrival was granted, it may not be again.
        is_news = report.seq == actor.sent and report.seq > actor.applied
        actor.heard = actor.id in after.counts and (actor.heard or is_news)
        actor.applied = max(actor.applied, report.seq)
        actor.leased_at = self.clock
        self.see_truth()

    def _see_forgotten(self, reporter: Actor, names: set[str]) -> None:
        for actor in (self.known[name] for name in names & self.known.keys()):
            actor.heard = False
            silence = self.clock - actor.leased_at
            if actor is not reporter and actor in self._living() and silence < self.settings.lease - SLACK:
                self._object("forgotten early", f"{actor.id} after {silence:.3f} s")

    def see_truth(self) -> None:
        held = lost = limit = 0
        for process in self.simulation.processes:
            for actor in process.actors:
                holds, counted = actor.limiter.state.held, self.state.counts.get(actor.id, 0)
                held += holds
                limit = max(limit, actor.limiter.pool.max_connections)
                if not actor.heard:
                    lost += holds
                elif holds > counted and not self.damaged:
                    self._object("undercounted", f"{actor.id} holds {holds}, {counted} counted")
        if held - lost > (self.state.total or 0):
            self._object("unexplained", f"{held} held, {lost} of them lost, {self.state.total} counted")
        excess = held - limit
        outcome = self.simulation.outcome
        outcome.excess = max(outcome.excess, excess)
        if self.simulation.profile.strict and excess > self.grace:
            self._object("over the limit", f"{held} of {limit} held, {self.grace} for newborn workers")
        if excess <= 0 and self.simulation.now - self.lost_at > 2 * self.settings.heartbeat:
            self.grace = 0

    def see_speed(self) -> None:
        """Whether all that have entered until now could, with one bucket."""
        rate, tokens, before = self.terms.rate or math.inf, float(self.terms.burst), 0.0
        for at in sorted(self.entries):
            tokens = min(self.terms.burst, tokens + (at - before) * rate) - 1
            if tokens < -SLACK * rate:
                self._object("too fast", f"entry at {at:.3f} s, {tokens:.3f} tokens left")
            before = at
        self.entries = sorted(self.entries)[-2 * self.terms.burst :]

    def see_equality(self) -> None:
        if self.state.total != sum(self.state.counts.values()):
            self._object("wrong", f"{self.state}")
        if waiting := sum(len(process.asking) for process in self.simulation.processes):
            self._object("unanswered", f"{waiting} handshakes")
        for actor in self._living():
            if actor.limiter.state.away:
                self._object("away", actor.id)
            counted = self.state.counts.get(actor.id, 0) - self.state.reserves.get(actor.id, 0)
            if counted != actor.held:
                self._object("wrong", f"{actor.id} holds {actor.held}, {counted} counted")
            if len(actor.slots) != actor.held:
                self._object("leaked", f"{actor.id} holds {actor.held}, {len(actor.slots)} known to clients")

    def see_no_ghosts(self) -> None:
        self.see_equality()
        if ghosts := set(self.state.counts) - {actor.id for actor in self._living()}:
            self._object("ghost", ", ".join(sorted(ghosts)))
