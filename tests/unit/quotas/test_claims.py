"""Limiters, the middleware and the mixin in a pool that is shared by quotas and classes."""

import asyncio
import math

import pytest
from channels.testing import WebsocketCommunicator

from channels_admission.core.counters import DELAYED
from channels_admission.core.overrides import Controls, Order
from channels_admission.core.protocol import Ask
from channels_admission.exceptions import LedgerUnavailable
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.limiter.calls.schedule import QUIET, RELEASE_PAUSE
from channels_admission.limiter.limiter import Slot
from channels_admission.limiter.registry import close_limiters, limiter_of
from channels_admission.middleware import AdmissionMiddleware
from channels_admission.quotas.claims import first_asks
from channels_admission.status.snapshot import collect

from support.users import (
    KIM,
    LEE,
    NOBODY,
    AsyncWebsocketAccept,
    Client,
    Echo,
    enter,
    enter_all,
    leave,
    open_all,
    site,
    why,
    with_user,
)
from support.virtual import run
from support.waiting import eventually

QUOTAS = [{"key": "user", "max": 2}]
SHARES = {"anonymous": 0.8, "member": 0.95, "staff": 1.0}


def by_user(scope):
    return None if "user" not in scope else "member" if scope["user"].pk else "anonymous"


CLASSIFY = "support.users.rank"


def claimed(limiter) -> int:
    return len(MemoryLedger._pools[limiter.settings.prefix, "default"].claims.sums)


async def test_each_user_has_a_quota_of_its_own(opened):
    async with opened(QUOTAS=QUOTAS) as limiter:
        verdicts = await enter_all(limiter, *[{"user": KIM}] * 4, {"user": LEE}, {"user": NOBODY}, {})
        assert why(verdicts) == ["", "", "quota:user", "quota:user", "", "", ""]
        assert limiter.state.counters["quota:user"] == 2
        verdicts[0].release()
        assert why(await enter_all(limiter, {"user": KIM}, {"user": KIM})) == ["", "quota:user"]


@pytest.mark.parametrize(("pause", "most"), [(0.002, 5), (0.2, 60)])
def test_a_client_that_returns_at_once_needs_no_call(opened, pause, most):
    """After a heartbeat, which tells what is held, it is asked for once."""

    async def test():
        keys = {"MAX_CONNECTIONS": 1000, "HEARTBEAT": 3, "LEASE": 30}
        async with opened(QUOTAS=[{"key": "user", "max": 32}], **keys) as limiter:
            await asyncio.sleep(2 * limiter.settings.heartbeat)
            before = limiter.state.calls.made
            for _ in range(150):
                (slot,) = await enter_all(limiter, {"user": KIM})
                await asyncio.sleep(pause)
                slot.release()
                await asyncio.sleep(pause)
            assert limiter.state.calls.made - before <= most

    run(test())


def test_what_a_client_has_left_is_told_soon_where_its_quota_is_small_or_much_is_left(opened):
    async def test():
        async with opened(QUOTAS=[{"key": "user", "max": 16}], MAX_CONNECTIONS=1000) as limiter:
            await asyncio.sleep(2 * limiter.settings.heartbeat)
            for left, seconds in ((2, 10 * RELEASE_PAUSE), (3, RELEASE_PAUSE)):
                slots = await enter_all(limiter, *[{"user": KIM}] * left)
                await asyncio.sleep(QUIET)
                before, limiter.reconciler.schedule.heartbeat_at = limiter.state.calls.made, math.inf
                for slot in slots:
                    slot.release()
                await asyncio.sleep(RELEASE_PAUSE + 0.01)
                assert (limiter.state.calls.made > before) == (seconds == RELEASE_PAUSE)
                await asyncio.sleep(QUIET)
                assert claimed(limiter) == 0

    run(test())


async def test_no_more_than_the_ledger_counts_is_covered(opened):
    async with opened(QUOTAS=QUOTAS) as limiter:
        slots = await enter_all(limiter, {"user": KIM}, {"user": KIM})
        calls = limiter.state.calls.made
        slots[0].release()
        lee, kim = limiter.rules.ask({"user": LEE}), limiter.rules.ask({"user": KIM})
        assert (limiter.state.may_enter(lee), limiter.state.may_enter(kim)) == (False, True)
        assert isinstance(await limiter.acquire(kim), Slot)
        assert (limiter.state.calls.made, limiter.state.may_enter(kim)) == (calls, False)
        assert why(await enter_all(limiter, {"user": KIM})) == ["quota:user"]


