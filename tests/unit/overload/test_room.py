"""Room for newcomers in memory, with told readings and a told clock."""

import pytest

from channels_admission.conf.overload import Thresholds
from channels_admission.overload.memory import Use
from channels_admission.overload.room import FIRST, LARGEST_PART, LEAST, MOST, UNSHOWN, Room

MIB = 2**20
BASE = 60


class Worker:
    """A process with a limit of its own, in MiB: it grows by what each connection costs, when it is told to."""

    def __init__(self, limit: int = 200) -> None:
        self.room = Room(Thresholds(0.85, 0.95))
        self.limit, self.now, self.resident, self.present = limit, 0.0, float(BASE), 0
        self.read()

    def read(self) -> None:
        use = Use(int(self.resident * MIB), self.limit * MIB, 0, is_shared=False)
        self.room.read((use,), int(self.resident * MIB))

    def fitting(self) -> int:
        return self.room.newcomers(self.now, int(self.resident * MIB), self.present)

    def herd(self, crowd: int) -> int:
        """How many of a crowd that comes at once get in."""
        came = 0
        while came < crowd and (some := self.fitting()):
            some = min(some, crowd - came)
            self.present += some
            came += some
        return came

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += 0.25
            self.read()
            self.fitting()


def test_of_a_herd_of_which_nothing_is_known_as_many_get_in_as_fit_at_the_first_guess():
    worker = Worker()
    assert worker.herd(150) == (0.85 * 200 - BASE) * MIB // FIRST == 27
    assert worker.fitting() == 0


def test_connections_that_have_not_shown_what_they_cost_stay_counted():
    worker = Worker()
    came = worker.herd(150)
    worker.wait(UNSHOWN - 0.5)
    assert worker.fitting() == 0
    worker.resident += 2 * came  # late
    assert worker.fitting() == 0
    worker.wait(1.0)
    assert 0 < worker.fitting() <= (170 - worker.resident) / 2


@pytest.mark.parametrize("cost", [0.1, 1, 2, 4])
@pytest.mark.parametrize("late", [0.0, 1.0, 1.75])
def test_a_worker_fills_up_to_its_first_threshold_and_never_passes_the_second(cost, late):
    worker, most = Worker(), 0.0
    for _ in range(600):
        came = worker.herd(150)
        worker.wait(late)
        worker.resident += came * cost
        most = max(most, worker.resident)
        worker.wait(0.25)
    assert most < 0.95 * 200
    assert worker.resident > 0.85 * 200 - cost - 3 * LEAST / MIB


def test_a_cost_that_is_known_lets_as_many_in_at_once_as_fit():
    worker = Worker(2000)
    for _ in range(60):
        worker.present += 5
        worker.resident += 50
        worker.wait(0.5)
    worker.present, worker.resident = 0, 500
    worker.wait(UNSHOWN)
    assert worker.room.cost == pytest.approx(10 * MIB, rel=0.15)
    assert worker.herd(1000) == pytest.approx((1700 - 500) / 10, rel=0.15)


def test_what_grows_beside_the_connections_is_soon_forgotten():
    worker = Worker(2000)
    assert worker.herd(1) == 1
    worker.resident = 800
    worker.wait(UNSHOWN + 0.5)
    assert FIRST < worker.room.cost <= FIRST + 2000 * MIB / LARGEST_PART / 9
    for _ in range(20):
        worker.present += 20
        worker.resident += 2
        worker.wait(UNSHOWN)
    assert worker.room.cost < LEAST


def test_connections_that_come_and_leave_again_take_nothing():
    worker = Worker()
    for _ in range(2000):
        assert worker.fitting() > 0
        worker.present += 1
        worker.now += 0.005
        worker.present -= 1


def test_cheap_ones_are_let_in_by_thousands_where_there_is_plenty():
    worker = Worker(16_000)
    assert worker.herd(2000) == 2000
    assert worker.fitting() == MOST


def test_one_at_a_time_gets_in_where_less_is_free_than_one_is_taken_to_cost():
    worker = Worker(72)
    assert [worker.fitting(), worker.herd(10), worker.fitting()] == [1, 1, 0]
    worker.resident += 0.5
    worker.wait(UNSHOWN + 0.25)
    assert worker.herd(10) == 1
    worker.resident = 65.0
    worker.wait(UNSHOWN + 0.25)
    assert worker.fitting() == 0


def test_beyond_the_first_threshold_a_large_memory_has_room_still_and_a_small_one_none():
    for limit, fitting in ((200, 0), (20_000, MOST)):
        worker = Worker(limit)
        worker.resident = 0.91 * limit
        worker.read()
        assert worker.fitting() == fitting


def test_a_new_worker_short_of_memory_learns_from_one_at_a_time_that_its_connections_are_cheap():
    worker, inside = Worker(220), 0
    worker.resident = 0.88 * 220
    for _ in range(20):
        worker.read()
        came = worker.herd(10)
        assert came == 1 or worker.room.cost < MIB
        inside += came
        worker.resident += 0.05 * came
        worker.wait(UNSHOWN + 0.25)
    assert inside > 30
    assert worker.resident < 0.91 * 220


def shared(used: int, allowed: int) -> Use:
    return Use(used * MIB, allowed * MIB, used * MIB)


@pytest.mark.parametrize(("workers", "fitting"), [(1, 27), (2, 13), (4, 6)])
def test_what_is_shared_is_divided_among_the_workers(workers, fitting):
    room = Room(Thresholds(0.85, 0.95))
    room.workers = workers
    room.read((shared(60, 200),), 50 * MIB)
    assert room.newcomers(0.0, 50 * MIB, 0) == fitting


def test_what_the_process_has_grown_since_the_reading_is_taken_from_what_is_shared():
    room = Room(Thresholds(0.85, 0.95))
    room.read((shared(60, 200),), 50 * MIB)
    assert room.newcomers(0.0, 90 * MIB, 0) == (110 - 40) // 4


def test_the_tightest_use_counts_and_without_any_there_is_no_end():
    room = Room(Thresholds(0.85, 0.95))
    assert room.newcomers(0.0, 50 * MIB, 0) == MOST
    room.read((shared(60, 20_000), Use(50 * MIB, 100 * MIB, 0, is_shared=False)), 50 * MIB)
    assert room.newcomers(0.0, 50 * MIB, 0) == 35 // 4
