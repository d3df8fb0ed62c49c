"""Workers of this release and of each recorded one in one pool, as in a rolling deployment.

A change of what stands in Redis makes these tests fail unless the release has another layout.
"""

import random
import re

import pytest
import redis

from channels_admission.core.overrides import Controls, Order
from channels_admission.core.quotas.shares import Bound
from channels_admission.ledger.layout import LAYOUT, key_of

from support import ROOT
from support.claimants import CLASSES, Claimant, ask
from support.releases import FOLDER, LIMIT, Former, recorded
from support.reports import HEARTBEAT, LEASE, Reporter

RELEASES = recorded()
MADE = re.compile(r"^## (\d+\.\d+\.\d+)$", re.MULTILINE)
USER = Bound("user", 3)


@pytest.fixture
def client(redis_server):
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture(params=RELEASES, ids=lambda release: release.release)
def release(request):
    return request.param


@pytest.fixture
def former(release, client, in_redis, clock):
    def make(nonce: str, *, is_shared: bool = False) -> Former:
        return Former(release, client, in_redis._settings.prefix, nonce, clock, is_shared=is_shared)

    return make


class Present:
    """A worker of this release that remembers what it holds, as :class:`Former` does."""

    def __init__(self, ledger, nonce: str) -> None:
        self.reporter, self.held = Reporter(ledger, nonce, limit=LIMIT), 0

    async def say(self, *, wanted: int = 0, **changes):
        reply = await self.reporter.say(self.held, wanted, allowance=self.held, heartbeat=True, **changes)
        self.held += reply.granted
        return {name: getattr(reply, name) for name in ("granted", "total", "workers", "healed", "settling", "lapsed")}

    def drop(self) -> None:
        self.held -= 1


async def said(worker, **changes):
    """What a worker of either kind is answered."""
    reply = worker.say(**changes)
    return reply if isinstance(reply, dict) else await reply


async def settle(*workers, clock):
    for _ in range(3):
        for worker in workers:
            reply = await said(worker)
        clock.now += HEARTBEAT
    assert not reply["settling"]


def test_every_release_is_recorded():
    made = MADE.findall((ROOT / "CHANGELOG.md").read_text())
    assert {f"{release}.json" for release in made} == {path.name for path in FOLDER.iterdir()}
    assert {release.release for release in RELEASES} == {*made}


@pytest.mark.parametrize("seed", range(6))
async def test_both_count_together_whatever_happens(in_redis, former, clock, seed):
    chance = random.Random(seed)
    workers = [former("a"), former("b"), Present(in_redis, "c"), Present(in_redis, "d")]
    await settle(*workers, clock=clock)
    for _ in range(100):
        worker = chance.choice(workers)
        for _ in range(chance.randint(0, worker.held)):
            worker.drop()
        reply = await said(worker, wanted=chance.randint(0, 6))
        counted = reply["total"]
        wrong = [name for name in ("healed", "lapsed", "settling") if reply[name]]
        assert not wrong, "the data of the other is damage to one"
        assert (counted <= LIMIT, reply["workers"]) == (True, 4)
        clock.now += chance.choice((0.0, 0.01, 0.2))
        for each in workers:
            if chance.random() < 0.3:
                counted = (await said(each))["total"]
        for each in workers:
            counted = (await said(each))["total"]
        assert counted == sum(each.held for each in workers)


async def test_the_dead_of_either_are_forgotten_by_the_other(in_redis, former, clock):
    pairs = (former("a"), Present(in_redis, "b")), (Present(in_redis, "c"), former("d"))
    for survivor, dead in pairs:
        await settle(survivor, dead, clock=clock)
        await said(dead, wanted=7)
        totals = []
        for _ in range(int(LEASE / HEARTBEAT) + 1):
            totals.append((await said(survivor))["total"])
            clock.now += HEARTBEAT
        assert totals == [7] * 6 + [0]
        assert (await said(survivor, wanted=LIMIT))["granted"] == LIMIT
        survivor.held = 0
        await said(survivor)


async def test_a_quota_holds_over_both_where_the_layout_is_the_same(in_redis, former, clock, release):
    old, new = former("a", is_shared=True), Claimant(in_redis, "b", quotas=(USER,), limit=LIMIT)
    for _ in range(3):
        old.say()
        await new.claim()
        clock.now += HEARTBEAT
    old.say("kim", "kim")
    reply = await new.claim(*[ask("kim")] * 2)
    is_one = release.layout == LAYOUT
    assert reply.verdicts == ("", "quota:user" if is_one else "")
    assert (old.say("kim")["verdicts"] == b"A") is is_one
    old.drop("kim")
    old.say()
    assert (await new.claim(ask("kim"))).verdicts == ("",)
    assert not reply.healed


async def test_what_operators_set_holds_for_both(in_redis, former, clock):
    old, new = former("a"), Present(in_redis, "b")
    await settle(old, new, clock=clock)
    assert await in_redis.control("default", Controls(paused=Order(1, "ann", 1.0), limit=Order(5, "ann", 1.0)), 0)
    reply = old.say(wanted=1)
    assert (reply["granted"], reply["limit"]) == (0, 5)
    assert b"paused=1," in reply["controls"]
    assert (await said(new, wanted=1))["granted"] == 0


async def test_workers_of_a_recorded_release_are_read(in_redis, former, clock, release):
    old, new = former("a"), Present(in_redis, "b")
    await settle(old, new, clock=clock)
    old.say(wanted=4)
    await said(new, wanted=3)
    (reading,) = await in_redis.read(("default",))
    workers = {each.worker: (each.held, each.release) for each in reading.workers}
    if release.layout == LAYOUT:
        assert workers == {"host:1:a": (4, release.release), "host:1:b": (3, "")}
    else:
        assert (workers, reading.elsewhere.held) == ({"host:1:b": (3, "")}, 4)


def test_a_recorded_release_names_its_keys_as_ever(release):
    for part, name in release.names.items():
        known = {"host": "host:{host}", "own": "claims:{worker}"}.get(part, part)
        own = key_of("{prefix}", "default", known, release.layout).replace("{default}", "{{default}}")
        assert name == own, "a layout keeps its keys"


def test_the_classes_of_these_tests_come_first():
    assert CLASSES[0].name == "", "Former asks for the first class"
