"""A footprint behind a worker's load in Redis, and texts that no worker can have written."""

from dataclasses import replace

import pytest

from channels_admission.core.readings import Footprint, Load, Usage
from channels_admission.ledger import record
from channels_admission.ledger.record import footprint_of, footprint_text

KIB, MIB = 1024, 1 << 20
FOOTPRINT = Footprint(
    Usage(250, 90_000 * KIB, 270), Usage(10, 70_000 * KIB, 30), Usage(500, 110_000 * KIB, 520),
    memory_limit=500 * MIB, memory_used=390 * MIB, files_limit=1024, implementation="websockets-sansio",
)  # fmt: skip
LOAD = (Load("lag", 0.296, 0.49, 0.1, 0.3), Load("memory", 0.5, 0.0), Load("queue", None, 0.0))
TEXT = ";#s,dw,au,sg,6y,1xg0,7i,a,1i0g,u,dw,2cvk,eg"


def test_it_comes_back_as_it_was():
    assert footprint_text(FOOTPRINT) == TEXT
    assert footprint_of(record.load_text(LOAD, FOOTPRINT)) == FOOTPRINT
    assert footprint_of(record.load_text(LOAD, None)) is None


def test_of_the_host_it_keeps_whole_mib():
    more = replace(FOOTPRINT, memory_limit=FOOTPRINT.memory_limit + MIB - 1, memory_used=FOOTPRINT.memory_used + 1)
    assert footprint_of(record.load_text(LOAD, more)) == FOOTPRINT


@pytest.mark.parametrize("load", [LOAD, ()])
def test_the_load_reads_the_same_before_it(load):
    assert record._loads(record.load_text(load, FOOTPRINT)) == load


@pytest.mark.parametrize(
    "text", ["", ";#", TEXT[:-3], TEXT + ",1", TEXT + "x" * 9, TEXT.replace(",eg", ",-5"), ";#X" + TEXT[3:]]
)
def test_what_no_worker_can_have_written_is_none(text):
    assert footprint_of("M0.5" + text) is None


def test_a_number_that_is_no_finite_one_is_unknown():
    """JSON and the page have no other numbers."""
    assert record._loads("L1e+999~1e+999~1e+999@0.50") == (Load("lag", None, 0.5),)


def test_of_a_monitor_that_stands_there_twice_the_last_word_counts():
    """A metric has one sample of each monitor."""
    assert record._loads("M0.1;memory=0.2;M0.3") == (Load("memory", 0.3, 0.0),)
