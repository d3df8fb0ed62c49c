"""Limiters, the middleware and the mixin where a quota limits attempts."""

import asyncio

import pytest

from channels_admission.core.counters import ATTEMPTS
from channels_admission.core.overrides import Controls, Order
from channels_admission.core.protocol import COUNTED, Refusal
from channels_admission.exceptions import LedgerUnavailable
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.limiter.registry import limiter_of
from channels_admission.quotas.requests import AUTHENTICATED

from support.users import KIM, LEE, NOBODY, Client, enter, enter_all, leave, site, why
from support.waiting import eventually

BURST = 3
ADDRESS = {"key": "address", "rate": 0.5, "burst": BURST}
OVER = "attempts:address"


def at(number: int = 1, **more):
    return {"client": (f"192.0.2.{number}", 1013), **more}


def attempts_known(limiter) -> int:
    return len(MemoryLedger._pools[limiter.settings.prefix, "default"].attempts)


async def test_an_address_has_its_attempts_and_others_have_theirs(opened):
    async with opened(QUOTAS=[ADDRESS]) as limiter:
        verdicts = await enter_all(limiter, *[at(1)] * 5, at(2))
        assert why(verdicts) == [""] * BURST + [OVER] * 2 + [""]
        assert limiter.state.counters[OVER] == 2
        assert [verdict.retry_after for verdict in verdicts[3:5]] == pytest.approx([2.0, 4.0], abs=0.1)


async def test_the_hint_grows_and_an_address_that_is_locked_needs_no_call(opened):
    async with opened(QUOTAS=[ADDRESS], RETRY_AFTER=(1, 60)) as limiter:
        verdicts = await enter_all(limiter, *[at()] * (BURST + 60))
        hints = [verdict.retry_after for verdict in verdicts[BURST:]]
        assert hints[:29] == pytest.approx([2.0 * number for number in range(1, 30)], abs=0.1)
        assert all(30 <= hint <= 60 for hint in hints[29:])
        calls = limiter.state.calls.made
        hints = [(await enter(limiter, **at())).retry_after for _ in range(50)]
        assert limiter.state.calls.made == calls
        assert all(30 <= hint <= 60 for hint in hints)
        assert limiter.state.counters[OVER] == 110
        assert why([await enter(limiter, **at(2))]) == [""]
        assert limiter.state.attempts.tell() == (), "the call for another has told of them"


async def test_tokens_are_for_clients_that_come_as_often_as_they_may(opened):
    async with opened(QUOTAS=[ADDRESS], CONNECT_RATE=20, CONNECT_BURST=20, MAX_CONNECTIONS=100) as limiter:
        await asyncio.sleep(1)
        await enter_all(limiter, *[at()] * 60)
        assert set(why(await enter_all(limiter, *map(at, range(2, 2 + 17))))) == {""}
        assert limiter.retries.unreserved == 0


@pytest.mark.parametrize("full", [0, 1])
async def test_a_full_or_paused_pool_gives_no_time_to_clients_that_try_too_often(opened, full):
    async with opened(QUOTAS=[ADDRESS], MAX_CONNECTIONS=1 - full, CONNECT_RATE=1000, EXPECTED_WORKERS=1) as limiter:
        await enter(limiter, **at(9))
        if not full:
            limiter.state.controls = Controls(paused=Order(1, "ann", at=0.0))
        why_not = "full" if full else "paused"
        verdicts = [await enter(limiter, **at()) for _ in range(2 * BURST + 20)]
        assert verdicts[0].reason == why_not
        assert verdicts[-1].reason == OVER
        assert limiter.retries.unreserved <= 2 * BURST


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("share", [""] * BURST + [OVER] * 2), ("open", [""] * 5), ("closed", ["ledger"] * BURST + [OVER] * 2)],
)
async def test_while_the_ledger_is_away_a_worker_has_its_part_of_the_rate(opened, policy, expected):
    async with opened(QUOTAS=[ADDRESS], WHEN_LEDGER_DOWN=policy) as limiter:
        await enter(limiter, **at(9))
        limiter.reconciler._fail(LedgerUnavailable("gone"))
        assert why(await enter_all(limiter, *[at()] * 5)) == expected


