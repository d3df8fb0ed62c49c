"""The ledger contract.

A ledger keeps, for each pool, how many slots every worker holds, and answers reports. Whatever
its storage, it promises after every call:

1. The total is the sum of the workers' counts, and a worker is counted exactly while it is leased.
2. A worker's count is what its latest report held, plus what that report was granted.
3. Slots are granted only up to the limit; fewer, down to none, rather than one too many. While
   the ledger settles after losing data, a worker is granted only what its own allowance covers.
4. A report is applied at most once, and never after one with a higher ``seq``: it then raises
   :exc:`OutOfOrder` and changes nothing.
5. A worker unheard for ``lease`` seconds is forgotten by the next calls of others, a bounded
   number per call, and after as many calls as a pool has workers at the latest; a worker that says
   goodbye with nothing held, or whose neighbours report its process gone, at once. No jump of any
   clock and no outage ages a lease by more than two beats. The pool's clock counts whole milliseconds: leases end,
   and the outflow is measured, in the millisecond in which a lease or a beat has passed.
6. Counters add up over all workers that ever reported, each event once. A counter that falls adds nothing, and its
   later rises count from there. Names are bounded: :data:`COUNTERS_KEPT`, :data:`COUNTERS_BYTES`.
7. It remembers the last :data:`SECONDS` seconds and :data:`MINUTES` minutes of its wall clock: the most slots
   counted in each, the limit, and the handshakes decided in it, admitted or refused by reason, each once:
   evenly over the seconds since the worker's report before, at most :data:`SPREAD`, up to that in which
   they are told. Those of a worker it has forgotten meanwhile have no second, and are left out. A moment
   takes at most :data:`LONGEST_MOMENT` bytes, whatever reasons there are.
8. Where a report is shared (:class:`~.protocol.Fair`), each key is counted by all workers together, with no key
   of nobody: a claim is granted only up to its quota, a class admitted only up to its share. Asks are decided in
   their order. A worker whose claims were lost is told to tell them all again; none is granted on top of what it
   has meanwhile. Those of a forgotten worker are given back by the next calls, a bounded number in each; until
   then its reports raise :exc:`Forgotten` and change nothing. Of several such workers the one forgotten last is the
   first, and of those forgotten in one call the one whose name sorts last. A forgotten worker that had no claims goes
   on under its name.
   Attempts under a key with a rate are counted before all else, also those that are refused, in a bounded number of
   buckets (:mod:`~.attempts`), which are full where the ledger has lost its data.
   A quota whose oldest connection gives way is exceeded by as many as are known to be older, never twofold; each
   answer says how many of the worker's oldest connections are beyond the maximum, until they are counted no more.
9. A refusal stores nothing else of its own, and a pool nobody uses disappears.
   What refused clients are promised is counted in the pool's line (:mod:`~.core.line`), of bounded size. Tickets that
   are due are granted first, in the order of their places; others get what is not kept for those that are expected,
   a tenth at least in each grace. A ticket passes no limit, quota or share. It is good once: (place, number) is
   remembered until no copy can be in time, and of copies in one report one counts. A refused handshake with a ticket
   keeps its place and takes no retry time: it is told what is left of its time, a short wait where it is due, and in a
   paused or settling pool one of the schedule. Without that, its ticket was spent.
10. What operators have set holds from the moment it is set, and while it is set it does not disappear. A report
   that knows newer controls brings them back, where the ledger has lost its data.
   An order ends when it is done: an enforced limit is a mere one once the total is within it; a drain of all or of a
   worker is gone when no worker drains and a lease has passed, so that everybody has heard of it. A drain of all is
   of those that had registered by the version of the pool that it bears.
11. A pool's level follows its total and its limit, but not while the ledger settles. Each change of it is told to
    one worker, again only where it has not seen the answer (a report's ``version`` tells), to another where it is gone.
12. The settings in force are the strictest of those that workers have (:mod:`.agreement`), for a lease after the last
    report of a worker that has them, and for one and a half beats after its goodbye (in memory until its goodbye); also
    while a ledger that has lost its data settles, as long as workers remember them. It settles for one and a half of
    the slowest heartbeat about.
13. What something else has altered in its storage is found by the next call that reads it, at the latest one heartbeat
    later (a worker's place in the queue of leases: in a heartbeat for every 256 workers). The ledger then settles as
    after a loss of data, and says so once (:attr:`~.protocol.Reply.healed`). No call fails by it.

Calls come from one event loop at a time and may be cancelled; a cancelled or failed call may
still have been applied. Faults are :exc:`~.exceptions.LedgerUnavailable` and
:exc:`~.exceptions.LedgerRefused`, and nothing else.
"""

from typing import Protocol

from ..core.overrides import Controls
from ..core.protocol import Reply, Report
from ..core.readings import Past, Reading
from ..exceptions import LedgerError

SECONDS = 900
"""Seconds that a ledger remembers, the one that runs included."""
MINUTES = 1440
"""Minutes that it remembers."""
SPREAD = 300
"""Seconds at most over which handshakes are spread that were told late."""
LONGEST_MOMENT = 68
"""Bytes at most that a second or a minute takes as text; reasons for which there is no room share a name."""
REAPED_PER_CALL = 100
"""Workers that one call forgets at the most."""
SWEPT_PER_CALL = 200
"""Keys under which one call gives back a dead worker's claims, about."""
COUNTERS_KEPT = 256
"""Names of counters that a pool keeps, the first that came."""
COUNTERS_BYTES, COUNTER_BYTES = 24_576, 80
"""Bytes at most of all counters of a report, and of one of them, as ``name=count``; longer ones add nothing."""
EDGES_KEPT = 16
"""Changes of the level that wait to be told; the oldest beyond them are forgotten."""
LATELY = 300
"""Seconds whose handshakes a :class:`~.types.Reading` has."""


class OutOfOrder(LedgerError):
    """The ledger has seen this or a later report under the worker's name: two workers share it."""


class Forgotten(LedgerError):
    """The lease ran out, and the claims under the worker's name are still being given back: it needs another name."""


class Ledger(Protocol):
    """One event loop's access to the shared counts. See the module for the contract."""

    kind: str
    """What it is, in a word: ``redis`` or ``memory``."""
    address: str
    """Where it is, for people; never holds a password."""

    async def reconcile(self, pool: str, report: Report) -> Reply:
        """Apply a report and answer it, in one atomic step."""

    async def read(self, pools: tuple[str, ...]) -> tuple[Reading, ...]:
        """Look at the pools, changing nothing. One exchange for all of them."""

    async def control(self, pool: str, controls: Controls, replaced: int) -> bool:
        """Set ``controls``, under a new version; False, and nothing done, unless version ``replaced`` is in force."""

    async def past(self, pool: str, *, minutes: bool = True) -> Past:
        """What it remembers of a pool, changing nothing; of the ``minutes`` only if they are wanted."""

    async def aclose(self) -> None:
        """Let go of every connection; may be called more than once, and while a call is cancelled."""
