"""The tickets that one report shows, and those that were redeemed."""

from bisect import bisect_left
from collections.abc import Callable, Collection
from heapq import heappop, heappush

from ...core.herd.line import GRACE, LATE, Line, forgotten_at, is_again, is_due
from ...core.herd.tickets import Ticket
from ...core.protocol import Shown, Turn


class Redeemed:
    """The tickets that were good already, for as long as a copy may be shown in time."""

    def __init__(self) -> None:
        self._tickets: set[tuple[float, int]] = set()
        self._ends: list[tuple[float, tuple[float, int]]] = []
        """A heap of when each is forgotten."""

    def has(self, ticket: Ticket, now: float) -> bool:
        self._forget(now)
        return (ticket.place, ticket.number) in self._tickets

    def add(self, ticket: Ticket, now: float, longest: float) -> None:
        """Redeem a ticket; ``longest`` is the upper bound of ``RETRY_AFTER``."""
        self._forget(now)
        self._tickets.add(identity := (ticket.place, ticket.number))
        heappush(self._ends, (forgotten_at(ticket, now, longest), identity))

    def _forget(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            self._tickets.discard(heappop(self._ends)[1])


class Presented:
    """The tickets that one report shows: those that are due, those that are early, and those that are spent.

    Spent are those that were redeemed before, come too late, or are shown twice.
    """

    def __init__(self, shown: tuple[Shown, ...], redeemed: Redeemed, line: Line, now: float) -> None:
        self._redeemed, self._line, self.now = redeemed, line, now
        self._due: dict[int, Ticket] = {}
        self._early: dict[int, Ticket] = {}
        self._spent: list[int] = []
        seen: set[tuple[float, int]] = set()
        for handshake, ticket in sorted(shown, key=lambda each: (each.ticket.place, each.handshake)):
            identity = ticket.place, ticket.number
            if identity in seen or now > ticket.due + GRACE + LATE or redeemed.has(ticket, now):
                self._spent.append(handshake)
            elif is_due(ticket, now):
                line.show(ticket.due, again=is_again(ticket))
                self._due[handshake] = ticket
            else:
                self._early[handshake] = ticket
            seen.add(identity)

    @property
    def due(self) -> tuple[int, ...]:
        """The handshakes whose tickets are due, in the order of their places."""
        return tuple(self._due)

    def among_first(self, others: int) -> tuple[int, ...]:
        """The other handshakes with tickets that are among the first ``others`` of all handshakes that are not due."""
        due = sorted(self._due)
        return tuple(each for each in (*self._early, *self._spent) if each - bisect_left(due, each) < others)

    def redeem(self, granted: Collection[int], longest: float) -> None:
        """Redeem the tickets of the handshakes that are ``granted``."""
        for handshake in granted:
            if ticket := self._due.get(handshake) or self._early.get(handshake):
                self._redeemed.add(ticket, self.now, longest)
                if handshake in self._early:
                    self._line.show(ticket.place)

    def keeping(self, refused: Collection[int]) -> int:
        """How many of the ``refused`` keep the time of their ticket."""
        return sum(each in self._due or each in self._early for each in refused)

    def turns(
        self, refused: Collection[int], low: float, waits: Callable[[int], tuple[float, ...]]
    ) -> tuple[Turn, ...]:
        """The answers to the ``refused``; ``waits`` says for so many that are due how long each waits."""
        due = [each for each in self._due if each in refused]
        turns = tuple(map(Turn, due, waits(len(due))))
        early = [Turn(each, self._left(ticket, low)) for each, ticket in self._early.items() if each in refused]
        spent = [Turn(each, None) for each in self._spent if each in refused]
        return (*turns, *early, *spent)

    def _left(self, ticket: Ticket, low: float) -> float:
        """What is left of a ticket's time. One that will come later than that is expected then."""
        left = round(ticket.place - self.now, 3)
        if left < low:
            self._line.show(ticket.place)
            self._line.promise(self.now + low, again=True)
        return left
