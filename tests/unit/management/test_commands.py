"""The commands that change something, as an operator types them, and what the status then says of it."""

import asyncio
import io
import json
import re
from dataclasses import replace

import pytest
import redis
from django.core.management import CommandError, ManagementUtility, call_command, load_command_class

from channels_admission import controls
from channels_admission.core.overrides import Controls, Drain
from channels_admission.exceptions import ControlError
from channels_admission.ledger import open_ledger
from channels_admission.ledger.layout import LAYOUT
from channels_admission.ledger.overrides import MOST_BYTES, text
from channels_admission.ledger.redis import RedisLedger
from channels_admission.management import base

from support.faulty import lose_changes
from support.reports import Reporter


@pytest.fixture
def shared(admission, redis_server, monkeypatch):
    """Settings whose counts are in Redis, and an operator called ann."""
    monkeypatch.setattr(base.getpass, "getuser", lambda: "ann")
    return lambda **keys: admission(LEDGER=redis_server.url, MAX_CONNECTIONS=50, **keys)


def run(name, *arguments):
    out = io.StringIO()
    call_command(name, *arguments, stdout=out, no_color=True)
    return out.getvalue()


def fails(name, *arguments):
    with pytest.raises(CommandError) as failure:
        run(name, *arguments)
    return failure.value.returncode, str(failure.value)


def tell(settings, held=0, nonce="ab", last=None, **changes):
    """Report as a worker, the same as the ``last`` where there is one; gives its report."""

    async def report():
        ledger = open_ledger(settings)
        reporter = Reporter(ledger, nonce, limit=50, pid=7)
        reporter.last = last or reporter.last
        await reporter.say(held, **changes)
        await ledger.aclose()
        return reporter.last

    return asyncio.run(report())


def test_a_limit_is_set_shown_and_reset(shared):
    shared()
    assert run("ws_limit").splitlines()[0] == "Pool default: limit 50 by the settings"
    assert run("ws_limit", "80") == "Pool default: limit from 50 by the settings to 80\n"
    assert re.match(r"Pool default: limit 80, set by ann at [-\d]+ [\d:]+ UTC\n", run("ws_limit", "default"))
    assert run("ws_limit", "80") == "Pool default has a limit of 80 already.\n"
    assert run("ws_limit", "default", "20", "--enforce") == (
        "Pool default: limit from 80 to 20 (enforced within 10 s)\n"
    )
    assert "Limit 20 instead of 50, enforced within 10 s, set by ann at" in " ".join(run("ws_status").split())
    (pool,) = json.loads(run("ws_status", "--json"))["pools"]
    assert (pool["limit"], pool["configured"], pool["controls"]["limit"]["by"]) == (20, 50, "ann")
    assert run("ws_limit", "--reset") == ("Pool default: limit from 20 (enforced within 10 s) to 50 by the settings\n")


def test_a_pause_and_a_dry_run_are_told(shared):
    settings = shared(POOLS={"chat": {}})
    tell(settings, counters={"admitted": 9, "dry:full": 7})
    assert run("ws_pause", "chat") == "Pool chat: admissions from open to paused\n"
    assert run("ws_pause", "chat") == "Pool chat is paused already.\n"
    assert run("ws_dry_run", "on") == "Pool default: dry run from off by the settings to on\n"
    assert run("ws_dry_run", "chat").splitlines()[1].startswith("Pool chat: admissions paused, set by ann at")
    status = " ".join(run("ws_status").split())
    assert "Paused, set by ann at" in status
    assert re.search(r"Dry run, set by ann at [-:0-9 ]+ UTC: no connection is refused\. Would have", status)
    assert "Would have been refused so far: 7 pool full" in status
    assert run("ws_pause", "chat", "--resume") == "Pool chat: admissions from paused to open\n"
    assert run("ws_dry_run", "off") == "Pool default: dry run from on to off\n"
    assert "No dry run, set by ann" in " ".join(run("ws_status").split())
    assert run("ws_dry_run", "--reset") == "Pool default: dry run from off to off by the settings\n"