@pytest.mark.parametrize(
    ("in_force", "may_enter"),
    [("quota:user=1", False), ("quota:user=2", True), ("lease=9000", True), ("quota%:pending=0.3", False)],
)
async def test_a_quota_that_another_worker_has_lowered_is_not_kept_exceeded_by_those_that_return(
    opened, in_force, may_enter
):
    async with opened(QUOTAS=[{"key": "user", "max": 2}], PENDING_SHARE=0.4) as limiter:
        slots = await enter_all(limiter, {"user": KIM}, {"user": KIM})
        ask, limiter.state.settings = limiter.rules.ask({"user": KIM}), in_force
        slots.pop().release()
        assert limiter.state.may_enter(ask) == may_enter


async def test_a_share_of_a_lowered_limit_is_not_kept_exceeded_by_those_that_return(opened):
    async with opened(MAX_CONNECTIONS=10, PENDING_SHARE=0.4) as limiter:
        slots = await enter_all(limiter, *[{}] * 4)
        ask, state = limiter.rules.ask({}), limiter.state
        slots.pop().release()
        assert state.may_enter(ask)
        for limit, workers, may_enter in ((10, 2, False), (9, 1, False), (10, 1, True)):
            state.workers, state.controls = workers, Controls(limit=Order(limit, "ann", 0.0))
            assert state.may_enter(ask) == may_enter


@pytest.mark.parametrize("more", [{"full": "oldest"}, {"rate": 100}], ids=["oldest", "rate"])
async def test_where_the_ledger_must_know_of_each_it_is_asked_about_each(opened, more):
    async with opened(QUOTAS=[{"key": "user", "max": 32, **more}]) as limiter:
        (slot,) = await enter_all(limiter, {"user": KIM})
        slot.release()
        assert not limiter.state.may_enter(limiter.rules.ask({"user": KIM}))


def failing(scope):
    ask = scope["ask"]
    return {"list": ["staff"], "odd": Odd()}[ask] if ask in ("list", "odd") else scope["rank"]


class Odd:
    def __str__(self):
        raise RecursionError


FAILING = f"{__name__}.failing"


def failures(limiter, caplog) -> tuple[dict[str, int], list[str]]:
    """What was counted, and what was logged."""
    return (
        {name: count for name, count in limiter.state.counters.items() if name.startswith("fault:")},
        [record.message for record in caplog.records if record.levelname == "ERROR"],
    )


async def test_a_key_function_that_raises_refuses_nobody_and_is_told_once(opened, caplog):
    quotas = [{"key": FAILING, "max": 1, "name": "tenant"}, {"key": "user", "max": 2}]
    async with opened(QUOTAS=quotas, MAX_CONNECTIONS=5, HEARTBEAT=0.2) as limiter:
        scopes = [{"user": KIM}, {"ask": "rank", "user": KIM}, {"ask": "odd"}, {"ask": "no", "rank": 1}]
        assert why(await enter_all(limiter, *scopes)) == [""] * 4
        assert why(await enter_all(limiter, {"user": KIM}, {})) == ["quota:user", ""]
        assert why(await enter_all(limiter, {})) == ["full"]
        assert failures(limiter, caplog) == (
            {"fault:QUOTAS.tenant": 6},
            [
                f"Pool 'default': the function of QUOTAS.tenant raises {kind}; meanwhile connections are not counted "
                "under this quota."
                for kind in ("KeyError", "RecursionError")
            ],
        )
        assert [bool(record.exc_info) for record in caplog.records if record.levelname == "ERROR"] == [True, True]

        async def is_shown():
            return (await collect()).pools[0].faults == {"QUOTAS.tenant": 6}

        await eventually(is_shown)


