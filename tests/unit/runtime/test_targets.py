"""The targets of drains: which worker or host a name means, and which names are refused."""

import pytest

from channels_admission.exceptions import ControlError
from channels_admission.runtime import targets

IDS = ("web-1:7:ab", "web-1:8:cd", "web-2:7:ef", "web-2:7:gh")


@pytest.mark.parametrize(
    ("target", "expected"),
    [("web-1:7", "web-1:7:ab"), ("web-2:7:gh", "web-2:7:gh"), ("web-1", "web-1")],
)
def test_a_target_is_a_worker_by_id_or_pid_or_a_host(target, expected):
    assert targets.known(target, IDS) == expected


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("wep-2", "No host 'wep-2' is known. Did you mean 'web-2'?"),
        ("wep-1:8", "No worker 'wep-1:8' is known. Did you mean 'web-1:8'?"),
        ("database", "No host 'database' is known."),
        ("web-2:7", "More than one worker is 'web-2:7'; give its id: web-2:7:ef, web-2:7:gh."),
        (
            "web-*",
            "'web-*' is a pattern: give the name of one worker or host. All workers are drained by ws_drain --all.",
        ),
    ],
)
def test_other_names_are_refused(target, message):
    with pytest.raises(ControlError) as found:
        targets.known(target, IDS)
    assert str(found.value) == message


def test_a_name_in_a_message_is_cut_and_printable():
    with pytest.raises(ControlError, match=r"^No host '\?\?x{38}' is known\.$"):
        targets.known("\x1b\x07" + "x" * 99, IDS)


def test_the_host_of_a_target_that_is_not_known_is_spelled_as_in_ids():
    assert targets.resolved("web 1:9", IDS) == "web_1:9"
    assert targets.resolved("", IDS) == ""