def test_a_drain_of_all_tells_of_the_workers_that_it_may_miss(shared, redis_server):
    settings = shared()
    tell(settings, 3)
    client = redis.Redis.from_url(redis_server.url)
    now = int(client.time()[0]) * 1000
    client.hset(f"{settings.prefix}:{{default}}:layouts", f"{LAYOUT + 1}", f"7|2|{now + 60_000}")
    told = "; it may miss workers of another version (2): drain their hosts"
    assert run("ws_drain", "--all") == f"Pool default: drain of all workers from none to 60 s{told}\n"
    assert run("ws_drain", "--host", "host") == "Pool default: drain of host from none to 60 s\n"
    assert run("ws_drain", "--all", "--cancel").count("to none\n") == 2


def test_a_drain_is_told_and_cancelled(shared):
    settings = shared()
    tell(settings, 3, draining=True)
    assert run("ws_drain", "--worker", "host:7", "--over", "5") == "Pool default: drain of host:7:ab from none to 5 s\n"
    assert run("ws_drain", "--host", "host") == "Pool default: drain of host from none to 60 s\n"
    status = " ".join(run("ws_status").split())
    assert "Drain of host:7:ab within 5 s, set by ann at" in status
    assert "Draining: host 7" in status
    assert run("ws_drain", "--worker", "host:7", "--cancel") == "Pool default: drain of host:7:ab from 5 s to none\n"
    assert run("ws_drain", "--all", "--cancel") == "Pool default: drain of host from 60 s to none\n"
    assert run("ws_drain", "--all", "--cancel") == "There is no such drain.\n"


def test_no_more_than_ten_drains_are_shown(shared):
    settings = shared()
    for number in range(12):
        asyncio.run(drain_host(settings, f"web-{number}"))
    status = " ".join(run("ws_status").split())
    assert status.count("Drain of web-") == 10
    assert "2 more drains: ws_limit default lists them all" in status
    assert run("ws_limit").count("drain of web-") == 12


async def drain_host(settings, host):
    ledger = open_ledger(settings)
    reporter = Reporter(ledger, "ab", limit=50)
    reporter.last = replace(reporter.last, worker=f"{host}:7:ab")
    await reporter.say()
    await ledger.aclose()
    await controls.adrain(host, by="ann", over=5)


