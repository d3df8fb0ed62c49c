"""The product in a simulated world where everything fails, and proof that the simulation would notice.

A failure says its seed; ``SIMULATION_SEED`` in the environment replays it.
"""

import os
import random

import pytest

from channels_admission.limiter.books.state import State

from support.reports import reserving
from support.simulation import ALL, BIRTHS, EMBEDDED, FATES, HERDS, LOSS, NET, ORDERS, RUSH, Simulation
from support.tickets import RETURNS

WORKERS, HEARTBEAT, LEASE = 8, 1.0, 10.0
TICKETS = {*RETURNS, "forged", "old", "redeemed", "spent"}
PROFILES = pytest.mark.parametrize(
    ("profile", "ledger"),
    [
        pytest.param(NET, "redis", id="net"),
        pytest.param(RUSH, "redis", id="rush"),
        pytest.param(HERDS, "redis", id="herds"),
        pytest.param(LOSS, "redis", id="loss"),
        pytest.param(BIRTHS, "redis", id="births"),
        pytest.param(ALL, "redis", id="all"),
        pytest.param(ORDERS, "redis", id="orders"),
        pytest.param(EMBEDDED, "memory", id="embedded"),
    ],
)

NO_FENCE = {"records.is_late": "function() return false end"}
REAL_CLOCK = {"clock.advanced": "function() return clock.now end"}
NO_ECHO = {"clock.is_behind": "function() return false end"}
EMPTY_IS_SETTLED = {"clock.must_settle": "function() return clock.has_lost end"}
FORGETFUL = {"pool.next_version": "function() return math.max(1, report.version) end"}
FREE_TOKENS = {"rate.take": "function() rate.full_at = 0 end"}
FULL_BUCKET = {"rate.hold": "function() end"}
GOOD_AGAIN = {"tickets.used": "function() return {} end"}
SOON = {"tickets.left": "function() return report.retry_low end"}
LAST_FIRST = {
    "tickets.grant": """function(first, others)
      local granted, unserved = {}, {}
      for i = 1, first do granted[tickets.due[#tickets.due + 1 - i]] = true end
      for _, handshake in ipairs(tickets.among_first(others)) do granted[handshake] = true end
      for handshake in pairs(tickets.of) do unserved[handshake] = not granted[handshake] or nil end
      return tickets.decide(granted, unserved)
    end"""
}


class Trusting(State):
    """Takes the ledger to count what it last counted, whether or not a smaller report has arrived since."""

    def begin_report(self, *args, **kwargs):
        allowance = self.allowance
        report = super().begin_report(*args, **kwargs)
        self.allowance = allowance
        return report


@pytest.fixture
def simulate(admission, redis_server):
    """``simulate(profile, seed, calls, ledger, …)`` makes one run and returns its outcome."""

    def run(profile, seed, calls, ledger="redis", *, until=frozenset(), **changes):
        settings = admission(
            LEDGER=redis_server.url if ledger == "redis" else "memory", LEASE=LEASE, HEARTBEAT=HEARTBEAT,
            MAX_CONNECTIONS=profile.limit, EXPECTED_WORKERS=WORKERS, WHEN_LEDGER_DOWN="freeze",
            CONNECT_RATE=profile.rate, CONNECT_BURST=profile.burst,
            LEDGER_TIMEOUT=0.25,  # of simulated time, in which no machine is busy
        )  # fmt: skip
        with reserving(1):
            return Simulation(settings, profile, seed, **changes).run(calls, until=until)

    return run


def seed_or(default: int) -> int:
    return int(os.environ.get("SIMULATION_SEED", default))


def any_seed() -> int:
    return random.SystemRandom().randrange(10**9)


@PROFILES
def test_nothing_is_violated_in_20_000_calls(simulate, profile, ledger):
    outcome = simulate(profile, seed_or(42), 20_000, ledger)
    assert not outcome.violations, str(outcome)
    assert outcome.faults.keys() >= profile.faults.keys() | (FATES.keys() - {"arrives"} if profile.network else set())
    assert outcome.tickets.keys() == TICKETS


@pytest.mark.long
@PROFILES
def test_nothing_is_violated_with_a_new_seed(simulate, profile, ledger):
    outcome = simulate(profile, seed_or(any_seed()), 2_500, ledger)
    assert not outcome.violations, str(outcome)


@pytest.mark.long
@pytest.mark.parametrize("seed", [7, 42, 99, None], ids=["7", "42", "99", "new"])
@PROFILES
def test_nothing_is_violated_in_200_000_calls(simulate, profile, ledger, seed):
    outcome = simulate(profile, seed_or(seed or any_seed()), 200_000, ledger)
    assert not outcome.violations, str(outcome)


@pytest.mark.long
def test_nothing_is_violated_in_500_000_calls_with_every_fault(simulate):
    """Damaged fields among them: at the end the counts equal the truth, and no limiter is away."""
    outcome = simulate(ALL, seed_or(any_seed()), 500_000)
    assert not outcome.violations, str(outcome)
    assert outcome.healed > 0


def test_one_seed_is_one_run(simulate):
    assert simulate(ALL, 5, 1_500) == simulate(ALL, 5, 1_500)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("profile", "changes", "noticed"),
    [
        pytest.param(NET, {"replaced": NO_FENCE}, {"undercounted"}, id="sequence fence"),
        pytest.param(ALL, {"replaced": REAL_CLOCK}, {"forgotten early", "ghost"}, id="virtual clock"),
        pytest.param(LOSS, {"replaced": NO_ECHO}, {"over the limit"}, id="version echo"),
        pytest.param(BIRTHS, {"replaced": EMPTY_IS_SETTLED}, {"over the limit"}, id="settling when empty"),
        pytest.param(NET, {"state": Trusting}, {"undercounted", "raised"}, id="allowance rule"),
        pytest.param(RUSH, {"replaced": FREE_TOKENS}, {"too fast"}, id="connect rate"),
        pytest.param(HERDS, {"replaced": FULL_BUCKET}, {"too fast"}, id="tokens of reserves"),
        pytest.param(ORDERS, {"replaced": FORGETFUL}, {"drained young"}, id="order of the pool's version"),
        pytest.param(HERDS, {"replaced": GOOD_AGAIN}, {"twice"}, id="single use, at a rate"),
        pytest.param(NET, {"replaced": GOOD_AGAIN}, {"twice"}, id="single use, in a full pool"),
        pytest.param(HERDS, {"replaced": SOON}, {"sent behind"}, id="the time of an early ticket"),
        pytest.param(NET, {"replaced": LAST_FIRST}, {"overtaken"}, id="order of places"),
    ],
)
def test_it_is_noticed_when_a_rule_is_off(simulate, profile, changes, noticed, seed):
    outcome = simulate(profile, seed, 20_000, until=noticed, **changes)
    assert noticed & outcome.violations.keys(), str(outcome)
