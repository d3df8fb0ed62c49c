"""The JSON and the exit codes of ``ws_status``, as ``--help`` describes them."""

from ...status import diagnostics

SCHEMA = (
    """\
--json prints one object. Fields may be added; if a field changes its meaning
or goes, the format rises:

  format     1
  release    version of the package that prints it
  taken      UTC, ISO 8601
  enabled    false when nothing is refused or counted
  ledger
    kind     "redis", "memory" or another
    address  where it is
    health   "ok", "settling" (started empty or lost its data), "late" (it
             answers later than LEDGER_TIMEOUT allows) or "down"
    error    why it is down, else null
    took     seconds that reading it took
  pools      a list, empty when the ledger is down
    name
    held     slots held by all workers
    limit    slots in the pool, in force
    configured  slots in the pool by the settings
    free     slots left
    share    held / limit; may exceed 1 after the limit was lowered
    warn_at  the share from which the level is "warning"
    level    "calm", "warning", "critical" or "full"
    state    "paused" or "draining" while every new connection is refused for
             that, else the level
    admitted connections admitted so far
    refused  connections refused so far, by reason: "full", "rate",
             "settling", "crowd", "entrance", "ledger", "paused",
             "draining", "share", "worker_full", "quota:NAME",
             "attempts:NAME", or the monitor that refused
    shed     connections closed so far because memory ran out
    channels_full  connections ended by a full channel so far
    layer_failed  connections ended so far because the channel layer failed
    classes  slots held by each class that has a share, and by exempt
             connections
    overdue  connections closed unauthenticated at their deadline so far
    none_authenticated  whether PENDING_DEADLINE has come for connections, and
             no connection has ever authenticated
    drained, aged  connections closed by a drain, and at MAX_CONNECTION_AGE
    evicted  connections closed for a newer one under the same quota
    delayed  handshakes so far that were admitted and had to wait at the
             entrance
    promised, redeemed, missed  tickets given to refused clients so far,
             handshakes admitted with one, and those whose ticket came late
    refusals_held  refusals so far that were held before they were sent
    passed   refusals so far that a balancer answers by trying another worker
    unaccepted  connections refused at ACCEPT_DEADLINE so far
    outlived  handlers cancelled so far that had not accepted when their
             client left, or ran on for longer than DISCONNECT_GRACE
    paused   whether an operator has paused admissions
    dry_run  whether a dry run refuses no connection
    would_refuse  connections that a dry run would have refused or closed,
             by reason
    alert    the level for alerts: it falls 5 points below where it rises
    differs  settings in which workers differ, by name, each a list with the
             value in force first; times in milliseconds
      value    null where it is unset
      number   workers that have it
      workers  the ids of the first few
    site     a number that stands for the workers' site; null where it is
             unknown, or "differs" has several, which share a PREFIX
    settings  the fingerprint of the settings that must agree; null where it is
             unknown, or workers have different ones
    now      Unix time by the ledger's clock, as are all times of the pool
    since    Unix time since which all numbers "so far" count, later after each
             loss of data; null while they are not known, and then 0
    elsewhere  workers of versions whose counts are kept apart, as may be during
             a rolling deployment
      held     their slots, which "held" above includes
      workers  their number, without those that drain
    speed    connections per second that the workers have lately taken, all
             together; null where unknown
    reserve  free slots that workers keep counted for their next handshakes
    controls overrides: what operators have set
      version
      limit, paused, dry_run  null where the settings are in force
        value    slots; 1; 1 or 0
        by, at   the operator's name, and the Unix time
        over     of a limit: seconds in which connections beyond it are closed
      drains     a list
        target   a worker, a host, or "*" for all workers
        over     seconds that it takes
        by, at
        version, clock  of the pool when the drain was set
    connects handshakes decided in the last five minutes
      total
      median handshakes per second
      worst  a list of the seconds with the most handshakes, most first
        at         Unix time
        handshakes admitted and refused in this second
      refused  those refused, by reason
      refused_at  Unix time of the latest second with a refusal; null without
             any
    healed   repairs of damaged counts in the ledger so far
    lost     workers so far that were gone, or silent for their lease, without
             a goodbye
    lost_workers  the last of them, a list
      host, pid
      at     Unix time at which the ledger forgot it
    latest   Unix time of the latest report of each incident, by its name here:
             "shed", "channels_full", "layer_failed", "unaccepted", "healed",
             "lost", "events_dropped", "faults"; and "data_lost", when the
             ledger was found to have lost its data
    events_dropped  signals, mails and webhooks dropped so far because
             the queue was full
    faults   unexpected exceptions so far, by kind: in the workers' heartbeats,
             and in functions of the site (CLASSIFY, QUOTAS.NAME, PRESSURE.NAME)
    calls    the workers' calls to the ledger so far
      made   one call may decide many handshakes
      failed
      seconds that all calls took
    call_times  how long these calls took
      number
      seconds
      within   number of those that took at most so many seconds, by "0.001"
               to "inf"
    waits    how long the handshakes admitted so far waited, for their
             verdict and at the entrance, in the same manner
    workers  a list
      id         host:pid:nonce
      host, pid
      server     "daphne", "granian", "hypercorn", "uvicorn" or ""
      release    version of the package that it runs, or ""
      held       slots held by this worker
      silence    seconds since its last report
      uptime     seconds since it started
      draining   whether it refuses new connections and closes its own
      faults     its unexpected exceptions, by kind
      calls      its calls to the ledger, as above
      failing    calls failed since the last that succeeded; above 0 it decides
                 alone
      shed       connections that it closed because memory ran out
      layer_failed  connections ended because the channel layer failed
      accepting  connections that their consumer has not accepted yet
      jobs_waiting  jobs of sync code that wait for its thread
      threads_busy  threads of sync code that run a job
      settings   the fingerprint of its settings; "" where unknown
      reserve    free slots that it keeps counted for its next handshakes
      silent     whether it has not reported for two heartbeats and a second
      load       a list, one for each monitor
        name       "lag", "memory", "descriptors", "cpu", "threads" or one of
                   yours
        reading    seconds for the lag (p99) and the threads, else a share; null
                   where unknown
        median, longest  p50 and max of the lag; null where unknown
        pressure   share of handshakes refused, 0 to 1

--history prints one object, with or without --json:

  format     1
  pools      an object; each pool by its name
    pool     its name
    now      Unix time by the ledger's clock
    error    why the ledger cannot be read, else null
    seconds  the last 15 minutes; the last point is not over yet
      step     seconds from one point to the next
      start    Unix time of the first point
      held     most slots held; null where no worker had reported
      limit    slots in the pool; null likewise
      admitted connections admitted
      refused  connections refused, a list for each reason
    minutes  the last 24 hours, likewise

--advise --json prints one object: the text of each file by its path.

The exit code is 0, or 2 with one line on stderr when the ledger cannot be read.

--check prints one line by the Monitoring Plugins guidelines: the pools, then
'pool NAME'=held;warning;critical;0;limit and 'pool NAME refused'=number;0 for
each. The worst pool gives the exit code:

  2  no client is admitted: the pool is full or paused, no worker is known, or
     each is silent, draining, or saturated by a monitor; or the slots held are
     outside the critical range
  1  a worker is silent or decides alone, a monitor refuses, connections were
     refused in the last five minutes, the ledger settles, only other pools have
     workers, one of the incidents under "latest" was reported in the last five
     minutes, workers differ in settings or site, no connection has ever
     authenticated, or the slots held are outside the warning range
  3  the state is unknown, as with the ledger down, or the arguments are wrong
  0  otherwise, and in a dry run for what then refuses no client

Refusals by a quota, by a pause and by a drain do not count as those of the last
five minutes. -w and -c take per cent of the limit as Nagios plugins do: 80
alerts above 80, 10:80 also below 10, and @10:20 from 10 to 20.

--watch ends with 0 on Ctrl-C, and with 143 on SIGTERM.

"""
    + diagnostics.SCHEMA
)
