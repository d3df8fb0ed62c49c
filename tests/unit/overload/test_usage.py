"""The record of what a worker's connections use, and the footprint of it."""

import pytest

from channels_admission.core.readings import Footprint, Usage
from channels_admission.overload.memory import Use
from channels_admission.overload.usage import FEW, Record

MACHINE, CONTAINER = Use(60, 100, 50), Use(90, 100, 90)


def noted(*looks: tuple[int, int, int]) -> Footprint:
    record = Record()
    for look in looks:
        record.note(*look)
    return record.footprint((MACHINE,), 1024, "wsproto")


def test_without_a_look_or_a_limit_nothing_is_known():
    record = Record()
    assert record.footprint((MACHINE,), 0, "") is None
    record.note(0, 60, 20)
    assert record.footprint((), 0, "") is None
    assert record.footprint((Use(1, 100, 1, is_shared=False),), 0, "") is None


def test_what_the_first_few_take_and_what_the_most_take():
    footprint = noted((0, 60, 20), (FEW, 70, 52), (FEW + 1, 71, 53), (500, 120, 520))
    assert footprint.low == Usage(FEW, 70, 52)
    assert (footprint.now, footprint.high) == (Usage(500, 120, 520), Usage(500, 120, 520))
    assert (footprint.files_limit, footprint.implementation) == (1024, "wsproto")


def test_a_herd_at_once_leaves_the_first_look_as_the_lowest():
    assert noted((0, 60, 20), (500, 120, 520)).low == Usage(0, 60, 20)
    assert noted((500, 120, 520), (3, 110, 23), (600, 130, 620)).low == Usage(500, 120, 520)


def test_memory_that_the_same_connections_take_later_counts():
    assert noted((0, 60, 20), (500, 120, 520), (450, 200, 470)).high == Usage(500, 200, 520)
    assert noted((0, 60, 20), (500, 120, 520), (449, 200, 469)).high == Usage(500, 120, 520)


def test_memory_that_connections_have_left_behind_is_no_cost_of_the_few_that_remain():
    footprint = noted((0, 60, 20), (500, 120, 520), (2, 118, 22))
    assert footprint.now == Usage(2, 118, 22)
    assert footprint.high == Usage(500, 120, 520)


@pytest.mark.parametrize("uses", [(MACHINE, CONTAINER), (CONTAINER, MACHINE)])
def test_the_nearest_limit_counts_that_others_share(uses):
    record = Record()
    record.note(0, 60, 20)
    footprint = record.footprint((Use(99, 100, 99, is_shared=False), *uses), 0, "")
    assert (footprint.memory_limit, footprint.memory_used) == (100, 90)
