"""The guard is a variable of the environment, and leaves it as it was."""

import pytest

from channels_admission.core.guard import VARIABLE, guarding, is_guarded


@pytest.mark.parametrize("before", [{}, {VARIABLE: "on"}, {VARIABLE: "off"}, {VARIABLE: "1"}])
def test_the_guard_is_on_or_off_within_its_block_and_then_as_before(before):
    environ = dict(before)
    for on in (True, False):
        with guarding(environ, on=on):
            assert is_guarded(environ) is on
        assert environ == before


def test_only_one_value_turns_it_on():
    assert [is_guarded(each) for each in ({}, {VARIABLE: "off"}, {VARIABLE: "1"}, {VARIABLE: "on"})] == [
        False, False, False, True,
    ]  # fmt: skip
