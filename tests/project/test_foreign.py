"""The libraries of other people: the versions that npm takes, and how their attempts are judged."""

import json
import re

import pytest

from benchmarks.foreign.__main__ import CHROMIUM, NODE, PACKAGES, PYTHON, table
from benchmarks.foreign.measuring import Seen
from benchmarks.foreign.pages import PLACES

from support import ROOT

FOLDERS = ("benchmarks/foreign", "tests/js/libraries", "tests/js/manifests")


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_lock_names_what_the_package_asks_for_and_no_address(folder):
    asked = json.loads((ROOT / folder / "package.json").read_text())["dependencies"]
    text = (ROOT / folder / "package-lock.json").read_text()
    lock = json.loads(text)["packages"]
    assert lock[""]["dependencies"] == asked
    assert {name: lock[f"node_modules/{name}"]["version"] for name in asked} == {
        name: version.rpartition("@")[2] for name, version in asked.items()
    }
    assert "://" not in "".join(line for line in text.splitlines() if '"url"' not in line)


def test_the_page_tells_what_each_client_does_and_in_which_version():
    page = (ROOT / "docs" / "clients.md").read_text()
    asked = json.loads((ROOT / "benchmarks" / "foreign" / "package.json").read_text())["dependencies"]
    told = dict(re.findall(r"^\| ([\w-]+) ([\d.]+) \|", page, re.MULTILINE))
    assert set(told) == {*NODE, *CHROMIUM, *PYTHON}
    for name in (*NODE, *CHROMIUM):
        assert told[name] == asked[PACKAGES.get(name, name)].rpartition("@")[2]


@pytest.mark.parametrize("client", ["htmx-2", "htmx-4", "ActionCable"])
def test_the_lines_of_the_page_are_those_that_were_measured(client):
    assert PLACES[client] in (ROOT / "docs" / "clients.md").read_text()


def attempt(at, ended=None, hint=None, admitted=False):
    return {"at": at, "admitted": admitted, "hint": hint, **({} if ended is None else {"ended": ended})}


def test_a_client_that_comes_at_the_hint_heeds_it():
    attempts = [
        attempt(0, 0.25, 4),
        attempt(4.25, 4.5, 6.5),
        attempt(11, 20, admitted=True),
        attempt(24, admitted=True),
    ]
    seen = Seen(attempts, 10.0)
    assert (seen.while_full, seen.entered, seen.returned, seen.heeds) == (2, 1.0, 4, True)


def test_attempts_are_counted_for_as_long_as_the_client_has_run_not_until_the_last_one_has_begun():
    assert Seen([attempt(at) for at in range(40)], 35.0).while_full == 25


def test_the_pace_of_attempts_is_that_of_the_second_half_while_the_pool_is_full():
    assert Seen([attempt(100 + at) for at in (0, 0.5, 1, 5, 9, 12.5, 16, 21.5, 28, 29)], 127.5).interval == 4.5
    assert Seen([attempt(at) for at in (0, 0.5, 16, 28)], 25.0).interval is None
    assert Seen([], 25.0).interval is None


@pytest.mark.parametrize("late", [-0.25, 0.75])
def test_a_client_that_comes_at_another_time_does_not(late):
    assert not Seen([attempt(0, 0, 4), attempt(4 + late, 4)], 10.0).heeds


def test_a_client_that_has_given_up_never_gets_in():
    gone = Seen([attempt(0, 0, 4), attempt(1, 1), attempt(3, 3)], 25.0)
    growing = Seen([attempt(0, 0, 4), attempt(8, 8), attempt(24, 24)], 25.0)
    kinds = {"close": gone, "http": growing, "restart": Seen([], 25.0), "unheld": growing}
    assert list(table({"one": kinds}, {"one": "one 1.0"}))[2:] == [
        "| one 1.0 | 3 | – | 3 | never | 3 | after 15 s | never | not |"
    ]
    steady = Seen([attempt(at, at) for at in (0, 13, 17, 22)], 25.0)
    kinds = {"close": steady, "http": gone, "restart": gone}
    assert list(table({"two+": kinds}, {"two+": "two 2.0"}))[2].startswith("| two 2.0 | 4 | 4.5 s |  | after 15 s |")
