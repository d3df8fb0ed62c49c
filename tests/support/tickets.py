"""The tickets of a simulation: clients that keep theirs, and what a judge calls wrong.

A client that is refused comes again in time, early, late, with copies of its ticket at several processes, or never.
Some newcomers show a forged ticket or an old one. The judge compares what the ledger makes of the tickets with what it
must know of them:

- *twice*: a ticket that was redeemed is good again: it keeps a place, or is granted before handshakes that arrived
  earlier. The ledger need not remember it after a loss of data, or longer than it promises to.
- *sent behind*: a client with a good ticket is refused and loses its place, or the time of it while it is early.
- *overtaken*: a later place is granted and an earlier one refused, both due.
- *forged*: the ledger is shown a ticket that nobody was given.
"""

from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from channels_admission import conf
from channels_admission.conf import DEFAULT_POOL
from channels_admission.core.herd.line import AGAIN, EARLY, GRACE, LATE
from channels_admission.core.herd.tickets import Signer, Ticket
from channels_admission.core.protocol import Refusal, Reply, Report
from channels_admission.core.quotas.quota import MENDED_BY_TIME

if TYPE_CHECKING:
    from support.simulation import Simulation

RETURNS = {"never": 60, "in time": 22, "early": 4, "late": 4, "copied": 10}
"""When a refused client comes again, per cent."""
COPIES = 3
ODD = {"": 96, "forged": 2, "old": 2}
"""What newcomers show, per cent."""
SLACK = 0.005
"""Seconds within which the judge and a ledger may differ on whether a ticket is in time."""

Name = tuple[float, int]
"""Place and number of a ticket, by which it is good once."""


class Holders:
    """The clients that have been refused."""

    def __init__(self, simulation: "Simulation") -> None:
        self._simulation = simulation
        self._rng = simulation.rng
        self._signer = Signer(DEFAULT_POOL, conf.ticket_secrets())
        self._forgers = [Signer("another", conf.ticket_secrets()), Signer(DEFAULT_POOL, [b"another"])]
        self._old: deque[str] = deque(maxlen=500)

    def _count(self, kind: str) -> None:
        self._simulation.outcome.tickets[kind] += 1

    def of_newcomer(self) -> str:
        """The ticket that a new client shows, mostly none."""
        (kind,) = self._rng.choices(list(ODD), ODD.values())
        if not kind or (kind == "old" and not self._old):
            return ""
        self._count(kind)
        if kind == "old":
            return self._rng.choice(self._old)
        now = self._simulation.redis_time()
        return self._rng.choice(self._forgers).write(Ticket(now, now, self._rng.getrandbits(32)))

    def keep(self, refusal: Refusal) -> Ticket | None:
        """The client has been refused, and may come again; its ticket."""
        rng, told = self._rng, refusal.retry_after
        (fate,) = rng.choices(list(RETURNS), RETURNS.values())
        self._count(fate)
        self._old.append(refusal.ticket)
        delays = {
            "never": [],
            "in time": [told + rng.uniform(0, 0.2)],
            "early": [rng.uniform(0, told)],
            "late": [told + rng.uniform(GRACE, 2 * GRACE)],
            "copied": [told + rng.uniform(0, GRACE) for _ in range(COPIES)],
        }
        for delay in delays[fate]:
            self._simulation.later(delay, lambda: self._return(refusal.ticket))
        return self._signer.read(refusal.ticket, self._simulation.redis_time())

    def _return(self, text: str) -> None:
        if not self._simulation.quiet:
            process = self._rng.choice(self._simulation.processes)
            process.do(lambda: process.knock(text))