@pytest.mark.parametrize("scope", [{}, {"ask": "list"}, {"ask": "rank"}])
async def test_a_class_function_that_raises_gives_the_least_share(opened, caplog, scope):
    async with opened(CLASSIFY=FAILING, SHARES={"none": 0, **SHARES}, MAX_CONNECTIONS=5) as limiter:
        verdicts = await enter_all(limiter, *[scope] * 5)
        assert why(verdicts) == [""] * 4 + ["share"]
        staff = {"ask": "rank", "rank": "staff"}
        assert limiter.rules.ask_again({"type": "websocket", **scope}, (), 3) is None
        assert limiter.rules.ask_again({"type": "websocket", **staff}, (), 1).class_index == 4
        counted, logged = failures(limiter, caplog)
        assert counted == {"fault:CLASSIFY": 6}
        assert len(logged) == 1
        assert logged[0].endswith("; meanwhile connections have the class with the least share.")


async def test_of_nobody_no_key_is_kept(opened):
    async with opened(QUOTAS=QUOTAS) as limiter:
        slots = await enter_all(limiter, {"user": KIM}, {"user": LEE})
        assert claimed(limiter) == 2
        for slot in slots:
            slot.release()
            slot.release()
        await eventually(lambda: claimed(limiter) == 0)
        assert limiter.state.claims._held == {}


async def test_a_handshake_cancelled_while_it_waits_leaves_no_claim(opened):
    async with opened(QUOTAS=QUOTAS) as limiter:
        tasks = [asyncio.ensure_future(enter(limiter, user=KIM)) for _ in range(2)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await eventually(lambda: claimed(limiter) == 0)
        assert why(await enter_all(limiter, {"user": KIM}, {"user": KIM})) == ["", ""]


async def test_a_quota_has_no_schedule_and_keeps_nobody_else_waiting(opened):
    async with opened(QUOTAS=QUOTAS, CONNECT_RATE=10, CONNECT_BURST=50, RETRY_AFTER=(1, 60)) as limiter:
        await asyncio.sleep(0.3)
        await enter_all(limiter, *[{"user": KIM}] * 30)
        assert limiter.retries.unreserved == 0


async def test_classes_fill_the_pool_in_their_order(opened):
    async with opened(MAX_CONNECTIONS=20, CLASSIFY=CLASSIFY, SHARES=SHARES) as limiter:
        slots = await enter_all(limiter, *[{"rank": "anonymous"}] * 20)
        assert why(slots) == [""] * 16 + ["share"] * 4
        assert why(await enter_all(limiter, {"rank": "anonymous"})) == ["share"]
        assert why(await enter_all(limiter, *[{"rank": "member"}] * 5)) == [""] * 3 + ["share"] * 2
        assert why(await enter_all(limiter, {"rank": "anonymous"}, {"rank": "staff"})) == ["share", ""]
        assert why(await enter_all(limiter, {"rank": "staff"}, {"rank": "exempt"}, {})) == ["full", "", "full"]
        (pool,) = (await collect()).pools
        assert pool.classes == {"anonymous": 16, "member": 3, "staff": 1, "exempt": 1}
        assert pool.refused["share"] == 4 + 1 + 2 + 1


@pytest.mark.parametrize(
    ("claims", "number"),
    [((b"key", *[None] * 7), 200), ((None,) * 8, 200), ((), 200), ((b"key", None, b"other"), 100), ((b"key",) * 3, 66)],
)
def test_a_call_asks_for_so_many_claims_and_a_quota_that_does_not_apply_is_none(claims, number):
    assert first_asks([Ask(claims)] * 400) == number
    assert first_asks([Ask(claims)] * 7) == 7


async def test_a_mixed_herd_is_exact(opened):
    async with opened(MAX_CONNECTIONS=100, CLASSIFY=CLASSIFY, SHARES=SHARES) as limiter:
        herd = [{"rank": rank} for rank in ("anonymous", "member", "staff", "exempt") for _ in range(100)]
        verdicts = await enter_all(limiter, *herd)
        admitted = [
            sum(isinstance(each, Slot) for each in verdicts[start : start + 100]) for start in (0, 100, 200, 300)
        ]
        assert admitted == [80, 15, 5, 100]


async def test_the_exempt_are_admitted_while_the_ledger_is_away_and_in_trouble(opened):
    async with opened(MAX_CONNECTIONS=1, CLASSIFY=CLASSIFY, SHARES=SHARES, WHEN_LEDGER_DOWN="closed") as limiter:
        await enter(limiter, rank="staff")
        limiter.reconciler._fail(LedgerUnavailable("gone"))
        limiter.overload.refusing = lambda: "memory"
        limiter.overload.saturated_ = True
        assert why(await enter_all(limiter, {"rank": "exempt"}, {"rank": "staff"})) == ["", "memory"]
        assert limiter.state.held == 2


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("share", ["", "", "quota:user"]),
        ("freeze", ["ledger", "ledger", "ledger"]),
        ("open", ["", "", ""]),
        ("closed", ["ledger", "ledger", "ledger"]),
    ],
)
async def test_while_the_ledger_is_away_a_worker_keeps_quotas_by_itself(opened, policy, expected):
    async with opened(QUOTAS=QUOTAS, WHEN_LEDGER_DOWN=policy) as limiter:
        await limiter.acquire(limiter.rules.ask({}))
        limiter.reconciler._fail(LedgerUnavailable("gone"))
        assert why(await enter_all(limiter, *[{"user": KIM}] * 3)) == expected


