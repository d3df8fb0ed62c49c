"""Whatever goes wrong in a heartbeat, once or for ever: the gate lives, answers, tells of it and recovers."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from channels_admission import conversation, faults, timetable
from channels_admission import gate as gate_module
from channels_admission.account import Account
from channels_admission.exceptions import LedgerUnavailable
from channels_admission.gate import Gate
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.pressure import Pressure
from channels_admission.reserve import reserve
from channels_admission.slot import Slot
from channels_admission.types import Refusal, faults_in
from channels_admission.worker import Worker

from conftest import eventually
from faulty import FaultyLedger

ERRORS = (OSError, ValueError, OverflowError, MemoryError, RuntimeError, RecursionError)
BEAT = 0.02
AWAY = LedgerUnavailable("away")
PARTS = {
    "the ledger": lambda gate: (gate._ledger, "reconcile"),
    "the wait": lambda gate: (gate._timetable, "until_due"),
    "the time of the beat": lambda gate: (gate._timetable, "await_beat"),
    "the time of the report": lambda gate: (gate._timetable, "begin"),
    "the revival of monitors": lambda gate: (gate._pressure, "revive"),
    "shedding": lambda gate: (gate._pressure, "to_shed"),
    "the batch": lambda gate: (gate._handshakes, "batch"),
    "the report": lambda gate: (gate.account, "report"),
    "the settlement": lambda gate: (gate.account, "settle"),
    "the hints": lambda gate: (gate._schedule, "renew"),
    "the look for neighbours": lambda gate: (conversation, "is_gone"),
    "the drains": lambda gate: (gate.drains, "follow"),
    "an enforced limit": lambda gate: (gate.drains, "enforce"),
    "the answer": lambda gate: (gate._handshakes, "answer"),
    "the reserve": lambda gate: (reserve, "fill"),
}


class Broken:
    """A call that raises ``error`` instead of being made, ``times`` times or for ever."""

    def __init__(self, place, error, times=None):
        self.owner, self.name = place
        self.call = getattr(self.owner, self.name)
        self.error, self.times, self.raised = error, times, 0

    def __enter__(self):
        setattr(self.owner, self.name, self)
        return self

    def __exit__(self, *_):
        setattr(self.owner, self.name, self.call)

    def __call__(self, *args, **kwargs):
        if self.raised == self.times:
            return self.call(*args, **kwargs)
        self.raised += 1
        raise self.error("injected")


@pytest.fixture(autouse=True)
def _in_haste(monkeypatch):
    """Every fault is logged anew, and after one that leaves nothing in order the rest is short."""
    monkeypatch.setattr(faults, "AGAIN", 0.0)
    monkeypatch.setattr(gate_module, "REST", BEAT)
    monkeypatch.setattr(timetable, "FIRST_PROBE", BEAT / 2)


@pytest.fixture
def opened(admission):
    """``async with opened(KEY=value) as gate``: a gate with monitors and a neighbour over a memory ledger."""

    @asynccontextmanager
    async def open_gate(**keys):
        settings = admission(**{"MAX_CONNECTIONS": 3, "LEDGER_TIMEOUT": 0.1, "WHEN_LEDGER_DOWN": "freeze", **keys})
        settings = replace(settings, beat=BEAT, lease=1.0)
        pressure, pool = Pressure(settings), settings.pool("default")
        neighbour = Account(pool, Worker()).report()
        await MemoryLedger(replace(settings, lease=3600.0)).reconcile("default", neighbour)
        gate = Gate(pool, settings, FaultyLedger(MemoryLedger(settings)), Worker(), pressure=pressure)
        await eventually(lambda: gate.account.workers == 2)
        try:
            yield gate
        finally:
            await gate.aclose()
            await pressure.aclose()

    return open_gate


async def answered(gate):
    """The verdict on a handshake, which comes in time whatever is broken."""
    async with asyncio.timeout(3 * gate.settings.ledger_timeout):
        verdict = await gate.acquire()
    assert isinstance(verdict, Slot | Refusal)
    return verdict


async def counted(gate):
    """What the ledger counts for the gate's worker."""
    (reading,) = await gate._ledger.read(("default",))
    return {each.worker: each.held for each in reading.workers}.get(gate.account.worker.id)


async def is_sound(gate):
    """Whether all parts work again, when somebody has knocked."""
    await answered(gate)
    return not gate.account.away and not gate.faults._failing


async def is_told(gate):
    """Whether the ledger knows what the gate holds, and of all its faults."""
    (reading,) = await gate._ledger.read(("default",))
    theirs = faults_in(gate.account.counters)
    return await counted(gate) == gate.account.held and faults_in(reading.counters) == theirs


def tracebacks(caplog, error):
    return [each for each in caplog.records if each.exc_info and each.exc_info[0] is error]


@pytest.mark.parametrize("part", PARTS)
async def test_no_error_in_any_part_of_a_heartbeat_ends_it(opened, caplog, part):
    async with opened() as gate:
        for _ in range(3):
            assert isinstance(await gate.acquire(), Slot)
        for error in ERRORS:
            for times in (1, None):
                caplog.clear()
                before = faults_in(gate.account.counters).get(error.__name__, 0)
                with Broken(PARTS[part](gate), error, times) as broken:

                    async def is_raised(broken=broken):
                        await answered(gate)
                        return broken.raised >= (broken.times or 3)

                    await eventually(is_raised)
                    assert not gate._task.done()
                await eventually(lambda: is_sound(gate))
                await eventually(lambda: is_told(gate))
                assert len(tracebacks(caplog, error)) == 1
                assert faults_in(gate.account.counters)[error.__name__] == before + broken.raised
                assert gate.account.held == 3