@pytest.mark.parametrize("room", [0, 10])
def test_a_drain_for_which_there_is_no_room_leaves_those_that_there_are(shared, room):
    settings = shared()
    tell(settings)
    new = Drain("host", 5.0, "ann", 1_790_000_000.0)

    def drains(last):
        names = [*["ü" * 40] * 30, "ü" * (last // 6) + "x" * (last % 6)]
        return tuple(Drain(f"web{number}", 5.0, by, 1.0, 1, 1) for number, by in enumerate(names))

    length = len(text(Controls(1_790_000_000_000, drains=(*drains(0), new))))
    there = Controls(drains=drains(MOST_BYTES - room - length))

    async def order():
        ledger = open_ledger(settings)
        assert await ledger.control("default", there, 0)
        await ledger.aclose()

    asyncio.run(order())
    with pytest.raises(ControlError):
        controls.drain("host", by="ann", over=5)
    assert len(controls.cancel("web0", by="ann")) == 1
    assert len(controls.drain("host", by="ann", over=5)) == 1


def test_a_drain_that_nobody_is_left_of_is_not_told(shared):
    settings = shared()
    worker = tell(settings, 3)
    run("ws_drain", "--all", "--over", "1")
    run("ws_drain", "--host", "host")
    assert "Drain of all workers" in " ".join(run("ws_status").split())
    tell(settings, last=worker, goodbye=True)
    status = " ".join(run("ws_status").split())
    assert "Drain of all workers" not in status
    assert "Drain of host within 60 s" in status


def test_a_worker_whose_name_two_have_is_drained_by_its_id(shared):
    settings = shared()
    tell(settings)
    tell(settings, nonce="cd")
    returncode, text = fails("ws_drain", "--worker", "host:7")
    assert (returncode, text) == (1, "More than one worker is 'host:7'; give its id: host:7:ab, host:7:cd.")
    assert run("ws_drain", "--worker", "host:7:cd", "--over", "5").endswith("drain of host:7:cd from none to 5 s\n")


def test_what_was_changed_before_a_fault_is_printed(shared, monkeypatch, capsys):
    tell(shared(POOLS={"chat": {}}))
    lose_changes(monkeypatch, RedisLedger, "chat")
    out = io.StringIO()
    with pytest.raises(CommandError, match="The ledger cannot be reached: gone"):
        call_command("ws_drain", "--all", stdout=out)
    assert out.getvalue() == "Pool default: drain of all workers from none to 60 s\n"


@pytest.mark.parametrize("at", ["999999999999", "999999999999.999", "253402300800", "0"])
def test_a_date_that_none_of_ours_can_have_set_is_shown_as_one(shared, redis_server, at):
    settings = shared()
    tell(settings, 50, draining=True)
    orders = f"limit=40,{at},a;paused=1,{at},a;dry_run=1,{at},a;drain:host=1:2/5,{at},a;drain:*=1:2/5,{at},a"
    with redis.Redis.from_url(redis_server.url) as client:
        client.hset(f"{settings.prefix}:{{default}}:controls", "set", f"5;{orders}")
    date = "1970-01-01 00:00:00" if at == "0" else "9999-12-31 23:59:59"
    shown = f"set by a at {date} UTC"
    status = " ".join(run("ws_status").split())
    for order in ("Limit 40 instead of 50", "Paused", "Drain of host within 5 s"):
        assert f"{order}, {shown}" in status
    assert f"Pool default: admissions paused, {shown}" in run("ws_limit")
    (pool,) = json.loads(run("ws_status", "--json"))["pools"]
    controls = pool["controls"]
    for order in (controls["limit"], controls["paused"], controls["dry_run"], *controls["drains"]):
        assert order["at"] == (0 if at == "0" else 253_402_300_799)
    for options in ((), ("--json",)):
        out = io.StringIO()
        with pytest.raises(SystemExit) as ended:
            call_command("ws_status", "--diagnose", *options, stdout=out, no_color=True)
        assert ended.value.code == 2
        assert "set by a at" in out.getvalue()
    with pytest.raises(SystemExit) as ended:
        run("ws_status", "--check")
    assert ended.value.code == 2


def test_workers_with_different_settings_are_told_with_the_limit_in_force(shared):
    settings = shared()
    tell(settings, 10)
    tell(settings, 5, nonce="cd", limit=500, warn_at=0.3)
    line = "Workers have different settings, and the strictest values are in force: "
    line += "MAX_CONNECTIONS 50 and 500; WARN_AT 0.3 and 0.7"
    status = " ".join(run("ws_status").split())
    assert line in status
    assert "15 of 50 slots held" in status
    (pool,) = json.loads(run("ws_status", "--json"))["pools"]
    assert (pool["limit"], pool["configured"], pool["warn_at"], pool["level"]) == (50, 50, 0.3, "warning")
    assert pool["differs"]["limit"] == [
        {"value": 50, "number": 1, "workers": ["host:7:ab"]},
        {"value": 500, "number": 1, "workers": ["host:7:cd"]},
    ]
    out = io.StringIO()
    with pytest.raises(SystemExit):
        call_command("ws_status", "--diagnose", stdout=out, no_color=True)
    assert "Workers of pool default have different settings Warning" in " ".join(out.getvalue().split())
    assert "limit-differs" not in out.getvalue()


def test_a_diagnosis_names_the_operator_of_each_override(shared):
    settings = shared()
    tell(settings, 50, draining=True)
    run("ws_limit", "40")
    run("ws_pause")
    run("ws_dry_run", "on")
    out = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("ws_status", "--diagnose", stdout=out, no_color=True)
    assert ended.value.code == 2
    text = " ".join(out.getvalue().split())
    assert "Pool default is paused Critical New connections are refused, set by ann at" in text
    assert "Dry run: pool default refuses no connection" in text
    assert "Draining workers of pool default: 1 of 1" in text
    assert "The limit comes from ws_limit or the admin, set by ann at" in text
    assert "limit-differs" not in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("ws_limit", "defualt", "5"), 1, "There is no admission pool 'defualt'. Did you mean 'default'?"),
        (("ws_limit", "2.5"), 1, "A limit is a whole number, not '2.5'."),
        (("ws_limit", "1e3"), 1, "A limit is a whole number, not '1e3'."),
        (("ws_limit", "default", "2.5"), 1, "A limit is a whole number, not '2.5'."),
        (("ws_limit", "default", "many"), 1, "A limit is a whole number, not 'many'."),
        (("ws_limit", "default", "9" * 5000), 1, "A limit is a whole number, not '999"),
        (("ws_limit", "10000001"), 1, "A limit is a whole number from 0 to 10,000,000, not 10,000,001."),
        (("ws_limit", "a", "b", "5"), 1, "Give at most one pool and one value."),
        (("ws_limit", "5", "--reset"), 1, "--reset takes neither a value nor --enforce."),
        (("ws_limit", "--enforce"), 1, "--enforce needs a value, and --over needs --enforce."),
        (("ws_limit", "5", "--over", "3"), 1, "--enforce needs a value, and --over needs --enforce."),
        (("ws_dry_run", "on", "off"), 1, "Give at most one pool, and one of on, off and --reset."),
        (("ws_drain", "--host", "hots"), 1, "No host 'hots' is known."),
        (("ws_drain", "--host", "*"), 1, "'*' is a pattern: give the name of one worker or host. All workers are"),
        (("ws_drain", "--host", "*", "--cancel"), 1, "'*' is a pattern"),
        (("ws_drain", "--host", "hos?"), 1, "'hos?' is a pattern"),
        (("ws_drain", "--worker", "*:7"), 1, "'*:7' is a pattern"),
        (("ws_drain", "--host", ""), 1, "No host '' is known."),
        (("ws_drain", "--worker", "7"), 1, "A worker's name has a colon, host:pid; a host's name has none."),
        (("ws_drain", "--all", "--over", "90000"), 1, "A time is from 0 to 86,400 seconds, not 90000."),
        (("ws_drain", "--all", "--over", "9", "--cancel"), 1, "--cancel does not go with --over."),
    ],
)  # fmt: skip
def test_what_cannot_be_set_is_said(shared, arguments, code, message):
    shared()
    returncode, text = fails(*arguments)
    assert returncode == code
    assert text.startswith(message)