async def test_frozen_claims_may_be_taken_again(opened):
    async with opened(QUOTAS=QUOTAS, WHEN_LEDGER_DOWN="freeze") as limiter:
        kim, lee = await enter_all(limiter, {"user": KIM}, {"user": LEE})
        limiter.reconciler._fail(LedgerUnavailable("gone"))
        kim.release()
        lee.release()
        assert why(await enter_all(limiter, {"user": KIM}, {"user": KIM})) == ["", "quota:user"]


async def test_while_the_ledger_is_away_a_class_keeps_to_its_share(opened):
    async with opened(MAX_CONNECTIONS=10, CLASSIFY=CLASSIFY, SHARES=SHARES) as limiter:
        await enter_all(limiter, *[{"rank": "anonymous"}] * 7)
        limiter.reconciler._fail(LedgerUnavailable("gone"))
        assert why(await enter_all(limiter, *[{"rank": "anonymous"}] * 2, {"rank": "staff"})) == ["", "share", ""]


async def test_a_class_without_a_share_is_told_of_once(opened, caplog):
    async with opened(CLASSIFY=CLASSIFY, SHARES=SHARES) as limiter:
        assert why(await enter_all(limiter, *[{"rank": "stranger"}] * 3)) == [""] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "The pool 'default' has no share for the class 'stranger'."
    ]


async def test_a_worker_that_drains_asks_for_nobody_and_a_paused_pool_lets_in_none_of_the_exempt(opened):
    async with opened(QUOTAS=QUOTAS, CLASSIFY=CLASSIFY, SHARES=SHARES) as limiter:
        limiter.state.controls = Controls(paused=Order(1, "ann", at=0.0))
        assert why(await enter_all(limiter, {"user": KIM}, {"rank": "exempt"})) == ["paused", "paused"]
        limiter.drain(0)
        assert why(await enter_all(limiter, {"user": KIM}, {"rank": "exempt"})) == ["draining", "draining"]
        assert not limiter.decisions.queue.waiting
        assert claimed(limiter) == 0


async def test_one_that_waits_as_a_drain_begins_is_refused_and_leaves_no_claim(opened):
    async with opened(QUOTAS=QUOTAS) as limiter:
        await enter_all(limiter, {})
        waiting = [asyncio.ensure_future(enter(limiter, user=KIM)) for _ in range(2)]
        await asyncio.sleep(0)
        limiter.drain(0)
        assert why(await asyncio.gather(*waiting)) == ["draining", "draining"]
        await eventually(lambda: claimed(limiter) == 0 and not limiter.state.unreported)
        assert limiter.state.claims._held == {}


async def test_a_dry_run_counts_claims_beyond_their_quota_and_gives_them_back(opened):
    async with opened(QUOTAS=QUOTAS, DRY_RUN=True) as limiter:
        slots = await enter_all(limiter, *[{"user": KIM}] * 4, *[{}] * 2)
        assert why(slots) == [""] * 6
        for slot in slots[4:]:
            ask = limiter.rules.ask_again({"user": KIM}, slot.claims, slot.class_index)
            assert await limiter.decisions.extend(slot, ask) is None
        assert limiter.state.counters["dry:quota:user"] == 4
        assert list(limiter.state.claims._held.values()) == [6]
        await eventually(lambda: not limiter.state.unreported)
        assert list(MemoryLedger._pools[limiter.settings.prefix, "default"].claims.sums.values()) == [6]
        for slot in slots:
            slot.release()
        await eventually(lambda: claimed(limiter) == 0)
        assert limiter.state.claims._held == {}


