"""The admin: who sees what, the feed, the panel, hostile content, a ledger that is away, the page in a browser."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from importlib.resources import files
from io import StringIO

import pytest
from django.contrib import admin
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.core.management import call_command
from django.template import Context, Template
from django.test import RequestFactory, override_settings
from django.urls import include, path
from selenium.webdriver.support.wait import WebDriverWait

from channels_admission import __version__, conf, controls
from channels_admission.core.agreement import fingerprint
from channels_admission.core.counters import OTHER, Reason
from channels_admission.core.levels import Level
from channels_admission.core.readings import Load
from channels_admission.exceptions import LedgerUnavailable
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.models import Pool
from channels_admission.status import cache
from channels_admission.status.values import Health, Snapshot
from channels_admission.templatetags import channels_admission as tags

from support.pages import FEED, HISTORY, INDEX, PAGE, Page, report
from support.snapshots import BOUNDS

MONITORS = ("lag", "memory", "descriptors", "cpu", "threads")
NOWHERE = "redis://127.0.0.1:1/0"

urlpatterns = [path("admin/", admin.site.urls)]
ops = admin.AdminSite(name="ops")
ops.register(Pool, type(admin.site.get_model_admin(Pool)))
empty = admin.AdminSite(name="empty")


def content_security_policy(get_response):
    """A middleware that lets a browser take scripts and styles from files of this origin only."""

    def answer(request):
        response = get_response(request)
        response["Content-Security-Policy"] = (
            "default-src 'none'; script-src 'self'; style-src 'self'; "
            "img-src 'self'; connect-src 'self'; form-action 'self'"
        )
        return response

    return answer


@pytest.fixture(autouse=True)
def _here(settings, monkeypatch):
    settings.ROOT_URLCONF = __name__
    monkeypatch.setattr(cache, "_remembered", None)


@pytest.fixture
def staff(db):
    return User.objects.create_user("staff", is_staff=True)


@pytest.fixture
def viewer(staff):
    staff.user_permissions.add(Permission.objects.get(codename="view_pool"))
    return User.objects.get(pk=staff.pk)


@pytest.fixture
def chief(db):
    return User.objects.create_superuser("chief")


@pytest.fixture
def as_viewer(client, viewer):
    client.force_login(viewer)
    return client


def lose_ledger(monkeypatch) -> None:
    async def read(self, pools):
        raise LedgerUnavailable("ConnectionError: nobody there")

    monkeypatch.setattr(MemoryLedger, "read", read)


def page(response) -> Page:
    assert response.status_code == 200
    return Page(response.content.decode())


# Who sees what


@pytest.mark.django_db
@pytest.mark.parametrize("url", [PAGE, FEED, HISTORY])
def test_anonymous_is_sent_to_the_login(client, url):
    response = client.get(url)
    assert (response.status_code, response["Location"]) == (302, f"/admin/login/?next={url}")


@pytest.mark.parametrize("url", [PAGE, FEED, HISTORY])
def test_staff_without_the_permission_is_refused(client, staff, url, admission):
    admission()
    client.force_login(staff)
    assert client.get(url).status_code == 403


def test_staff_without_the_permission_sees_neither_panel_nor_entry(client, staff, admission):
    admission()
    client.force_login(staff)
    html = client.get(INDEX).content.decode()
    assert "data-admission" not in html
    assert "channels_admission" not in html


def test_a_viewer_sees_panel_entry_page_and_feed(as_viewer, admission):
    admission()
    index = page(as_viewer.get(INDEX))
    assert index.board()["data-feed"] == FEED
    assert ("a", {"href": PAGE, "class": "viewlink"}) in [
        (name, {key: given[key] for key in ("href", "class") if key in given}) for name, given in index.elements
    ]
    assert page(as_viewer.get(PAGE)).board()["data-feed"] == FEED
    assert as_viewer.get(FEED).status_code == 200


def test_nobody_adds_changes_or_deletes(client, rf, chief, admission):
    admission()
    client.force_login(chief)
    html = client.get(INDEX).content.decode()
    assert PAGE in html
    assert f"{PAGE}add/" not in html
    for end in ("add/", "default/", "default/change/", "default/delete/", "default/history/"):
        assert client.get(PAGE + end).status_code == 404
    request = rf.get("/")
    request.user = chief
    permissions = admin.site.get_model_admin(Pool).get_model_perms(request)
    assert permissions == {"add": False, "change": False, "delete": False, "view": True}


@pytest.mark.parametrize("url", [PAGE, FEED, HISTORY])
@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_only_reading_is_allowed(as_viewer, admission, url, method):
    admission()
    assert getattr(as_viewer, method)(url).status_code == 405


# The feed


UNTOUCHED = {
    **{name: {"number": 0, "seconds": 0.0, "within": dict.fromkeys(BOUNDS, 0)} for name in ("call_times", "waits")},
    "alert": "calm",
    "differs": {},
    "elsewhere": {"held": 0, "workers": 0},
    "paused": False,
    "dry_run": False,
    "would_refuse": {},
    "drained": 0,
    "aged": 0,
    "evicted": 0,
    "speed": None,
    "none_authenticated": False,
    "reserve": 0,
    "controls": {"version": 0, "limit": None, "paused": None, "dry_run": None, "drains": []},
}
"""A pool for which no operator has set anything."""


def test_feed_is_the_snapshot(as_viewer, admission):
    admission(MAX_CONNECTIONS=50, POOLS={"chat": {"MAX_CONNECTIONS": 8, "WARN_AT": 0.5}})
    report("web-1:4242:ab12", 40, age=75.0, server="uvicorn", counters={"admitted": 45, "full": 7, "ledger": 1})
    response = as_viewer.get(FEED)
    assert response["Content-Type"] == "application/json"
    assert "no-store" in response["Cache-Control"]
    body = response.json()
    (worker,) = body["pools"][0]["workers"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", body.pop("taken"))
    assert 0 <= worker.pop("silence") < 5
    assert 75 <= worker.pop("uptime") < 80
    assert 0 <= body["ledger"].pop("took") < 1
    assert [0 <= time.time() - pool.pop("now") < 5 for pool in body["pools"]] == [True, True]
    begun, unused = (pool.pop("since") for pool in body["pools"])
    assert 0 <= time.time() - begun < 15
    assert unused is None
    assert [pool.pop("connects")["total"] for pool in body["pools"]] == [53, 0]
    own = fingerprint(f"limit=50,warn_at=0.7,lease=30000,heartbeat=3000,site={conf.site()}")
    assert body == {
        "format": 1,
        "release": __version__,
        "enabled": True,
        "ledger": {"kind": "memory", "address": "this process", "health": "ok", "error": None},
        "pools": [
            {
                "name": "default",
                "held": 40,
                "limit": 50,
                "free": 10,
                "share": 0.8,
                "warn_at": 0.7,
                "level": "warning",
                "state": "warning",
                "admitted": 45,
                "refused": {"full": 7, "ledger": 1},
                "shed": 0,
                "healed": 0,
                "lost": 0,
                "lost_workers": [],
                "latest": {},
                "events_dropped": 0,
                "faults": {},
                "channels_full": 0,
                "layer_failed": 0,
                "classes": {},
                "overdue": 0,
                "delayed": 0,
                "promised": 0,
                "redeemed": 0,
                "missed": 0,
                "refusals_held": 0,
                "passed": 0,
                "unaccepted": 0,
                "outlived": 0,
                "calls": {"made": 0, "failed": 0, "seconds": 0.0},
                **UNTOUCHED,
                "alert": "warning",
                "configured": 50,
                "site": conf.site(),
                "settings": own,
                "workers": [
                    {
                        "id": "web-1:4242:ab12",
                        "host": "web-1",
                        "pid": 4242,
                        "server": "uvicorn",
                        "release": "",
                        "held": 40,
                        "load": [],
                        "draining": False,
                        "silent": False,
                        "failing": 0,
                        "shed": 0,
                        "layer_failed": 0,
                        "accepting": 0,
                        "jobs_waiting": 0,
                        "threads_busy": 0,
                        "settings": own,
                        "reserve": 0,
                        "faults": {},
                        "calls": {"made": 0, "failed": 0, "seconds": 0.0},
                    }
                ],
            },
            {
                "name": "chat",
                "held": 0,
                "limit": 8,
                "free": 8,
                "share": 0.0,
                "warn_at": 0.5,
                "level": "calm",
                "state": "calm",
                "admitted": 0,
                "refused": {},
                "shed": 0,
                "healed": 0,
                "lost": 0,
                "lost_workers": [],
                "latest": {},
                "events_dropped": 0,
                "faults": {},
                "channels_full": 0,
                "layer_failed": 0,
                "classes": {},
                "overdue": 0,
                "delayed": 0,
                "promised": 0,
                "redeemed": 0,
                "missed": 0,
                "refusals_held": 0,
                "passed": 0,
                "unaccepted": 0,
                "outlived": 0,
                "calls": {"made": 0, "failed": 0, "seconds": 0.0},
                **UNTOUCHED,
                "configured": 8,
                "site": None,
                "settings": None,
                "workers": [],
            },
        ],
    }


def test_feed_of_a_ledger_that_is_down_is_an_answer(as_viewer, admission):
    admission(LEDGER=NOWHERE)
    response = as_viewer.get(FEED)
    assert response.status_code == 200
    assert response.json()["ledger"]["health"] == "down"
    assert response.json()["pools"] == []


def test_the_past_is_told_for_every_pool_and_the_minutes_if_asked_for(as_viewer, admission):
    admission(MAX_CONNECTIONS=50, POOLS={"chat": {}})
    report("web-1:4242:ab12", 40, counters={"admitted": 45, "full": 7})
    pools = as_viewer.get(HISTORY).json()["pools"]
    assert set(pools) == {"default", "chat"}
    assert pools["default"].keys() == {"pool", "now", "seconds", "error"}
    assert pools["default"]["seconds"]["held"][-1] == 40
    assert sum(pools["default"]["seconds"]["refused"]["full"]) == 7
    pools = as_viewer.get(f"{HISTORY}?minutes").json()["pools"]
    assert (pools["default"]["minutes"]["step"], pools["default"]["minutes"]["held"][-1]) == (60, 40)
    admission(LEDGER=NOWHERE)
    assert "ConnectionError" in as_viewer.get(HISTORY).json()["pools"]["default"]["error"]


# What is rendered


def test_page_and_panel_show_counts_against_the_limit(as_viewer, admission):
    admission(MAX_CONNECTIONS=5000)
    report(
        "web-1:4242:ab12", 4500, age=7500.0, server="uvicorn", counters={"admitted": 9000, "full": 1234, "ledger": 1}
    )
    for url in (INDEX, PAGE):
        html = as_viewer.get(url).content.decode()
        assert '<strong data-field="pool.held">4,500</strong>' in html
        assert '<span data-field="pool.limit">5,000</span>' in html
        assert '<p class="admission-level" data-field="pool.state">Critical</p>' in html
        assert 'aria-valuemax="5000" aria-valuenow="4500" aria-valuetext="4,500 of 5,000 slots held"' in html
        assert '<rect class="admission-bar-held" width="90.0%" height="100%"/>' in html
        assert 'data-field="pool.refused">1,235<' in html
    assert '<span data-field="reason.name">pool full</span> <span data-field="reason.count">1,234</span>' in html
    assert '<span data-field="worker.pid">4242</span>' in html
    assert '<td class="admission-number" data-field="worker.uptime">2\xa0h 5\xa0min</td>' in html


def test_the_reasons_that_refuse_most_stand_first(as_viewer, admission):
    admission(MAX_CONNECTIONS=50, QUOTAS=[{"key": "user", "max": 1}])
    report(counters={"crowd": 2, "full": 7, "lag": 1, "quota:user": 90, "rate": 7})
    expected = ["quota:user", "full", "rate", "crowd", "lag"]
    assert list(as_viewer.get(FEED).json()["pools"][0]["refused"]) == expected
    html = as_viewer.get(PAGE).content.decode().partition("<template")[0]
    counts = re.findall(r'"reason.count">(\d+)<', html)
    assert counts == ["90", "7", "7", "2", "1"]


def test_the_page_shows_readings_classes_and_the_worst_seconds(as_viewer, admission, monkeypatch):
    admission()
    load = (Load("lag", 0.012, 0.0), Load("memory", 0.97, 1.0), Load("cpu", None, 0.0), Load("queue", 7.0, 0.0))
    report("web-1:1:ab", 4, load=load, counters={"quota:address": 3})
    seen = cache.look()
    (pool,) = seen.now.pools
    pools = (replace(pool, classes={"staff": 3, "guests": 1}),)
    monkeypatch.setattr(cache, "collect", _giving(replace(seen.now, pools=pools)))
    html = as_viewer.get(PAGE).content.decode()
    assert re.findall(r'load.name">([^<]+)</span> <span data-field="load.reading">([^<]+)<', html) == [
        ("lag", "12\xa0ms"), ("memory", "97\xa0%"), ("CPU", "?"), ("queue", "7"),
    ]  # fmt: skip
    assert 'data-key="memory" data-pressed' in html
    assert re.findall(r'class.name">(\w+)</span> <span data-field="class.held">(\d+)<', html) == [
        ("staff", "3"),
        ("guests", "1"),
    ]
    assert '<span data-field="reason.name">over the quota address</span>' in html
    assert re.search(r'second.at">\d\d:\d\d:\d\d</span> <span data-field="second.handshakes">3<', html)


def test_the_page_shows_unexpected_errors_of_a_worker(as_viewer, admission):
    admission()
    report("web-1:1:ab", 4, counters={"fault:OSError": 1200, "fault:ValueError": 1, "admitted": 4})
    report("web-1:2:cd", 4)
    html = as_viewer.get(PAGE).content.decode()
    assert re.findall(r'data-notice="faults"( hidden)?>[^<]+<span data-field="worker.faults">([^<]*)<', html)[:2] == [
        ("", "1,200 OSError, 1 ValueError"), (" hidden", ""),
    ]  # fmt: skip
    assert as_viewer.get(FEED).json()["pools"][0]["workers"][0]["faults"] == {"OSError": 1200, "ValueError": 1}


def test_the_page_shows_counters_of_a_pool_once_there_is_something_to_count(as_viewer, admission):
    admission()
    names = [
        "delayed", "promised", "refusals_held", "passed", "unaccepted", "outlived", "channels_full", "layer_failed",
        "evicted", "healed", "lost", "events_dropped", "speed",
    ]  # fmt: skip
    value = r"<dt>[^<]+</dt>\s*<dd(?:>\s*<span)?"
    page = rf'data-notice="({"|".join(names)})"( hidden)?>\s*{value} data-field="pool.\1">([^<]*)<'
    report("web-1:1:ab", 4)
    assert re.findall(page, as_viewer.get(PAGE).content.decode())[:13] == [(name, " hidden", "0") for name in names]
    counters = {
        "delayed": 7, "promised": 1300, "redeemed": 8, "missed": 2, "refusals.held": 9, "passed": 8,
        "unaccepted": 3, "outlived": 4, "layer.full": 11, "layer.failed": 12,
        "evicted": 5, "ledger.healed": 1200, "workers.lost": 7, "events.dropped": 6,
    }  # fmt: skip
    report("web-1:1:ab", 4, counters=counters, speed=1234.4)
    html = as_viewer.get(PAGE).content.decode()
    assert re.findall(page, html)[:13] == [
        ("delayed", "", "7"), ("promised", "", "1,300"), ("refusals_held", "", "9"), ("passed", "", "8"),
        ("unaccepted", "", "3"), ("outlived", "", "4"), ("channels_full", "", "11"), ("layer_failed", "", "12"),
        ("evicted", "", "5"),
        ("healed", "", "1,200"), ("lost", "", "7"), ("events_dropped", "", "6"), ("speed", "", "1,234"),
    ]  # fmt: skip
    tickets = r'<li>([^<]+) <span data-field="pool.(?:redeemed|missed)">([^<]*)<'
    told = [("redeemed", "8"), ("missed (came too late)", "2")]
    assert re.findall(tickets, html)[:2] == told


def crowded(now: Snapshot) -> Snapshot:
    """The snapshot with 103 workers in its first pool, each with as many slots as its pid, and two in trouble."""
    pool = now.pools[0]
    many = [replace(pool.workers[0], id=f"web-1:{pid}:ab", pid=pid, held=pid) for pid in range(1, 104)]
    many[1], many[2] = replace(many[1], draining=True), replace(many[2], silent=True)
    return replace(now, pools=(replace(pool, workers=tuple(many)), *now.pools[1:]))


WORST = [3, 2, *range(103, 5, -1)]


def test_of_many_workers_the_worst_are_shown_and_then_the_fullest(as_viewer, admission, monkeypatch):
    admission(MAX_CONNECTIONS=10)
    report("web-1:1:ab")
    monkeypatch.setattr(cache, "collect", _giving(crowded(cache.look().now)))
    html = as_viewer.get(PAGE).content.decode().partition("<template")[0]
    assert re.findall(r'data-key="web-1:(\d+):ab"', html) == [str(pid) for pid in WORST]
    assert re.search(r'data-notice="more">[^<]+<span data-field="pool.more">3<', html)


def test_pools_stand_by_trouble_and_a_state_is_told_once(as_viewer, admission, monkeypatch):
    names = ("calm", "near", "warned", "full", "held", "drained")
    admission(MAX_CONNECTIONS=10, POOLS={name: {} for name in names})
    report("web-1:1:ab")
    now = cache.look().now
    found = {each.name: each for each in now.pools}
    worker = found["default"].workers[0]
    states = {
        "near": {"alert": Level.WARNING},
        "warned": {"level": Level.WARNING, "alert": Level.WARNING},
        "full": {"level": Level.FULL, "alert": Level.FULL},
        "held": {"paused": True},
        "drained": {"workers": (replace(worker, draining=True),)},
    }
    pools = tuple(replace(found[name], **states.get(name, {})) for name in ("default", *names))
    monkeypatch.setattr(cache, "collect", _giving(replace(now, pools=pools)))
    expected = ["held", "drained", "full", "near", "warned", "default", "calm"]
    for url in (INDEX, PAGE):
        html = as_viewer.get(url).content.decode().partition("<template")[0]
        assert re.findall(r'data-key="(\w+)" data-level="\w+"', html) == expected
    alerts = re.findall(r'data-notice="alert"( hidden)?><dt>Alert</dt><dd data-field="pool.alert">(\w+)<', html)
    assert [word for hidden, word in alerts if not hidden] == ["Warning"]


def _giving(snapshot):
    async def collect(settings):
        return snapshot

    return collect


@override_settings(USE_THOUSAND_SEPARATOR=True, LANGUAGE_CODE="id")
def test_attributes_stay_plain_numbers_in_every_language(as_viewer, admission):
    admission(MAX_CONNECTIONS=5000)
    report("web-1:12345:ab12", 4500)
    html = as_viewer.get(PAGE, headers={"accept-language": "id"}).content.decode()
    assert '<strong data-field="pool.held">4.500</strong>' in html
    assert '<span data-field="worker.pid">12345</span>' in html
    assert 'aria-valuemax="5000" aria-valuenow="4500" aria-valuetext="4.500 dari 5.000 slot terpakai"' in html
    assert 'width="90.0%"' in html
    assert float(Page(html).board()["data-age"]) == 0


def test_a_pool_above_its_limit_or_without_one_is_full(as_viewer, admission):
    admission(MAX_CONNECTIONS=10, POOLS={"shut": {"MAX_CONNECTIONS": 0}})
    report("web-1:1:ab", 15)
    html = as_viewer.get(PAGE).content.decode()
    assert re.findall(r'data-key="(\w+)" data-level="(\w+)"', html) == [("default", "full"), ("shut", "full")]
    assert html.count('<rect class="admission-bar-held" width="100.0%"') == 2


def test_hostile_strings_stay_text(as_viewer, admission):
    attack = "<script>alert(1)</script>"
    admission()
    report(f"{attack}:1:<b>", 1, server='"><img src=x onerror=alert(1)>', counters={"<i>'\"": 3})
    found = page(as_viewer.get(PAGE))
    names = {name for name, _ in found.elements}
    assert not names & {"b", "i", "img"}
    assert all(given.get("src") for name, given in found.elements if name == "script")
    html = as_viewer.get(PAGE).content.decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html


@pytest.mark.parametrize("name", ["items", "constructor", "__proto__", "keys", "0"])
def test_a_name_that_every_dict_or_object_has_is_a_name(as_viewer, admission, monkeypatch, name):
    admission()
    report("web-1:1:ab", 4, load=(Load(name, 7.0, 0.0),), counters={name: 3})
    seen = cache.look()
    (pool,) = seen.now.pools
    shown = replace(seen.now, pools=(replace(pool, classes={name: 3}, refused={name: 5}),))
    monkeypatch.setattr(cache, "collect", _giving(shown))
    html = as_viewer.get(PAGE).content.decode()
    assert f'class.name">{name}</span> <span data-field="class.held">3<' in html
    assert f'reason.name">{name}</span> <span data-field="reason.count">5<' in html
    assert f'load.name">{name}</span> <span data-field="load.reading">7<' in html


@pytest.mark.parametrize("url", [INDEX, PAGE])
@pytest.mark.parametrize("ledger", ["memory", NOWHERE])
def test_nothing_is_inline(as_viewer, admission, url, ledger):
    admission(LEDGER=ledger)
    for name, given in page(as_viewer.get(url)).elements:
        assert name != "style"
        assert name != "script" or given["src"].startswith("/static/")
        assert not [key for key in given if key == "style" or key.startswith("on")]


def test_every_notice_has_its_occasion(as_viewer, admission, monkeypatch):
    occasions = {"disabled", "settling", "down", "lost", "ended", "error", "stale", "blank", "live"}

    def shown() -> set[str]:
        found = page(as_viewer.get(PAGE))
        return {notice for notice in occasions if found.shown(notice)}

    admission()
    assert shown() == set()
    admission(ENABLED=False)
    assert shown() == {"disabled"}

    admission()
    read = MemoryLedger.read

    async def read_settling(self, pools):
        return tuple(replace(reading, settling=True) for reading in await read(self, pools))

    with monkeypatch.context() as patch:
        patch.setattr(MemoryLedger, "read", read_settling)
        assert shown() == {"settling"}
    admission(LEDGER=NOWHERE)
    assert shown() == {"down", "error", "blank"}


@pytest.mark.parametrize("url", [INDEX, PAGE])
def test_the_memory_ledger_is_said_to_be_this_process_only(as_viewer, admission, url):
    told = "with the memory ledger each worker process counts for itself"
    admission()
    assert told in as_viewer.get(url).content.decode()
    admission(LEDGER=NOWHERE)
    assert told not in as_viewer.get(url).content.decode()


@pytest.mark.parametrize(
    ("override", "dry_run", "state", "free"),
    [
        ("paused", False, ("paused", "Paused"), "none while paused"),
        ("paused", True, ("calm", "Calm"), "80"),
        ("draining", False, ("draining", "Draining"), "none while all workers drain"),
        ("draining", True, ("draining", "Draining"), "none while all workers drain"),
        ("half", False, ("calm", "Calm"), "80"),
    ],
)
@pytest.mark.parametrize("url", [INDEX, PAGE])
def test_a_pool_that_refuses_all_says_so(as_viewer, admission, monkeypatch, url, override, dry_run, state, free):
    admission(MAX_CONNECTIONS=80)
    report("web-1:1:ab")
    report("web-1:2:cd")
    seen = cache.look().now
    (pool,) = seen.pools
    drains = {"paused": (), "draining": (True, True), "half": (True, False)}[override]
    workers = tuple(replace(worker, draining=draining) for worker, draining in zip(pool.workers, drains, strict=False))
    pool = replace(pool, paused=override == "paused", dry_run=dry_run, workers=workers)
    monkeypatch.setattr(cache, "collect", _giving(replace(seen, pools=(pool,))))
    html = as_viewer.get(url).content.decode().partition("<template")[0]
    level, word = state
    assert re.findall(r'data-key="default" data-level="(\w+)"', html) == [level]
    assert re.findall(r'data-field="pool.state">([^<]+)<', html) == [word]
    assert re.findall(r'data-field="pool.free">([^<]+)<', html) == [free]


# The ledger is away


@pytest.mark.parametrize("url", [INDEX, PAGE])
def test_down_with_nothing_remembered(as_viewer, admission, url):
    admission(LEDGER=NOWHERE)
    response = as_viewer.get(url)
    found = page(response)
    assert "data-stale" in found.board()
    assert "data-age" not in found.board()
    assert found.shown("blank")
    assert not found.shown("stale")
    assert "ConnectionError: Error" in response.content.decode()
    assert 'data-key="default"' not in response.content.decode()


@pytest.mark.parametrize("url", [INDEX, PAGE])
def test_down_keeps_the_last_numbers_with_their_age(as_viewer, admission, monkeypatch, url):
    settings = admission(MAX_CONNECTIONS=50)
    report("web-1:1:ab", 40)
    seen = cache.look().now
    monkeypatch.setattr(cache, "_remembered", (settings, replace(seen, taken=seen.taken - timedelta(seconds=75))))
    lose_ledger(monkeypatch)
    response = as_viewer.get(url)
    html, found = response.content.decode(), page(response)
    assert "data-stale" in found.board()
    assert 75 <= float(found.board()["data-age"]) < 80
    assert re.search(r'data-field="age">1\xa0min 1[5-9]\xa0s<', html)
    assert found.shown("down")
    assert found.shown("stale")
    assert not found.shown("blank")
    assert '<strong data-field="pool.held">40</strong>' in html
    assert "ConnectionError: nobody there" in html
    assert as_viewer.get(FEED).json()["pools"] == []


def test_a_good_look_is_remembered_and_other_settings_forget_it(admission, monkeypatch):
    admission(MAX_CONNECTIONS=50)
    report("web-1:1:ab", 40)
    good = cache.look()
    assert not good.is_stale
    assert good.age == 0
    lose_ledger(monkeypatch)
    stale = cache.look()
    assert stale.now.ledger.health is Health.DOWN
    assert stale.numbers is good.now
    assert stale.age > 0
    admission(MAX_CONNECTIONS=60)
    assert cache.look().numbers is None


# The panel on other start pages


def render_panel(user, site: str | None) -> str:
    request = RequestFactory().get("/")
    request.user = user
    request.current_app = site
    return Template("{% load channels_admission %}{% admission_panel %}").render(Context({"request": request}))


def test_the_tag_serves_a_site_of_its_own(viewer, admission, settings):
    admission()
    settings.ROOT_URLCONF = (path("ops/", ops.urls), path("admin/", admin.site.urls))
    assert Page(render_panel(viewer, "ops")).board()["data-feed"] == "/ops/channels_admission/pool/feed/"
    assert Page(render_panel(viewer, "admin")).board()["data-feed"] == FEED


def test_the_tag_is_silent_without_permission_page_or_request(staff, chief, admission, settings):
    admission()
    assert render_panel(staff, "admin").strip() == ""
    assert render_panel(AnonymousUser(), "admin").strip() == ""
    assert Template("{% load channels_admission %}{% admission_panel %}").render(Context()).strip() == ""
    settings.ROOT_URLCONF = (path("", include([path("empty/", empty.urls)])),)
    assert render_panel(chief, "empty").strip() == ""


START = """
import sys
import django
from django.conf import settings
from project import settings as project