def test_a_ledger_that_is_down_is_another_exit_code(admission, unused_tcp_port):
    admission(LEDGER=f"redis://127.0.0.1:{unused_tcp_port}/0")
    returncode, text = fails("ws_pause")
    assert returncode == 2
    assert text.startswith("The ledger cannot be reached: ConnectionError")


@pytest.mark.parametrize("arguments", [("ws_limit", "5"), ("ws_pause",), ("ws_dry_run", "on"), ("ws_drain", "--all")])
def test_wrong_settings_are_said(settings, arguments):
    settings.CHANNELS_ADMISSION = {"LEESE": 3}
    returncode, text = fails(*arguments)
    assert returncode == 1
    assert text.startswith("CHANNELS_ADMISSION has no key 'LEESE'. Did you mean 'LEASE'?")


def test_the_memory_ledger_of_another_process_cannot_be_reached(admission):
    admission()
    returncode, text = fails("ws_limit", "5")
    assert returncode == 1
    assert text.startswith("The memory ledger is inside the worker's process")


@pytest.mark.parametrize("name", ["ws_limit", "ws_pause", "ws_drain", "ws_dry_run"])
def test_help_tells_the_exit_code(name, capsys):
    with pytest.raises(SystemExit):
        call_command(name, "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "The exit code is 0, 1 if the change is refused, and 2 if the ledger" in text


# In a shell


def completed(monkeypatch, capsys, *words: str) -> list[str]:
    """What the shell offers for the last word, by Django's completion."""
    line = ("manage.py", *words)
    monkeypatch.setenv("DJANGO_AUTO_COMPLETE", "1")
    monkeypatch.setenv("COMP_WORDS", " ".join(line).rstrip())
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    with pytest.raises(SystemExit) as end:
        ManagementUtility(list(line)).autocomplete()
    assert end.value.code == 0
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("command", "own"),
    [
        ("ws_status", {"--diagnose", "--json", "--pool=", "--watch="}),
        ("ws_limit", {"--enforce", "--over=", "--reset"}),
        ("ws_pause", {"--resume"}),
        ("ws_dry_run", {"--reset"}),
        ("ws_drain", {"--all", "--cancel", "--host=", "--worker="}),
    ],
)
def test_a_shell_completes_the_commands_and_their_options(monkeypatch, capsys, command, own):
    assert command in completed(monkeypatch, capsys, "ws_")
    assert own < set(completed(monkeypatch, capsys, command, "--"))


@pytest.mark.parametrize("command", ["ws_status", "ws_limit", "ws_pause", "ws_dry_run", "ws_drain"])
def test_help_fits_a_terminal_and_tells_the_exit_codes(monkeypatch, capsys, command):
    monkeypatch.setenv("COLUMNS", "80")
    load_command_class("channels_admission", command).print_help("manage.py", command)
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert "exit code" in " ".join(said.split()).lower()
