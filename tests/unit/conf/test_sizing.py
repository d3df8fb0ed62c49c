"""What one worker needs for its part of the limit, to the last file and byte."""

import math

import pytest

from channels_admission.conf import sizing


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({}, 5000),
        ({"MAX_CONNECTIONS": 0}, 0),
        ({"MAX_CONNECTIONS": 100, "EXPECTED_WORKERS": 3}, 34),
        ({"MAX_CONNECTIONS": 100, "POOLS": {"chat": {"MAX_CONNECTIONS": 300}}}, 300),
        ({"MAX_CONNECTIONS": 100, "POOLS": {"chat": {"MAX_CONNECTIONS": 300, "EXPECTED_WORKERS": 6}}}, 100),
    ],
)
def test_a_part_is_that_of_the_greatest_pool(admission, keys, part):
    assert sizing.connections(admission(**keys)) == part


def test_the_workers_are_those_of_the_pool_that_expects_most(admission):
    assert sizing.workers(admission(EXPECTED_WORKERS=2, POOLS={"chat": {"EXPECTED_WORKERS": 6}})) == 6


@pytest.mark.parametrize(
    ("keys", "needed", "advised"),
    [
        ({}, math.ceil((5000 + 115) / 0.85), 6144),
        ({"PRESSURE": {"descriptors": (0.5, 0.9)}}, 2 * (5000 + 115), 10240),
        ({"PRESSURE": {"descriptors": None}}, 5000 + 115, 5120),
        ({"PRESSURE": {"descriptors": None}, "MAX_REFUSALS_HELD": 500}, 5000 + 115, 5120),
        ({"PRESSURE": {"descriptors": None}, "MAX_REFUSALS_HELD": 500, "REFUSAL_HOLD": 1}, 5500 + 115, 6144),
        ({"PRESSURE": {"descriptors": None}, "MAX_CONNECTIONS": 1024 - 115}, 1024, 1024),
        ({"PRESSURE": {"descriptors": None}, "MAX_CONNECTIONS": 1025 - 115}, 1025, 2048),
    ],
)
def test_open_files_for_the_part_before_the_monitor_refuses(admission, keys, needed, advised):
    settings = admission(**keys)
    assert sizing.descriptors(settings) == needed
    assert sizing.advised_descriptors(settings) == advised


@pytest.mark.parametrize(("thresholds", "share"), [((0.5, 0.9), 0.5), (None, 1.0)])
def test_memory_for_the_part_before_the_monitor_refuses(admission, thresholds, share):
    settings = admission(MAX_CONNECTIONS=3000, EXPECTED_WORKERS=3, PRESSURE={"memory": thresholds})
    assert sizing.memory(settings, 67 << 20, 81 << 10) == (67 * 2**20 + 1000 * 81 * 2**10) / share


@pytest.mark.parametrize(
    ("server", "implementation", "name"),
    [
        ("uvicorn", "wsproto", "uvicorn wsproto"), ("uvicorn", "", "uvicorn"), ("uvicorn", "own", "uvicorn"),
        ("daphne", "", "daphne"), ("hypercorn", "wsproto", "hypercorn"), ("", "", ""),
    ],
)  # fmt: skip
def test_the_name_of_a_server_with_its_implementation(server, implementation, name):
    assert sizing.named(server, implementation) == name


@pytest.mark.parametrize(
    ("server", "figure"),
    [
        ("daphne", "daphne"), ("uvicorn websockets-sansio", "uvicorn websockets-sansio"),
        ("uvicorn", "uvicorn websockets"), ("", "uvicorn websockets"), ("other", "uvicorn websockets"),
    ],
)  # fmt: skip
def test_what_is_not_known_has_the_heaviest_figure(server, figure):
    assert sizing.figure(server) == sizing.FIGURES[figure]