own, *apps = sys.argv[1:]
named = {name: getattr(project, name) for name in dir(project) if name.isupper()}
settings.configure(**{**named, "INSTALLED_APPS": apps})
from django.contrib import admin
if own == "class.html":
    admin.AdminSite.index_template = own
django.setup()
if own == "later.html":
    admin.site.index_template = own
admin.autodiscover()
print(admin.site.index_template)
"""
CONTRIB = ("django.contrib.admin.apps.SimpleAdminConfig", "django.contrib.auth", "django.contrib.contenttypes")
OURS = ("channels_admission",)


@pytest.mark.parametrize("apps", [(*CONTRIB, *OURS), (*OURS, *CONTRIB)], ids=["last", "first"])
@pytest.mark.parametrize("own", ["", "class.html", "later.html"])
def test_the_panel_comes_with_the_app_unless_the_project_has_its_own_start_page(own, apps):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", START, own, *apps]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.returncode) == (own or "channels_admission/index.html", 0), done.stderr


# The model


@pytest.mark.django_db
def test_the_model_has_two_permissions_and_no_table():
    assert list(
        Permission.objects.filter(content_type__app_label="channels_admission").values_list("codename", flat=True)
    ) == ["change_pool", "view_pool"]
    assert list(Pool.objects.all()) == []
    call_command("makemigrations", check=True, dry_run=True, stdout=StringIO())


@pytest.mark.django_db
@pytest.mark.parametrize("use_base_manager", [False, True])
def test_dumpdata_passes_over_the_model(use_base_manager):
    out = StringIO()
    call_command("dumpdata", "channels_admission", use_base_manager=use_base_manager, stdout=out)
    assert json.loads(out.getvalue()) == []


# Words and formats


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.9, "0\xa0s"),
        (7500, "2\xa0h 5\xa0min"),
    ],
)
def test_durations(seconds, written):
    assert tags.duration(seconds) == written


@pytest.mark.parametrize(
    ("name", "reading", "written"),
    [
        ("lag", 0.0042, "4 ms"),
        ("memory", 0.501, "50 %"),
        ("cpu", None, "?"),
        ("queue", 1234.5, "1,230"),
        ("own", 0.25, "0.25"),
    ],
)
def test_readings(name, reading, written):
    assert tags.reading(Load(name, reading, 0.0)).replace("\xa0", " ") == written


def test_every_word_has_a_name():
    words = json.loads(tags.admission_words())
    assert words["level"].keys() == set(Level)
    assert words["state"].keys() == {*Level, "paused", "draining"}
    assert words["free"].keys() == {"paused", "draining"}
    assert words["reason"].keys() == {*Reason, *MONITORS, OTHER}
    assert words["monitor"].keys() == words["readings"].keys() == set(MONITORS)
    assert words["health"].keys() == set(Health)
    assert tags.named("from-a-later-release", "reason") == "from-a-later-release"
    assert tags.named("quota:address", "reason") == "over the quota address"
    assert tags.named("attempts:address", "reason") == "above the attempt rate of address"


def test_script_fills_every_field_and_writes_text_only():
    package = files("channels_admission")
    script = package.joinpath("static/channels_admission/admission.js").read_text()
    markup = "".join(file.read_text() for file in package.joinpath("templates/channels_admission").iterdir())
    known = set(re.findall(r'^    "([a-z]+\.[a-z_]+)":', script, re.MULTILINE))
    assert set(re.findall(r'data-field="([a-z]+\.[a-z_]+)"', markup)) == known
    assert not re.search(r"words\.\w+\[|pools\[", script), "every object inherits names"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)


# Alive, in a browser

ROWS = """
const rows = document.querySelectorAll('[data-chart="seconds"] tbody tr');
return [...rows].map((row) => [...row.querySelectorAll("td")].map((cell) => cell.textContent));
"""
"""The figures of the table, all at one time: it is written anew every two seconds."""
LOOKS = 'return performance.getEntriesByType("resource").filter(({ name }) => name.endsWith(arguments[0])).length'


def visit(browser, origin: str, url: str, session: str) -> None:
    """Open the page in a browser that has logged in."""
    browser.get(f"{origin}/static/channels_admission/admission.css")
    browser.add_cookie({"name": "sessionid", "value": session})
    browser.get(origin + url)


@pytest.mark.browser
@pytest.mark.parametrize("url", [INDEX, PAGE])
def test_numbers_refresh_by_themselves_under_a_strict_policy(
    browser, live_server, chief, client, admission, monkeypatch, settings, url
):
    def find(selector: str):
        return browser.find_element("css selector", f"[data-admission] {selector}")

    def wait(holds) -> None:
        WebDriverWait(browser, 15, 0.1).until(lambda _: holds())

    settings.MIDDLEWARE = [f"{__name__}.content_security_policy", *settings.MIDDLEWARE]
    admission(MAX_CONNECTIONS=50)
    report("web-1:1:ab", 20, counters={"admitted": 20})
    client.force_login(chief)
    visit(browser, live_server.url, url, client.cookies["sessionid"].value)
    assert find('[data-field="pool.held"]').text == "20"

    report("web-1:1:ab", 20, counters={"admitted": 25, "full": 4}, load=(Load("constructor", 7.0, 0.0),))
    report("<img src=x>:2:cd", 25)
    wait(lambda: find('[data-field="pool.held"]').text == "45")
    controls.change("default", by="chief", paused=True)
    wait(lambda: find('[data-field="pool.state"]').text == "Paused")
    assert find('[data-field="pool.free"]').text == "none while paused"
    controls.change("default", by="chief", paused=False)
    wait(lambda: find('[data-field="pool.state"]').text != "Paused")
    assert find('[data-field="pool.state"]').text.endswith("Critical")
    assert find(".admission-bar-held").get_attribute("width") == "90.0%"
    assert "Pool default: Critical. 45 of 50 slots held." in find("[data-announcement]").get_attribute("textContent")
    chart = find('[data-chart="seconds"]')
    wait(lambda: "At most 45 held; 25 admitted and 4 refused." in chart.text)
    assert chart.find_element("css selector", "[role=img]").get_attribute("aria-label") in chart.text
    assert "pool full" in chart.text
    chart.find_element("css selector", "summary").click()
    wait(lambda: browser.execute_script(ROWS))
    rows = browser.execute_script(ROWS)
    assert len(rows) == 15
    assert rows[-1] == ["–", "–", "0", "0"]
    assert max(int(row[0]) for row in rows if row[0] != "–") == 45
    assert [sum(int(row[column]) for row in rows) for column in (2, 3)] == [25, 4]
    if url == PAGE:
        hosts = browser.find_elements("css selector", 'tbody [data-field="worker.host"]')
        assert [host.text for host in hosts] == ["<img src=x>", "web-1"]
        assert find('[data-field="reason.name"]').text == "pool full"
        assert find('[data-field="load.name"]').text == "constructor"
        assert find('[data-field="load.reading"]').text == "7"

    with monkeypatch.context() as patch:
        lose_ledger(patch)
        wait(lambda: find('[data-notice="down"]').is_displayed())
        assert find('[data-field="pool.held"]').text == "45"
        assert browser.find_element("css selector", "[data-admission]").get_attribute("data-stale") is not None
        assert find('[data-notice="stale"]').is_displayed()
        assert not find('[data-notice="live"]').is_displayed()
    wait(lambda: find('[data-notice="live"]').is_displayed())
    assert not find('[data-notice="down"]').is_displayed()

    chief.is_active = False
    chief.save()
    wait(lambda: find('[data-notice="ended"]').is_displayed())
    noted = [entry["message"] for entry in browser.get_log("browser") if "favicon" not in entry["message"]]
    assert noted == []


CHART = """
const board = document.querySelector("[data-admission]");
const words = JSON.parse(board.dataset.words);
const fill = (sentence, values) => sentence.replace(/\\{(\\w+)\\}/g, (_, name) => values[name]);
const figure = document.querySelector('template[data-item="pools"]').content.querySelector("figure").cloneNode(true);
board.append(figure);
const chart = new AdmissionChart(figure, { chart: words.chart, fill, reasonOf: (name) => words.reason[name] ?? name });
const [series, now] = arguments;
chart.draw(series, now);
const texts = (selector) => [...figure.querySelectorAll(selector)].map((each) => each.textContent);
const plots = figure.querySelector(".admission-plots");
const { left, top, width } = plots.getBoundingClientRect();
plots.dispatchEvent(new PointerEvent("pointermove", { clientX: left + width / 1000, clientY: top }));
const first = figure.querySelector(".admission-readout").textContent;
plots.dispatchEvent(new PointerEvent("pointerleave"));
const keys = figure.querySelectorAll(".admission-axis span");
const marks = figure.querySelectorAll("[data-part=rates] .admission-spike");
return {
  first,
  peak: texts(".admission-peak"),
  scale: texts("[data-part=rates] .admission-scale"),
  summary: figure.querySelector(".admission-readout").textContent,
  times: texts("[data-part=held] .admission-time"),
  keys: [...keys].map((key) => [key.textContent, getComputedStyle(key, "::before").backgroundColor]),
  limit: getComputedStyle(figure.querySelector(".admission-line-limit")).stroke,
  marks: marks.length,
  reasons: texts(".admission-legend li"),
};
"""
WORKERS = """
return [...document.querySelectorAll('[data-list="workers"] > tr')].map((row) => row.dataset.key);
"""
ORDER = 'return [...document.querySelector(".admission-pools").children].map((pool) => pool.dataset.key)'
QUOTA_COLOURS = ["quota-1", "quota-5", "quota-0", "quota-2"]
COLOURS = "return arguments[0].map((reason) => AdmissionChart.kind(reason))"


@pytest.mark.browser
def test_a_chart_cuts_a_spike_off_and_tells_what_it_shows(browser, live_server, chief, client, admission):
    admission(MAX_CONNECTIONS=50)
    client.force_login(chief)
    visit(browser, live_server.url, PAGE, client.cookies["sessionid"].value)
    start = 1_800_000_000 - 900
    known = [None] * 10 + [30] * 890
    series = {
        "step": 1, "start": start, "held": known, "limit": [None] * 10 + [50] * 890,
        "admitted": [0] * 10 + [2] * 390 + [260, 90] + [2] * 498,
        "refused": {"rate": [0] * 800 + [2] * 100, "quota:user": [0] * 899 + [1]},
    }  # fmt: skip
    seen = browser.execute_script(CHART, series, start + 899)
    assert seen["first"] == "07:45:00 UTC: no worker had reported"
    assert seen["scale"] == ["6", "3"]
    assert (seen["peak"], seen["marks"]) == (["▲ 260"], 2)
    told = "At most 30 held; 2,126 admitted and 201 refused. Above the chart: 260 per second at 07:51:40 UTC."
    assert seen["summary"] == told
    assert seen["times"] == ["07:45 UTC", "07:50", "07:55"]
    assert seen["keys"] == [["Held", "rgb(156, 195, 220)"], ["Limit", "rgb(179, 38, 30)"]]
    assert seen["limit"] == "rgb(179, 38, 30)"
    assert seen["reasons"] == ["admitted", "too many at once", "quota:user"]
    short = {**series, "admitted": [0] * 880 + [2] * 19 + [40], "refused": {}}
    assert browser.execute_script(CHART, short, start + 899)["peak"] == []

    reasons = [*Reason, *MONITORS]
    assert browser.execute_script(COLOURS, reasons) == reasons
    quotas = ["quota:user", "quota:address", "attempts:user", "attempts:address"]
    assert browser.execute_script(COLOURS, quotas) == QUOTA_COLOURS
    assert len(set(QUOTA_COLOURS)) == len(quotas)
    assert browser.execute_script(COLOURS, ["other", "of a later release", "quota:"]) == ["other"] * 3
    css = files("channels_admission").joinpath("static/channels_admission/admission.css").read_text()
    kinds = [*reasons, "other", *(f"quota-{shade}" for shade in range(6))]
    styled = re.findall(r"^\.admission-chart \.admission-key-refused-([\w-]+), ", css, re.MULTILINE)
    assert sorted(styled) == sorted(kinds)


THEME = """
for (const sheet of document.styleSheets) sheet.disabled = !sheet.href?.endsWith("/channels_admission/admission.css");
const theme = new CSSStyleSheet();
theme.replaceSync(`
  body { background: oklch(21% 0.034 264); color: oklch(93% 0.006 264); }
  button { position: relative; width: 25px; height: 25px; margin: 0 0 0 -25px; padding: 0; overflow: hidden; }
`);
document.adoptedStyleSheets = [theme];
"""
LIGHT = """
const pencil = new OffscreenCanvas(1, 1).getContext("2d");
const light = (colour) => {
  pencil.clearRect(0, 0, 1, 1);
  pencil.fillStyle = colour;
  pencil.fillRect(0, 0, 1, 1);
  const [red, green, blue, opacity] = pencil.getImageData(0, 0, 1, 1).data;
  return red > 150 && green > 150 && blue > 150 && opacity > 150;
};
const style = (selector) => getComputedStyle(document.querySelector(selector));
return [".admission-scale", ".admission-time"].every((each) => light(style(each).fill))
  && [".admission-axis", "dt", ".admission-count"].every((each) => light(style(each).color));
