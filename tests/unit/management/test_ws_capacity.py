"""``ws_capacity``: what it prints, what it refuses, and that it opens nothing unless told to."""

import io
import json
from dataclasses import replace

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from channels_admission.core.readings import Load
from channels_admission.exceptions import LedgerRefused, LedgerUnavailable
from channels_admission.management.commands import ws_capacity
from channels_admission.management.commands.ws_capacity import Command
from channels_admission.management.opening import Stopped
from channels_admission.status.snapshot import collect
from channels_admission.status.values import Snapshot, WorkerSnapshot

from support.footprints import told

URL = "ws://127.0.0.1:8000/ws/"


@pytest.fixture
def workers(admission, monkeypatch):
    """The workers that the ledger tells, or its error."""
    admission(MAX_CONNECTIONS=1000)
    found: list = []

    async def collect(settings, within):
        if found and isinstance(found[0], Exception):
            raise found[0]
        return tuple(found)

    monkeypatch.setattr(ws_capacity.capacity, "collect", collect)
    return found


@pytest.fixture
def measured(monkeypatch):
    """The plans that are measured, and the readings, or the error, that comes of it."""
    plans: list = []
    readings: list = []

    async def measure(plan, room, read, within):
        plans.append((plan, await room()))
        if isinstance(readings[0], Exception):
            raise readings[0]
        return readings

    monkeypatch.setattr(ws_capacity, "measure", measure)
    return plans, readings


def printed(*args: str) -> str:
    """What is printed, on one line."""
    out = io.StringIO()
    call_command("ws_capacity", *args, stdout=out)
    return " ".join(out.getvalue().split())


def refused(*args: str) -> CommandError:
    with pytest.raises(CommandError) as caught:
        printed(*args)
    return caught.value


def test_what_the_workers_have_told_is_enough(workers):
    workers += [told(1), told(2)]
    text = printed()
    assert "A connection takes 100 KiB and 1 open file: measured on 1,000 connections of the site." in text
    assert "Pool default: its history is too short or not known." in text


def test_the_json_has_every_field_that_the_help_tells(workers):
    workers.append(told())
    found = json.loads(printed("--json"))
    assert found["cost"] == {"memory": 102400, "files": 1.0, "source": "measured", "connections": 500}
    (worker,) = found["workers"]
    assert worker["now"] == [510, *told().footprint.now[1:]]
    text = " ".join(Command().create_parser("manage.py", "ws_capacity").format_help().split())
    names = {*found, *found["cost"], *worker, *found["proposal"], *found["growth"][0]}
    assert [name for name in names if name not in text] == []
    assert found["proposal"]["max_connections"] == worker["by_files"]
    assert found["growth"] == [
        {"pool": "default", "held": None, "limit": None, "hours": 0.0, "per_hour": None, "reached_in": None}
    ]


def test_the_help_is_wrapped(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = Command().create_parser("manage.py", "ws_capacity").format_help()
    assert max(map(len, text.splitlines())) <= 80
    assert "[--header 'NAME: VALUE']" in text


def test_without_workers_there_is_nothing_to_tell(workers):
    assert str(refused()) == "No worker has told what it uses: none runs, or it is older than this command."
    assert refused().returncode == 1


@pytest.mark.parametrize("error", [LedgerUnavailable("away"), LedgerRefused("no rights")])
def test_a_ledger_that_is_away(workers, error):
    workers.append(error)
    assert str(refused()) == f"The ledger cannot be read: {error}"
    assert refused().returncode == 2


def test_its_own_connections_are_measured_within_the_room_of_the_pool(workers, measured):
    plans, readings = measured
    workers.append(told())
    readings += [[told(now=20, each=50)], [told(now=100, each=50)]]
    args = ("--message=hello", "--times=20", "--header=Cookie: sessionid=a:b", "--header", "X-A:1")
    text = printed("--open", "100", URL, *args)
    assert "A connection takes 50 KiB and 1 open file: measured on 80 connections opened for this." in text
    ((plan, free),) = plans
    assert (plan.url, plan.count, plan.message, plan.times, free) == (URL, 100, "hello", 20, 1000)
    assert plan.headers == [("Cookie", "sessionid=a:b"), ("X-A", "1")]


def test_connections_that_reach_no_worker_of_the_ledger_are_no_measurement(workers, measured):
    workers.append(told())
    measured[1].extend([[told(now=20)], [told(now=59)]])
    assert "is the URL that of their site?" in str(refused("--open", "100", URL))
    measured[1][1] = [told(now=60)]
    assert "measured on 40 connections" in printed("--open", "100", URL)


def test_a_measurement_that_stops_says_why(workers, measured):
    workers.append(told())
    measured[1].append(Stopped("50 of 100 were closed"))
    assert str(refused("--open", "100", URL)) == "50 of 100 were closed"


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("--open", "99", URL), "100 to 10,000 connections"),
        (("--open", "10001", URL), "100 to 10,000 connections"),
        (("--open", "many", URL), "not 'many'"),
        (("--open", "100", "http://127.0.0.1/"), "is not the URL of a WebSocket"),
        (("--open", "100", "wss://example.org/"), "add: --confirm example.org"),
        (("--open", "100", "wss://example.org/", "--confirm", "other.example.org"), "add: --confirm example.org"),
        (("--open", "100", URL, "--times=0"), "--times: 1 to 1,000"),
        (("--open", "100", URL, "--header=none"), "NAME: VALUE, not 'none'"),
        (("--pool=chat",), "There is no admission pool 'chat'"),
        (("--message=hello",), "--message goes with --open"),
        (("--confirm=example.org",), "--confirm goes with --open"),
    ],
)
def test_what_it_refuses(workers, measured, args, why):
    workers.append(told())
    assert why in str(refused(*args))
    assert measured[0] == []


def test_another_host_is_measured_when_it_is_named_twice(workers, measured):
    workers.append(told())
    measured[1].extend([[told(now=20)], [told(now=100)]])
    printed("--open", "100", "wss://example.org/", "--confirm", "example.org")
    assert measured[0][0][0].url == "wss://example.org/"


def test_a_monitor_that_refuses_leaves_no_room(workers, measured, monkeypatch):
    async def pressed(settings) -> Snapshot:
        snapshot = await collect(settings)
        (pool,) = snapshot.pools
        load = (Load("memory", 0.9, 0.5),)
        worker = WorkerSnapshot("a:1:x", "a", 1, "daphne", 0, 0.1, 9.0, load)
        return replace(snapshot, pools=(replace(pool, workers=(worker,)),))

    workers.append(told())
    measured[1].extend([[told(now=20)], [told(now=100)]])
    monkeypatch.setattr(ws_capacity, "collect_snapshot", pressed)
    printed("--open", "100", URL)
    assert measured[0][0][1] is None


def test_a_ledger_that_goes_away_meanwhile(workers, measured, monkeypatch):
    async def away(settings) -> Snapshot:
        snapshot = await collect(settings)
        return replace(snapshot, ledger=replace(snapshot.ledger, error="gone"), pools=())

    workers.append(told())
    monkeypatch.setattr(ws_capacity, "collect_snapshot", away)
    assert str(refused("--open", "100", URL)) == "The ledger cannot be read: gone"
