"""Durations as counters."""

from channels_admission.core.counters import BOUNDS, Durations, counters_of


def test_a_duration_counts_at_the_first_bound_that_it_does_not_exceed():
    names = counters_of("wait")
    assert (len(names), names[0], names[-1]) == (len(BOUNDS), "wait.le.0.001", "wait.le.inf")
    times = Durations(names, "wait.ms")
    assert times.counters == {}
    for seconds in (0.0, 0.001, 0.0011, 0.25, 0.2501, 5.0, 5.1, 60.0):
        times.note(seconds)
    assert times.counters == {
        "wait.ms": 70_602,
        "wait.le.0.001": 2,
        "wait.le.0.005": 1,
        "wait.le.0.25": 1,
        "wait.le.1": 1,
        "wait.le.5": 1,
        "wait.le.inf": 2,
    }
