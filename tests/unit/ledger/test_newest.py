"""The newest data of a pool that this process has seen."""

from channels_admission.ledger.newest import Newest

PLACE, OTHER = ("redis://a", "admission", "default"), ("redis://a", "admission", "chat")


def read(newest: Newest, since: float | None, version: int, now: float = 0.0, place=PLACE) -> bool:
    return newest.is_older(place, since, version, now, lease=30.0)


def test_data_of_a_lower_version_are_older_until_they_have_stayed_for_a_lease():
    newest = Newest()
    assert [read(newest, 5.0, version) for version in (7, 7, 8)] == [False] * 3
    assert [read(newest, 5.0, 7, now) for now in (1.0, 30.9)] == [True] * 2
    assert not read(newest, 5.0, 7, 31.0)
    assert not read(newest, 5.0, 7, 32.0)


def test_the_lease_counts_from_the_latest_time_at_which_older_data_came():
    newest = Newest()
    assert [read(newest, 5.0, version, now) for version, now in ((8, 0.0), (7, 1.0), (9, 20.0), (8, 31.0))] == [
        False, True, False, True,
    ]  # fmt: skip


def test_counters_that_began_later_are_newer_whatever_their_version():
    newest = Newest()
    assert not read(newest, 5.0, 90)
    assert not read(newest, 6.0, 1)
    assert read(newest, 5.0, 95)


def test_what_a_worker_of_this_process_has_heard_counts_as_seen():
    newest = Newest()
    newest.hear(PLACE, 9)
    newest.hear(PLACE, 8)
    assert read(newest, 5.0, 8)
    assert not read(newest, 5.0, 8, place=OTHER)
    assert not read(newest, 5.0, 9)
    newest.hear(PLACE, 12)
    assert read(newest, 5.0, 11)
    assert not read(newest, 6.0, 11)


def test_a_reply_that_comes_during_a_read_does_not_make_it_older():
    newest = Newest()
    assert not read(newest, 5.0, 8)
    before = newest.seen(PLACE)
    newest.hear(PLACE, 9)
    assert not newest.is_older(PLACE, 5.0, 8, 0.0, 30.0, before)
    assert newest.is_older(PLACE, 5.0, 7, 0.0, 30.0, before)
    assert newest.seen(PLACE) == (5.0, 9)
    assert read(newest, 5.0, 8)


def test_a_pool_that_the_ledger_does_not_know_is_not_older_and_changes_nothing():
    newest = Newest()
    assert not read(newest, 5.0, 9)
    assert not read(newest, None, 0)
    assert read(newest, 5.0, 8)