class TicketJudge:
    """Compares what a ledger makes of tickets with what it must know; tells ``object_to`` what is wrong.

    ``clock`` is the ledger's. What became of tickets is ``counted``.
    """

    def __init__(
        self, clock: Callable[[], float], counted: Counter[str], object_to: Callable[[str, str], None]
    ) -> None:
        self._clock = clock
        self._counted = counted
        self._object = object_to
        self._given: set[Name] = set()
        self._redeemed: dict[Name, float] = {}
        """Tickets that the ledger must know to be redeemed, each until when."""
        self._used: set[Name] = set()
        """Tickets that may be good no more: redeemed ever, copied in one report, or late."""

    def forget(self) -> None:
        """The ledger may have lost what it knew."""
        self._redeemed.clear()

    def see_verdict(self, shown: Ticket | None, given: Ticket | None, reason: str) -> None:
        """A client has ``shown`` a ticket, or none, and is admitted, or refused for a ``reason`` and ``given`` one."""
        if given is not None:
            self._given.add(_name(given))
        if shown is None:
            return
        if not reason:
            self._used.add(_name(shown))
        elif _name(shown) not in self._used and (given is None or _name(given) != _name(shown)):
            self._object("sent behind", f"{shown} became {given}, refused as {reason}")

    def see_call(self, report: Report, reply: Reply) -> None:
        if not report.shown:
            return
        call = self._sort(report, reply)
        self._see_spent(call)
        self._see_good(call)
        for handshake in call.granted & call.good.keys():
            ticket = call.good[handshake]
            self._used.add(_name(ticket))
            longest = max(report.terms.retry_after[1], AGAIN)
            self._redeemed[_name(ticket)] = max(ticket.place, call.now) + longest + GRACE + LATE
            self._counted["redeemed"] += 1

    def _sort(self, report: Report, reply: Reply) -> "Presented":
        now, seen = self._clock(), set[Name]()
        self._redeemed = {name: ends for name, ends in self._redeemed.items() if now < ends - SLACK}
        call = Presented(report, reply, now)
        for handshake, ticket in sorted(report.shown, key=lambda each: (each.ticket.place, each.handshake)):
            name, late = _name(ticket), now - ticket.due - GRACE - LATE
            if name not in self._given:
                self._object("forged", f"{ticket} in {report}")
            if name in self._redeemed or name in seen:
                call.spent.append(handshake)
            elif late < SLACK and ticket.place < now + EARLY + SLACK:
                call.due.append(handshake)
            if handshake in call.spent or late > -SLACK:
                self._used.add(name)
            elif name not in self._used:
                call.good[handshake] = ticket
            seen.add(name)
        return call

    def _see_spent(self, call: "Presented") -> None:
        """Those that are spent are served as handshakes without a ticket, in the order of arrival."""
        others = call.reply.granted - len(call.granted.intersection(call.due))
        for handshake in call.spent:
            self._counted["spent"] += 1
            rank = handshake - sum(each < handshake for each in call.due)
            is_first = handshake in call.granted and rank >= others and not call.is_shared
            if call.waits.get(handshake) is not None or is_first:
                self._object("twice", f"handshake {handshake} of {call.spent}, due {call.due}: {call.reply}")

    def _see_good(self, call: "Presented") -> None:
        due = {each: ticket.place for each, ticket in call.good.items() if ticket.place < call.now + EARLY - SLACK}
        last = max((place for each, place in due.items() if each in call.granted), default=0.0)
        for handshake in call.unserved & call.good.keys():
            ticket, wait = call.good[handshake], call.waits.get(handshake)
            if due.get(handshake, last) < last and not call.is_shared:
                self._object("overtaken", f"{ticket} is refused, and one of {last} is granted")
            is_early = ticket.place > call.now + EARLY + SLACK
            if wait is None or (is_early and abs(wait - (ticket.place - call.now)) > SLACK):
                self._object("sent behind", f"{ticket} is told to wait for {wait} at {call.now}")


class Presented:
    """The handshakes of one report that show tickets. In a shared pool, quotas and classes may change their order."""

    def __init__(self, report: Report, reply: Reply, now: float) -> None:
        self.reply, self.now = reply, now
        self.is_shared = report.fair is not None
        self.waits = {turn.handshake: turn.wait for turn in reply.turns}
        verdicts = {each.handshake: reply.verdicts[each.handshake] for each in report.shown if self.is_shared}
        self.granted = {each for each, reason in verdicts.items() if not reason} or set(reply.granted_shown)
        mended = {each.handshake for each in report.shown} - {
            each for each, reason in verdicts.items() if reason not in MENDED_BY_TIME
        }
        self.unserved = mended - self.granted
        """Those that are refused for a reason that time mends."""
        self.due: list[int] = []
        """Those that may be due."""
        self.good: dict[int, Ticket] = {}
        self.spent: list[int] = []


def _name(ticket: Ticket) -> Name:
    return ticket.place, ticket.number
