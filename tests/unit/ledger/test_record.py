"""A footprint behind a worker's load in Redis, and texts that no worker can have written."""

import pytest

from channels_admission.core.readings import Footprint, Load, Usage
from channels_admission.ledger import record
from channels_admission.ledger.record import footprint_of, footprint_text

KIB = 1024
FOOTPRINT = Footprint(
    Usage(250, 90_000 * KIB, 270), Usage(10, 70_000 * KIB, 30), Usage(500, 110_000 * KIB, 520),
    memory_limit=512_000 * KIB, memory_used=400_000 * KIB, files_limit=1024, implementation="websockets-sansio",
)  # fmt: skip
LOAD = (Load("lag", 0.296, 0.49, 0.1, 0.3), Load("memory", 0.5, 0.0), Load("queue", None, 0.0))
TEXT = ";#s,512000,400000,1024,250,90000,270,10,70000,30,500,110000,520"


def test_it_comes_back_as_it_was():
    assert footprint_text(FOOTPRINT) == TEXT
    assert footprint_of(record.load_text(LOAD, FOOTPRINT)) == FOOTPRINT
    assert footprint_of(record.load_text(LOAD, None)) is None


@pytest.mark.parametrize("load", [LOAD, ()])
def test_the_load_reads_the_same_before_it(load):
    assert record._loads(record.load_text(load, FOOTPRINT)) == load


@pytest.mark.parametrize(
    "text", ["", ";#", TEXT[:-4], TEXT + ",1", TEXT + "x", TEXT.replace("520", "-5"), ";#X" + TEXT[3:]]
)
def test_what_no_worker_can_have_written_is_none(text):
    assert footprint_of("M0.5" + text) is None