async def test_claims_taken_while_the_ledger_is_away_are_told_when_it_is_back(opened):
    async with opened(QUOTAS=QUOTAS, HEARTBEAT=0.2, LEASE=2) as limiter:
        limiter.reconciler._fail(LedgerUnavailable("gone"))
        slots = await enter_all(limiter, {"user": KIM}, {"user": LEE}, {"user": LEE})
        assert why(slots) == [""] * 3
        slots.pop().release()
        await eventually(lambda: not limiter.state.away and not limiter.state.unreported)
        assert list(MemoryLedger._pools[limiter.settings.prefix, "default"].claims.sums.values()) == [1, 1]
        for slot in slots:
            slot.release()
        await eventually(lambda: claimed(limiter) == 0)


async def test_a_late_claim_that_is_cancelled_as_its_verdict_comes_costs_the_slot_nothing(opened):
    async with opened(QUOTAS=QUOTAS) as limiter:
        (slot,) = await enter_all(limiter, {})
        late = asyncio.ensure_future(
            limiter.decisions.extend(slot, limiter.rules.ask_again({"user": KIM}, slot.claims, slot.class_index))
        )
        await asyncio.sleep(0)
        limiter.reconciler._fail(LedgerUnavailable("gone"))
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)
        assert late.cancelled()
        assert slot.pool == "default"
        assert limiter.state.held == 1
        slot.release()
        await eventually(lambda: claimed(limiter) == 0)


async def test_a_late_claim_of_a_slot_that_was_released_meanwhile_is_given_back(opened):
    async with opened(QUOTAS=QUOTAS, CLASSIFY=CLASSIFY, SHARES=SHARES) as limiter:
        (slot,) = await enter_all(limiter, {})
        late = asyncio.ensure_future(
            limiter.decisions.extend(
                slot, limiter.rules.ask_again({"user": KIM, "rank": "staff"}, slot.claims, slot.class_index)
            )
        )
        await asyncio.sleep(0)
        slot.release()
        assert await late is None
        await eventually(lambda: claimed(limiter) == 0)
        assert limiter.state.claims._held == {}
        assert +limiter.state.claims._by_class == {}


@pytest.mark.parametrize("users", [(KIM, KIM), (KIM, LEE)])
async def test_two_late_claims_of_one_slot_at_the_same_time_leave_one(opened, users):
    async with opened(QUOTAS=QUOTAS, CLASSIFY=CLASSIFY, SHARES=SHARES) as limiter:
        (slot,) = await enter_all(limiter, {})
        late = [
            limiter.rules.ask_again({"user": user, "rank": "staff"}, slot.claims, slot.class_index) for user in users
        ]
        assert await asyncio.gather(*(limiter.decisions.extend(slot, ask) for ask in late)) == [None, None]
        assert slot.claims == late[0].claims
        assert limiter.state.claims._held == {late[0].claims[0]: 1}
        assert +limiter.state.claims._by_class == {late[0].class_index: 1}
        slot.release()
        assert limiter.state.claims._held == {}
        assert set(limiter.state.claims._by_class.values()) == {0}
        await eventually(lambda: claimed(limiter) == 0)


@pytest.mark.parametrize(("policy", "expected"), [("open", [None] * 3), ("share", [None, None, "quota:user"])])
async def test_late_claims_are_decided_as_early_ones_while_the_ledger_is_away(opened, policy, expected):
    async with opened(QUOTAS=QUOTAS, WHEN_LEDGER_DOWN=policy) as limiter:
        slots = await enter_all(limiter, *[{}] * 3)
        limiter.reconciler._fail(LedgerUnavailable("gone"))
        late = [limiter.rules.ask_again({"user": KIM}, slot.claims, slot.class_index) for slot in slots]
        verdicts = [await limiter.decisions.extend(slot, ask) for slot, ask in zip(slots, late, strict=True)]
        assert [verdict and verdict.reason for verdict in verdicts] == expected


# The user is known late


