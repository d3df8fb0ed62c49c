"""The ledger contract.

A ledger keeps, for each pool, the number of slots that every worker holds, and replies to reports. Every ledger
guarantees, after every call:

Counts
    1. The total is the sum of the workers' counts. A worker is counted exactly while its lease runs.
    2. A worker's count is what its latest report held, plus what that report was granted.
    3. Slots are granted only up to the limit: in doubt fewer, never one too many.

       A report may ask for slots ahead of its handshakes, for the worker's reserve. They are granted only in a pool
       that is neither settling, paused nor scarce, where the report's handshakes are not refused and no ticket is
       expected, and so that the reserve is at most one part in :data:`~.core.levels.RESERVE_PARTS` of the worker's part
       of the slots that are free for every class. They count as held until a report gives them back; readings, levels
       and the history leave them out.

       With a rate, each has its token. At any time the tokens in the bucket and in all reserves are together at most
       the burst, so that no more enter than the rate and one burst allow, whenever the reserves are used. All reserves
       together have at most half of the burst, and a worker at most half of its part of the tokens that are left. While
       a pool settles, half of the burst is kept for those that are not known: in a new pool set aside until it has
       settled, after a loss of data that is known, and from a worker of an earlier pool that comes late, lost. A
       worker says which tokens it gives back unused; a worker that is forgotten gives back none. With a slow start, a
       worker without a connection has no reserve, since the next handshake may be the first in an empty pool.
    4. While its worker is counted, a report is applied at most once, and never after one with a higher ``seq``: it then
       raises :exc:`OutOfOrder` and changes nothing.

Leases
    5. The next calls of other workers forget a worker that has been silent for ``lease`` seconds: a bounded number per
       call, and all of them after as many calls as the pool has workers. A worker that says goodbye with no slot held,
       or whose neighbours report its process gone, is forgotten at once. No jump of a clock and no outage ages a lease
       by more than two heartbeats. The pool's clock counts whole milliseconds: a lease ends, and the outflow is
       measured, in the millisecond in which a lease or a heartbeat has passed.

Counters and history
    6. Counters add up over all workers that have reported since a time that every reading tells, each event once. A
       counter that falls adds nothing, and its later rises count from there. The names are bounded:
       :data:`COUNTERS_KEPT`, :data:`COUNTERS_BYTES`. The ledger itself counts the workers that it forgets without a
       goodbye, and names the last :data:`GONE_KEPT` of them with the time. It also keeps the time of the latest
       report of each incident (:data:`~.core.counters.INCIDENTS`), and of the latest loss of data.
    7. The ledger remembers the last :data:`SECONDS` seconds and :data:`MINUTES` minutes of its wall clock: the most
       slots held in each, the limit, and the handshakes decided in it, admitted or refused by reason, each once. The
       handshakes of a report are spread evenly over the seconds since the worker's report before, at most
       :data:`SPREAD`, the second of the report included. Those of a worker that the ledger has forgotten meanwhile
       have no known second, and are left out. A second or minute takes at most :data:`LONGEST_BUCKET` bytes, whatever
       reasons there are.

Quotas and classes
    8. Where a report is shared (:class:`~.core.protocol.Fair`), the slots under each key are counted over all
       workers, and no key is kept without a slot. A claim is granted only up to its quota, and a class is admitted only
       up to its share. Asks are decided in their order. Slots of a reserve are for any class, as free as it was then.

       A worker whose claims were lost is told to report all of them again.

       The claims of a forgotten worker are given back by the next calls, a bounded number in each. Until then its
       reports raise :exc:`Forgotten` and change nothing. Of several such workers the one forgotten last is the first,
       and of those forgotten in one call the one whose name sorts last. A forgotten worker that had no claims goes on
       under its name.

       Attempts under a key with a rate are counted first, the refused ones too, in a bounded number of buckets
       (:mod:`~.core.quotas.attempts`). The buckets are full where the ledger has lost its data.

       A quota that evicts its oldest connection is exceeded by at most as many slots as are known to be older, and at
       most to its double. Each reply says how many of its oldest connections the worker must close, until they are no
       longer counted.
    9. A refusal stores nothing else, and a pool without use disappears.

       What refused clients are promised is counted in the pool's line (:mod:`~.core.herd.line`), of bounded size.
       Tickets that are due are granted first, in the order of their places; others get what is not kept for those that
       are expected, a tenth at least in each grace. A ticket passes no limit, quota or share. It is good once: (place,
       number) is remembered until no copy can be in time, and of copies in one report one counts. A refused handshake
       with a ticket keeps its place and takes no retry time: it is told what is left of its time, a short wait where it
       is due, and in a paused or settling pool one of the schedule. Without that, its ticket was spent.

Overrides and levels
    10. An override holds as soon as it is set, and stays until it is reset. A worker hears of it in its next reply.
        Where the ledger has lost its data, a report that knows newer overrides restores them.

        An order ends when it is done. An enforced limit becomes an ordinary one once the total is within it. A drain of
        all workers or of one worker is removed when no worker drains and a lease has passed, so that every worker has
        heard of it; the worker of the drain must have left before this call. A drain of all workers covers those that
        had registered by the version of the pool that it bears.
    11. A pool's level follows its total and its limit. Each change is told to one worker. It is told again where the
        report's ``version`` shows that the worker has not seen the reply, and to another worker where that one is
        forgotten.
    12. The settings in force are the strictest of those that workers have (:mod:`~.core.agreement`): for a lease after
        the last report of a worker with these settings, and for one and a half heartbeats after its goodbye. The quotas
        and shares of a worker's own settings bind it even after that.

Loss of data
    13. A report with a higher ``version`` than the ledger's shows that the ledger has lost data. A pool without any
        report has lost all of it. The pool then settles: for one and a half of the slowest heartbeat, until all workers
        have reported. A worker with a slower heartbeat that is heard meanwhile extends this time.

        While a pool settles, a worker is granted slots only within its own allowance, its reserve included, and under
        each key only its part of the quota. With a rate there is no reserve meanwhile, and the bucket holds half of the
        burst at most, since the other half may be in reserves that are not known. No level changes, no order ends, and
        no quota is exceeded for an older connection. Clients that are refused for want of allowance, not of slots or
        tokens, get retry times after this time. Where a worker knows more than the ledger, the rate starts with an
        empty bucket. The reports restore the overrides, the level, the settings in force and the version of the pool.

        The counters begin anew at 0, with a later time, at each report that shows a loss. Of a worker's counters only
        what it has not heard to be counted before is added: the sums of before do not come back. Where other data were
        altered or lost, and the counters are whole, they go on.

        Where a worker knows of a later report than the ledger, all claims are lost: the pool settles, and all workers
        report their claims again.
    14. The next call that reads altered data finds the damage, at the latest after one heartbeat (after one heartbeat
        for every 256 workers for a worker's place in the queue of leases). The ledger then settles as after a loss of
        data, and says so once (:attr:`~.core.protocol.Reply.healed`). No call fails by it.

Releases
    15. Workers of releases with another layout (:mod:`~.layout`) are counted apart, and neither reads or writes what
        the other has stored. What they hold counts against the limit and in :attr:`~.core.protocol.Reply.total`, until
        a lease after the last report of one of them. Overrides hold for all, and no drain ends while there are any.
        Quotas, classes and rates hold for each layout alone.

The memory ledger loses nothing while its process lives. A new pool in it therefore does not settle, and settings count
until the goodbye of their last worker. In tests it is made ``volatile``, and then follows the contract to the letter.

Calls come from one event loop at a time and may be cancelled; a cancelled or failed call may still have been applied.
Faults are :exc:`~.exceptions.LedgerUnavailable` and :exc:`~.exceptions.LedgerRefused`, and nothing else.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol

from ..core.overrides import Controls
from ..core.protocol import Reply, Report
from ..core.readings import Past, Reading
from ..exceptions import LedgerError

SETTLING = 1.5
"""Heartbeats of the slowest worker for which a pool settles: all are heard within one, and half of one is spare."""
SECONDS = 900
"""Seconds that a ledger remembers, the current one included."""
MINUTES = 1440
"""Minutes that a ledger remembers."""
SPREAD = 300
"""Most seconds over which the handshakes of a late report are spread."""
LONGEST_BUCKET = 68
"""Most bytes of a second or a minute as text; the reasons without room share a name."""
LEASES_PER_CALL = 4
"""Workers whose lease one call looks at; more, where the lease of one of them has run out."""
REAPED_PER_CALL = 100
"""Most workers that one call forgets."""
SWEPT_PER_CALL = 200
"""Keys, about, under which one call gives back a dead worker's claims."""
COUNTERS_KEPT = 256
"""Most names of counters that a pool keeps; further ones are left out."""
COUNTERS_BYTES, COUNTER_BYTES = 24_576, 80
"""Most bytes of all counters of a report, and of one of them, as ``name=count``; longer ones add nothing."""
GONE_KEPT = 5
"""Workers without a goodbye that a pool names, the last ones."""
EDGES_KEPT = 16
"""Most changes of the level that wait to be told; the oldest beyond these are dropped."""
LATELY = 300
"""Seconds whose handshakes a :class:`~.core.readings.Reading` has."""


