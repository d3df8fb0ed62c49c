"""What ``ws_status --json`` prints, and how ``ws_status`` ends, for its ``--help``."""

from .. import diagnostics

SHAPE = (
    """\
--json prints one object. Fields may be added, and none changes its meaning:

  taken      when, in UTC, ISO 8601
  enabled    false when nothing is refused or counted
  ledger
    kind     "redis", "memory" or another
    address  where it is
    health   "ok", "settling" (started empty or lost its data) or "down"
    error    why it is down, else null
  pools      a list, empty when the ledger is down
    name
    held     slots held by all workers
    limit    slots in the pool, as in force
    configured  slots in the pool by the settings
    free     slots left
    share    held / limit; may pass 1 after the limit was lowered
    warn_at  the share from which the level is "warning"
    level    "calm", "warning", "critical" or "full"
    admitted connections let in so far
    refused  connections refused so far, by reason: "full", "rate",
             "settling", "crowd", "ledger", "paused", "draining", "share",
             "quota:NAME", "attempts:NAME", or the monitor that refused
    shed     connections closed so far because memory ran out
    channels_full  connections that a full channel ended so far
    classes  slots held by each class that has a share, and by the exempt
    overdue  connections closed so far that nobody had authenticated in time
    drained, aged  the same, by a drain, and at MAX_CONNECTION_AGE
    evicted  the same, since a newer one took their place under a quota
    unaccepted  connections refused after all at ACCEPT_DEADLINE, so far
    outlived  connections taken back so far from a handler that had not
             accepted when its client left, or went on for longer than
             DISCONNECT_GRACE after that
    paused   whether an operator lets nobody in
    dry_run  whether nobody is refused
    would_refuse  those whom a dry run would have refused or closed,
             by reason
    alert    the level as alerts tell it: it falls 5 points later
    differs  settings in which workers differ, by name, each a list with the
             value in force first; times in milliseconds
      value    null where it is unset
      number   workers that have it
      workers  the ids of the first few
    controls what operators have set
      version
      limit, paused, dry_run  null where the settings are in force
        value    slots; 1; 1 or 0
        by, at   who, and when: Unix time
        over     for a limit: seconds in which those beyond it are closed
      drains     a list
        target   a worker, a host, or "*" for all workers
        over     seconds it takes
        by, at
        version, clock  the pool's, when it was ordered
    connects handshakes decided in the last five minutes
      total
      median handshakes in a second, half of all seconds having fewer
      worst  a list, the worst seconds first
        at         the second, Unix time
        handshakes admitted and refused in it
    healed   times that damaged counts in the ledger were put right
    faults   unexpected exceptions so far in the workers' heartbeats, by kind
    calls    the workers' exchanges with the ledger so far
      made   one may decide many handshakes
      failed
      seconds that all of them took
    workers  a list
      id         host:pid:nonce
      host, pid
      server     "daphne", "granian", "hypercorn", "uvicorn" or ""
      held       slots held by this worker
      last_beat  seconds since its last report
      uptime     seconds since it started
      draining   whether it closes its connections and takes no others
      faults     its unexpected exceptions, by kind
      load       a list, one for each monitor
        name       "lag", "memory", "descriptors", "cpu" or one of yours
        reading    seconds for the lag (p99), else a share; null where unknown
        median, longest  of the lag (p50 and max), where there is one; else null
        pressure   from 0, nobody is refused, to 1, everybody

--advise --json prints one object instead: the text of each file by its path.

The exit code is 0, or 2 with one line on stderr when the ledger cannot be read.

--check prints one line by the guidelines for monitoring plugins, the pools and
then 'pool NAME'=held;warning;critical;0;limit for each. The exit code is 0, 1
or 2 as the worst pool is below the warning, from it on or letting nobody in, or
from the critical threshold on; 3 when that is unknown, as with the ledger down,
or asked wrongly.

--watch ends with 0 at Ctrl-C, and with 143 when it is terminated.

"""
    + diagnostics.SHAPE
)
