"""What workers can hold, from what they have told: to the last connection."""

import asyncio
import math

import pytest

from channels_admission.conf import sizing
from channels_admission.core.readings import Footprint, Usage, WorkerReading
from channels_admission.exceptions import LedgerUnavailable
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.status import capacity as of_capacity
from channels_admission.status.capacity import Cost, capacity, collect, figure, measured, opened

from support.footprints import LIMIT, USED, told

MIB, KIB = 1 << 20, 1 << 10
COST = Cost(100 * KIB, 1.0, "measured", 500)


# The cost of a connection


def test_it_is_what_the_connections_beyond_the_first_few_have_taken():
    assert measured([told()]) == COST


def test_all_workers_count_by_their_connections():
    assert measured([told(1, most=110, each=50), told(2, most=310, each=100)]) == Cost(
        round((100 * 50 + 300 * 100) * KIB / 400), 1.0, "measured", 400
    )


@pytest.mark.parametrize(("most", "known"), [((59, 60), False), ((60, 60), True)])
def test_below_a_hundred_connections_of_all_workers_nothing_is_measured(most, known):
    workers = [told(pid, most=number) for pid, number in enumerate(most)]
    assert (measured(workers) is not None) == known


def test_a_worker_that_has_had_none_beyond_the_first_few_is_left_out():
    assert measured([told(1), told(2, few=10, most=10, base=500)]) == COST


def test_memory_that_has_not_grown_costs_something():
    assert measured([told(each=0)]).memory == 1


def test_connections_of_one_s_own_are_what_has_come_between_two_readings():
    before, after = [told(1, now=20), told(2, now=5)], [told(1, now=120), told(2, now=5), told(3, now=99)]
    assert opened(before, after) == Cost(100 * KIB, 1.0, "opened", 100)
    assert opened(before, before) is None


def test_without_a_measurement_the_heaviest_of_the_servers_counts():
    cost = figure([told(server="daphne"), told(2, server="uvicorn wsproto")])
    assert cost == Cost(sizing.FIGURES["uvicorn wsproto"].spoken << 10, 1.0, "uvicorn wsproto")
    assert figure([told(server="")]).source == "unknown server"


# What fits


def test_memory_and_open_files_of_one_worker(admission):
    settings = admission(MAX_CONNECTIONS=100)
    found = capacity([told(used=200)], settings)
    (worker,) = found.workers
    others = 200 * MIB - told().footprint.now.memory
    assert worker.base == 60 * MIB
    assert worker.by_memory == math.floor((0.85 * LIMIT * MIB - others - 60 * MIB) / (100 * KIB))
    assert worker.by_files == math.floor(0.85 * 2048 - 15 - 100)
    assert found.proposal.max_per_worker == found.proposal.max_connections == worker.by_files
    assert found.proposal.bound_by == "files"
    assert found.proposal.files == 1024 * math.ceil((worker.by_memory + 115) / 0.85 / 1024)


def test_workers_of_a_host_share_its_memory_after_what_others_use(admission):
    settings = admission()
    workers = [told(1, base=100), told(2), told(3, host="web-2")]
    first, second, third = capacity(workers, settings, COST).workers
    each = (0.85 * LIMIT * MIB - max(0, USED * MIB - sum(w.footprint.now.memory for w in workers[:2]))) / 2
    assert second.by_memory - first.by_memory == pytest.approx(40 * MIB / COST.memory, abs=1)
    assert second.by_memory == math.floor((each - 60 * MIB) / COST.memory)
    assert third.by_memory > second.by_memory


def test_a_limit_of_the_process_counts_where_it_is_less(admission):
    (worker,) = capacity([told(files_limit=0)], admission(MEMORY_LIMIT=160 * MIB), COST).workers
    assert worker.by_memory == worker.fits == math.floor((0.85 * 160 - 60) * MIB / COST.memory)
    assert worker.by_files is None


def test_the_thresholds_of_the_monitors_count_and_never_more_than_is_safe(admission):
    strict = admission(MEMORY_LIMIT=160 * MIB, PRESSURE={"memory": (0.5, 0.6), "descriptors": (0.25, 0.5)})
    (worker,) = capacity([told()], strict, COST).workers
    assert worker.by_memory == math.floor((0.5 * 160 - 60) * MIB / COST.memory)
    assert worker.by_files == 2048 // 4 - 15 - 100
    (worker,) = capacity([told()], admission(PRESSURE={"memory": None, "descriptors": None}), COST).workers
    assert worker.by_files == math.floor(of_capacity.SAFE * 2048 - 115)


def test_refused_clients_that_are_held_take_files(admission):
    (worker,) = capacity([told()], admission(REFUSAL_HOLD=2, MAX_REFUSALS_HELD=300), COST).workers
    assert worker.by_files == math.floor(0.85 * 2048 - 415)


def test_a_worker_that_is_too_small_holds_none(admission):
    (worker,) = capacity([told(base=900, used=980, files_limit=64)], admission(), COST).workers
    assert (worker.by_memory, worker.by_files, worker.fits) == (0, 0, 0)


def test_the_others_carry_a_worker_that_restarts_and_none_holds_more_than_the_weakest(admission):
    workers = [told(1, host="a"), told(2, host="b"), told(3, host="c", limit=500)]
    found = capacity(workers, admission(), COST)
    weakest = min(worker.by_memory for worker in found.workers)
    assert found.workers[2].by_memory == weakest < found.workers[2].by_files
    assert (found.proposal.max_per_worker, found.proposal.max_connections) == (weakest, 2 * weakest)
    assert found.proposal.bound_by == "memory"


def test_what_was_measured_counts_before_the_figure(admission):
    assert capacity([told()], admission()).cost == COST
    assert capacity([told(most=50)], admission()).cost.source == "daphne"


# From the ledger


async def test_each_worker_counts_once_with_the_name_of_its_server(admission, monkeypatch):
    settings = admission(POOLS={"chat": {}})
    usage = Usage(1, 60 * MIB, 20)
    footprint = Footprint(usage, usage, usage, 1 << 30, 1 << 29, 0, "wsproto")

    def reading(name: str, server: str, known: bool = True) -> WorkerReading:
        return WorkerReading(name, 1, 0.5, 9.0, server, footprint=footprint if known else None)

    class Read:
        workers = (reading("b:2:x", "uvicorn"), reading("a:1:x", "hypercorn"), reading("c:3:x", "daphne", known=False))

    async def read(self, pools):
        assert list(pools) == ["default", "chat"]
        return [Read, Read]

    monkeypatch.setattr(MemoryLedger, "read", read)
    found = await collect(settings, 1.0)
    assert [(each.host, each.pid, each.server, each.silence) for each in found] == [
        ("a", 1, "hypercorn", 0.5), ("b", 2, "uvicorn wsproto", 0.5),
    ]  # fmt: skip


async def test_a_ledger_that_does_not_answer_is_said_to_be_silent(admission, monkeypatch):
    async def read(self, pools):
        await asyncio.Event().wait()

    monkeypatch.setattr(MemoryLedger, "read", read)
    with pytest.raises(LedgerUnavailable, match=r"^no answer within 0\.01 s$"):
        await collect(admission(), 0.01)