async def test_what_was_tried_without_the_ledger_is_told_when_it_is_back(opened):
    async with opened(QUOTAS=[ADDRESS]) as limiter:
        await enter(limiter, **at(9))
        limiter.reconciler._fail(LedgerUnavailable("gone"))
        await enter_all(limiter, *[at()] * 50)
        await eventually(lambda: not limiter.state.away)
        assert why([await enter(limiter, **at())]) == [OVER]
        assert attempts_known(limiter) == 2


async def test_clients_that_have_authenticated_are_spared_what_their_neighbours_spend(opened):
    user = {"key": "user", "rate": 1, "burst": 2}
    async with opened(QUOTAS=[ADDRESS, user]) as limiter:
        await enter_all(limiter, *[at()] * 50)
        assert why(await enter_all(limiter, *[at(user=KIM)] * 3, at(user=LEE), at(user=NOBODY))) == [
            "", "", "attempts:user", "", OVER,
        ]  # fmt: skip
        assert why([await enter(limiter, **at(**{AUTHENTICATED: True}))]) == [""]


async def test_only_the_address_spares_clients_that_have_authenticated(opened):
    tenant = {"key": f"{__name__}.tenant", "rate": 0.5, "burst": 1}
    async with opened(QUOTAS=[tenant]) as limiter:
        assert why(await enter_all(limiter, *[at(user=KIM)] * 2)) == ["", "attempts:tenant"]


def tenant(scope):
    return "one"


async def test_a_quota_may_limit_both_and_without_a_maximum_no_slot_is_counted(opened):
    both = {**ADDRESS, "max": 2}
    async with opened(QUOTAS=[both]) as limiter:
        verdicts = await enter_all(limiter, *[at()] * 5)
        assert why(verdicts) == ["", "", "quota:address", OVER, OVER]
    async with opened(QUOTAS=[ADDRESS]) as limiter:
        slot = await enter(limiter, **at(2))
        assert slot.claims == (COUNTED,)
        assert limiter.state.claims._held == {}


async def test_a_dry_run_lets_in_whoever_tries_too_often_and_counts_them(opened):
    async with opened(QUOTAS=[ADDRESS], DRY_RUN=True) as limiter:
        slots = [*await enter_all(limiter, *[at()] * 5), await enter(limiter, **at())]
        assert why(slots) == [""] * 6
        assert limiter.state.counters[f"dry:{OVER}"] == 3
        for slot in slots:
            slot.release()
        await eventually(lambda: limiter.state.unreported == 0)
        assert limiter.state.held == 0


async def test_one_handshake_is_one_attempt_though_it_is_asked_for_twice(admission):
    admission(QUOTAS=[{"key": f"{__name__}.tenant", "rate": 0.5, "burst": 3}])
    clients = [Client(site(KIM)) for _ in range(4)]
    assert [await client.opens() for client in clients] == [True, True, True, False]
    await leave(clients)


async def test_a_user_found_inside_has_attempts_of_its_own(admission):
    admission(QUOTAS=[ADDRESS, {"key": "user", "rate": 0.5, "burst": 2}])
    clients = [Client(site(user)) for user in (KIM, KIM, KIM, LEE)]
    assert [await client.opens() for client in clients] == [True, True, False, True]
    limiter = limiter_of("default")
    assert limiter.state.counters["attempts:user"] == 1
    assert limiter.state.held == 3
    await leave(clients)


async def test_an_exempt_client_tries_as_often_as_it_likes(opened):
    async with opened(QUOTAS=[ADDRESS], CLASSIFY="support.users.rank", SHARES={"staff": 1}) as limiter:
        assert why(await enter_all(limiter, *[at(rank="exempt")] * 50)) == [""] * 50


async def test_the_reason_is_of_its_own(opened):
    async with opened(QUOTAS=[ADDRESS]) as limiter:
        last = (await enter_all(limiter, *[at()] * (BURST + 1)))[-1]
        assert isinstance(last, Refusal)
        assert last.reason == f"{ATTEMPTS}address"