"""
"""Whether labels are light and not see-through."""
BUTTONS = """
document.querySelectorAll("details").forEach((each) => (each.open = true));
const buttons = [...document.querySelectorAll(".admission-act button")].filter((button) => button.offsetParent);
return buttons.filter((button) => button.clientWidth < button.scrollWidth || button.clientHeight < button.scrollHeight)
  .concat(buttons.length ? [] : "no buttons").length;
"""


@pytest.mark.browser
def test_a_dark_theme_without_the_variables_of_django_can_be_read(browser, live_server, chief, client, admission):
    def wait(holds) -> None:
        WebDriverWait(browser, 15, 0.1).until(lambda _: holds())

    admission(MAX_CONNECTIONS=50)
    report("web-1:1:ab", 20, counters={"admitted": 20})
    client.force_login(chief)
    visit(browser, live_server.url, PAGE, client.cookies["sessionid"].value)
    board = browser.find_element("css selector", "[data-admission]")
    wait(lambda: browser.find_elements("css selector", ".admission-scale"))
    assert (board.get_attribute("data-scheme"), browser.execute_script(LIGHT)) == ("light", False)
    browser.execute_script(THEME)
    wait(lambda: board.get_attribute("data-scheme") == "dark")
    assert browser.execute_script(LIGHT)
    level = browser.find_element("css selector", ".admission-level").value_of_css_property("color")
    assert level == "rgba(95, 208, 141, 1)"
    assert browser.execute_script(BUTTONS) == 0


@pytest.mark.browser
def test_pools_change_places_by_trouble_while_no_pointer_is_over_them(browser, live_server, chief, client, admission):
    def order() -> list[str]:
        return browser.execute_script(ORDER)

    admission(MAX_CONNECTIONS=10, POOLS={"chat": {}})
    report("web-1:1:ab", pool="chat")
    client.force_login(chief)
    visit(browser, live_server.url, INDEX, client.cookies["sessionid"].value)
    assert order() == ["default", "chat"]
    controls.change("chat", by="chief", limit=0)
    WebDriverWait(browser, 15, 0.1).until(lambda _: order() == ["chat", "default"])


@pytest.mark.browser
def test_the_workers_that_are_shown_of_many_stay_the_same_as_the_page_is_refreshed(
    browser, live_server, chief, client, admission, monkeypatch
):
    def shown() -> list[str]:
        return browser.execute_script(WORKERS)

    admission(MAX_CONNECTIONS=10)
    report("web-1:1:ab")
    now = crowded(cache.look().now)
    monkeypatch.setattr(cache, "collect", _giving(now))
    client.force_login(chief)
    visit(browser, live_server.url, PAGE, client.cookies["sessionid"].value)
    expected = [f"web-1:{pid}:ab" for pid in WORST]
    assert shown() == expected
    pool, *others = now.pools
    better = tuple(replace(worker, silent=False) for worker in pool.workers)
    monkeypatch.setattr(cache, "collect", _giving(replace(now, pools=(replace(pool, workers=better), *others))))
    WebDriverWait(browser, 15, 0.1).until(lambda _: shown() == [expected[1], *expected[2:], "web-1:5:ab"])
    monkeypatch.setattr(cache, "collect", _giving(replace(now, pools=(replace(pool, workers=better[:100]), *others))))
    WebDriverWait(browser, 15, 0.1).until(lambda _: shown() == [f"web-1:{pid}:ab" for pid in range(1, 101)])
    assert not browser.find_element("css selector", '[data-notice="more"]').is_displayed()


@pytest.mark.browser
def test_a_tab_that_nobody_sees_asks_for_nothing_until_it_is_seen(browser, live_server, chief, client, admission):
    def looks() -> int:
        return browser.execute_script(LOOKS, FEED)

    def wait(holds) -> None:
        WebDriverWait(browser, 15, 0.1).until(lambda _: holds())

    admission(MAX_CONNECTIONS=50)
    client.force_login(chief)
    visit(browser, live_server.url, PAGE, client.cookies["sessionid"].value)
    wait(lambda: looks() >= 2)
    browser.minimize_window()
    try:
        wait(lambda: browser.execute_script("return document.hidden"))
        time.sleep(1)  # one look may be under way
        before = looks()
        time.sleep(5)
        assert looks() == before
    finally:
        browser.set_window_rect(0, 0, 800, 600)
    wait(lambda: looks() > before)