async def test_the_mixin_adds_the_claim_of_the_user(admission):
    admission(QUOTAS=QUOTAS)
    clients = await open_all(KIM, KIM, KIM, LEE, NOBODY, NOBODY, NOBODY)
    limiter = limiter_of("default")
    assert len(clients) == 6
    assert limiter.state.held == 6
    assert limiter.state.counters["quota:user"] == 1
    assert claimed(limiter) == 2
    await leave(clients)


async def test_a_middleware_inside_adds_it_as_well(admission):
    admission(QUOTAS=QUOTAS)
    clients = await open_all(KIM, KIM, KIM, inner=AdmissionMiddleware(AsyncWebsocketAccept()))
    assert len(clients) == 2
    await clients[0].socket.disconnect()
    limiter = limiter_of("default")
    await eventually(lambda: limiter.state.held == 1)
    clients[:1] = await open_all(KIM, inner=AdmissionMiddleware(AsyncWebsocketAccept()))
    assert len(clients) == 2
    await leave(clients)


async def test_one_that_is_refused_late_and_kept_a_while_holds_no_slot_meanwhile(admission):
    admission(QUOTAS=[{"key": "user", "max": 1}], REFUSAL_HOLD=30)
    socket = WebsocketCommunicator(site(KIM), "/")
    await socket.connect()
    limiter = limiter_of("default")
    refused = WebsocketCommunicator(site(KIM), "/")
    assert (await refused.connect())[0]
    await eventually(lambda: limiter._refuser.held == 1)
    assert limiter.state.held == 1
    for each in (refused, socket):
        await each.disconnect()
    await eventually(lambda: limiter.state.held == 0)
    await close_limiters()


async def test_a_class_known_late_needs_room_in_its_share(admission):
    admission(MAX_CONNECTIONS=10, CLASSIFY=f"{__name__}.by_user", SHARES={"anonymous": 0.5, "member": 1.0})
    clients = await open_all(*[NOBODY] * 7, *[KIM] * 6)
    limiter = limiter_of("default")
    assert limiter.state.held == 10
    counters = {name: count for name, count in limiter.state.counters.items() if name != DELAYED}
    assert counters == {"admitted": 12, "share": 2, "full": 1, "released": 2, "promised": 3}
    await eventually(lambda: len(clients) == 10)
    await leave(clients)


async def test_claims_of_a_limiter_whose_settings_have_changed_stay_with_it(admission):
    admission(QUOTAS=QUOTAS)
    clients = await open_all(KIM)
    old = limiter_of("default")
    admission(QUOTAS=[])
    assert limiter_of("default") is not old
    await leave(clients)
    assert old.state.held == 0


# The unauthenticated

DEADLINE = 1.0
"""Seconds, enough to come in even on a busy machine."""


async def test_the_unauthenticated_hold_their_share_and_no_more(admission):
    admission(MAX_CONNECTIONS=10, PENDING_SHARE=0.3)
    clients = await open_all(*[NOBODY] * 5)
    limiter = limiter_of("default")
    assert len(clients) == 3
    assert limiter.state.counters["quota:pending"] == 2
    await clients[0].socket.send_to(text_data="it is me")
    assert await clients[0].socket.receive_from() == "it is me"
    clients += await open_all(NOBODY, NOBODY)
    assert len(clients) == 4
    await leave(clients)


async def test_a_user_is_not_unauthenticated_for_long(admission):
    admission(MAX_CONNECTIONS=10, PENDING_SHARE=0.1, PENDING_DEADLINE=0.5)
    clients = await open_all(KIM, KIM, LEE)
    assert len(clients) == 3
    await asyncio.sleep(0.6)
    assert all([await client.is_open() for client in clients])
    await eventually(lambda: claimed(limiter_of("default")) == 0)
    await leave(clients)