class OutOfOrder(LedgerError):
    """The ledger has seen this or a later report under the worker's name: two workers share it."""


class Forgotten(LedgerError):
    """The lease has run out, and the claims under the worker's name are still to be given back.

    The worker needs another name.
    """


class Ledger(Protocol):
    """One event loop's access to the shared counts. See the module for the contract."""

    kind: str
    """``redis`` or ``memory``."""
    address: str
    """The ledger's address for people, without a password."""

    async def connect(self, within: float) -> None:
        """Prepare for calls ``within`` seconds, so that each takes no longer than an exchange.

        A call that finds nothing prepared does it itself, at the pace of a worker that is called again.
        """

    async def reconcile(self, pool: str, report: Report) -> Reply:
        """Apply a report and reply to it, in one atomic step."""

    async def read(self, pools: tuple[str, ...]) -> tuple[Reading, ...]:
        """Read the pools, changing nothing, in one exchange."""

    async def control(self, pool: str, controls: Controls, replaced: int) -> bool:
        """Set ``controls`` under a new version; return False, having changed nothing, unless version ``replaced`` is in
        force."""

    async def past(self, pool: str, *, minutes: bool = True) -> Past:
        """The history of a pool, changing nothing; without ``minutes`` if these are not wanted."""

    async def aclose(self) -> None:
        """Close all connections; may be called more than once, and while a call is being cancelled."""


TICKS = 10
"""Ticks of a wait. A late tick counts once: a busy event loop is not a silent ledger."""


async def done_within(tasks: Iterable[asyncio.Future[Any]], seconds: float) -> bool:
    """Whether one of ``tasks`` is done within ``seconds``; those that are not go on."""
    for _ in range(TICKS):
        done, _ = await asyncio.wait(tasks, timeout=seconds / TICKS)
        if done:
            return True
    return False