@pytest.mark.parametrize("keys", [{}, {"PENDING_SHARE": 0.5}])
async def test_one_that_is_unauthenticated_at_the_deadline_is_closed(admission, keys):
    admission(PENDING_DEADLINE=DEADLINE, **keys)
    unknown, known, flagged = (
        Client(site(NOBODY)),
        Client(site(NOBODY)),
        Client(AdmissionMiddleware(mark(Echo.as_asgi()))),
    )
    loop = asyncio.get_running_loop()
    for client in (unknown, known, flagged):
        assert await client.opens()
    opened = loop.time()
    await known.socket.send_to(text_data="it is me")
    await known.socket.receive_from()
    closed = await unknown.socket.receive_output(5)
    assert (closed["code"], closed["reason"]) == (1008, "Authentication Required")
    await asyncio.sleep(opened + DEADLINE + 0.2 - loop.time())
    assert await known.is_open()
    assert await flagged.is_open()
    limiter = limiter_of("default")
    assert limiter.state.counters["overdue"] == 1
    await leave([known, flagged])


async def test_a_dry_run_counts_the_unauthenticated_at_their_deadline_and_closes_none(admission):
    admission(PENDING_DEADLINE=0.2, DRY_RUN=True)
    clients = await open_all(NOBODY, NOBODY, KIM)
    limiter = limiter_of("default")
    await eventually(lambda: limiter.state.counters["dry:overdue"] == 2)
    assert limiter.state.counters == {"admitted": 3, "dry:overdue": 2, "authenticated": 1}
    assert [await client.is_open() for client in clients] == [True] * 3
    await leave(clients)


@pytest.mark.parametrize("is_dry", [False, True])
async def test_a_deadline_that_nobody_has_met_is_told_once(admission, caplog, is_dry):
    admission(PENDING_DEADLINE=0.1, DRY_RUN=is_dry, HEARTBEAT=0.1)
    clients = await open_all(NOBODY, NOBODY)
    limiter = limiter_of("default")
    await eventually(lambda: limiter.state.counters["dry:overdue" if is_dry else "overdue"] == 2)
    assert [record.message for record in caplog.records if "authenticated" in record.message] == [
        "Pool 'default': PENDING_DEADLINE ends its first connection, and none has authenticated so far. If users do, "
        "put an AdmissionMiddleware inside the auth stack, or call admission_authenticated()."
    ]
    await eventually(shown_as_unauthenticated)
    clients += await open_all(KIM)
    await eventually(lambda: shown_as_unauthenticated(False))
    await leave(clients)


async def shown_as_unauthenticated(expected=True):
    (pool,) = (await collect()).pools
    return pool.none_authenticated is expected


@pytest.mark.parametrize("says_so", [False, True])
async def test_a_deadline_that_somebody_has_met_is_not_told(admission, caplog, says_so):
    admission(PENDING_DEADLINE=0.3)
    known = Client(site(NOBODY if says_so else KIM))
    assert await known.opens()
    if says_so:
        await known.socket.send_to(text_data="it is me")
        await known.socket.receive_from()
    clients = await open_all(NOBODY)
    await eventually(lambda: limiter_of("default").state.counters["overdue"] == 1)
    assert [record.message for record in caplog.records if "authenticated" in record.message] == []
    await leave([known, *clients])


async def test_a_user_that_is_known_from_the_start_has_met_the_deadline(admission):
    admission(PENDING_DEADLINE=0.3)
    known = Client(with_user(KIM, AdmissionMiddleware(Echo.as_asgi())))
    assert await known.opens()
    assert limiter_of("default").state.counters == {"admitted": 1, "authenticated": 1}
    await leave([known])


async def test_the_exempt_have_no_deadline_wherever_they_are_known(admission):
    admission(PENDING_DEADLINE=0.2, CLASSIFY=CLASSIFY, SHARES=SHARES)
    early, late, other = (
        Client(with_rank("exempt", site(NOBODY))),
        Client(AdmissionMiddleware(with_rank("exempt", Echo.as_asgi()))),
        Client(with_rank("staff", site(NOBODY))),
    )
    assert [await client.opens() for client in (early, late, other)] == [True] * 3
    assert (await other.socket.receive_output(5))["code"] == 1008
    await asyncio.sleep(0.4)
    assert [await client.is_open() for client in (early, late)] == [True] * 2
    assert limiter_of("default").state.counters["overdue"] == 1
    await leave([early, late])


def with_rank(name, inner):
    async def classify(scope, receive, send):
        await inner({**scope, "rank": name}, receive, send)

    return classify


def mark(inner):
    async def authenticate(scope, receive, send):
        await inner({**scope, "admission_authenticated": True}, receive, send)

    return authenticate
