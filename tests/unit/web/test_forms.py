"""What operators do in the admin: who may, what is asked first, what is done, and what the log says of it."""

import asyncio
import re

import pytest
import redis
from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import include, path, reverse

from channels_admission import conf, controls, urls
from channels_admission.ledger import open_ledger
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.models import Pool
from channels_admission.status import cache

from support.faulty import lose_changes
from support.pages import FEED, HISTORY, INDEX, PAGE, Page, report
from support.reports import Reporter

ACT = "/admin/channels_admission/pool/act/"
CHANGES = "/admin/channels_admission/pool/changes/"
WORKER = "web-1:4242:ab12"
ACTIONS = {
    "limit": {"kind": "limit", "pool": "default", "limit": "80"},
    "reset": {"kind": "reset", "pool": "default"},
    "pause": {"kind": "pause", "pool": "default"},
    "resume": {"kind": "resume", "pool": "default"},
    "dry-run-on": {"kind": "dry-run-on", "pool": "default"},
    "dry-run-off": {"kind": "dry-run-off", "pool": "default"},
    "drain": {"kind": "drain", "target": WORKER, "over": "60"},
    "cancel": {"kind": "cancel", "target": WORKER},
}
every_action = pytest.mark.parametrize("data", ACTIONS.values(), ids=ACTIONS)

urlpatterns = [path("admin/", admin.site.urls), path("admission/", include("channels_admission.urls"))]


@pytest.fixture(autouse=True)
def _here(settings, monkeypatch):
    settings.ROOT_URLCONF = __name__
    monkeypatch.setattr(cache, "_remembered", None)


async def report_and_close() -> None:
    ledger = open_ledger(conf.current())
    await Reporter(ledger, "ab", limit=50).say(40, counters={"admitted": 40, "full": 3})
    await ledger.aclose()


def user(name: str, *codenames: str) -> User:
    made = User.objects.create_user(name, is_staff=True)
    made.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    return made


@pytest.fixture
def operator(client, db, admission):
    """Somebody who may act, before a pool of 50 with one worker that holds 40."""
    admission(MAX_CONNECTIONS=50)
    report(WORKER, 40)
    client.force_login(user("chief", "view_pool", "change_pool"))
    return client


@pytest.fixture
def onlooker(client, db, admission):
    admission(MAX_CONNECTIONS=50)
    report(WORKER, 40)
    client.force_login(user("guest", "view_pool"))
    return client


def act(client, data, **more) -> str:
    """Do it, confirmed, and return what the page says then."""
    response = client.post(ACT, {**data, "confirmed": "yes"}, follow=True, **more)
    assert response.redirect_chain == [(PAGE, 302)]
    return " ".join(str(message) for message in response.context["messages"])


def pool() -> dict:
    return cache.look().now.as_dict()["pools"][0]


def logged() -> list[tuple[str, str, str]]:
    entries = LogEntry.objects.order_by("pk")
    assert {entry.action_flag for entry in entries} <= {CHANGE}
    return [(entry.user.username, entry.object_id, entry.get_change_message()) for entry in entries]


# Who may


@every_action
def test_a_viewer_may_not_act(onlooker, data):
    before = pool()["controls"]
    for confirmed in ({}, {"confirmed": "yes"}):
        assert onlooker.post(ACT, {**data, **confirmed}).status_code == 403
    assert pool()["controls"] == before
    assert logged() == []


@pytest.mark.django_db
@every_action
def test_anonymous_is_sent_to_the_login(client, admission, data):
    admission()
    response = client.post(ACT, data)
    assert (response.status_code, response["Location"]) == (302, f"/admin/login/?next={ACT}")


def test_a_user_that_may_change_but_not_see_does_neither(client, db, admission):
    admission(MAX_CONNECTIONS=50)
    client.force_login(user("odd", "change_pool"))
    assert client.get(PAGE).status_code == 403
    assert client.post(ACT, {**ACTIONS["pause"], "confirmed": "yes"}).status_code == 403
    assert not pool()["paused"]


def test_a_viewer_sees_no_controls(onlooker):
    html = onlooker.get(PAGE).content.decode()
    assert "data-admission" in html
    assert ACT not in html
    assert "<button" not in html.partition('id="content"')[2]


def test_an_operator_sees_them(operator):
    html = operator.get(PAGE).content.decode()
    kinds = re.findall(r'name="kind" value="([a-z-]+)"', html)
    assert {*kinds} == {*ACTIONS}
    for name, given in Page(html).elements:
        assert name != "style"
        assert name != "form" or "action" not in given or given["method"] == "post"
        assert not [key for key in given if key == "style" or key.startswith("on")]


def test_a_form_of_another_site_does_nothing(db, admission):
    admission()
    report(WORKER, 40)
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(user("chief", "view_pool", "change_pool"))
    assert strict.post(ACT, {**ACTIONS["pause"], "confirmed": "yes"}).status_code == 403
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', strict.get(PAGE).content.decode())[1]
    data = {**ACTIONS["pause"], "confirmed": "yes", "csrfmiddlewaretoken": token}
    assert strict.post(ACT, data).status_code == 302
    assert pool()["paused"] is True


@pytest.mark.parametrize("method", ["get", "head", "put", "patch", "delete"])
def test_only_a_post_acts(operator, method):
    assert getattr(operator, method)(f"{ACT}?kind=pause&pool=default&confirmed=yes").status_code == 405
    assert pool()["paused"] is False


def every_url() -> set[str]:
    """Every URL of ours, and the start page; no object of our model has one."""
    ours = admin.site._registry[Pool].get_urls()
    names = [f"admin:{each.name}" for each in ours if each.name and "<" not in str(each.pattern)]
    names += [f"channels_admission:{each.name}" for each in urls.urlpatterns]
    return {INDEX, *map(reverse, names)}


def test_looking_at_every_page_changes_nothing(client, db, admission, redis_server, prefix):
    admission(MAX_CONNECTIONS=50, LEDGER=redis_server.url, PREFIX=prefix)
    asyncio.run(report_and_close())
    client.force_login(User.objects.create_superuser("chief"))
    with redis.Redis.from_url(redis_server.url) as server:

        def dump() -> dict[bytes, bytes | None]:
            return {key: server.dump(key) for key in server.keys(f"{prefix}:*")}

        before = dump()
        assert len(before) == 7
        assert {PAGE, FEED, HISTORY, ACT, "/admission/metrics"} <= every_url()
        for url in [*every_url(), f"{HISTORY}?minutes", f"{ACT}?kind=pause&pool=default&confirmed=yes"]:
            assert client.get(url).status_code == (405 if url.startswith(ACT) else 200), url
        assert dump() == before


# What is asked first


@every_action
def test_nothing_is_done_before_it_is_confirmed(operator, data):
    before = pool()["controls"]
    response = operator.post(ACT, data)
    assert response.status_code == 200
    hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', response.content.decode()))
    asked_again = {name: value for name, value in hidden.items() if name != "csrfmiddlewaretoken"}
    assert {**asked_again, **({"over": "60"} if data.get("over") else {})} == {**data, "confirmed": "yes"}
    assert pool()["controls"] == before
    assert logged() == []


def test_the_question_says_from_what_to_what(operator):
    html = operator.post(ACT, ACTIONS["limit"]).content.decode()
    assert "Set the limit of the pool default from 50 to 80?" in html
    assert "new ones are refused" not in html


def test_a_limit_below_what_is_held_is_warned_of(operator):
    html = operator.post(ACT, {**ACTIONS["limit"], "limit": "30"}).content.decode()
    assert "Open connections: 40. They stay; new ones are refused until fewer than 30 are open." in html
    assert "They stay" not in operator.post(ACT, {**ACTIONS["limit"], "limit": "40"}).content.decode()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"kind": "drain", "target": "nonsense", "over": "60"}, "No host 'nonsense' is known."),
        ({"kind": "drain", "target": "web-2", "over": "60"}, "No host 'web-2' is known. Did you mean 'web-1'?"),
        ({"kind": "drain", "target": "web-1:7", "over": "60"}, "No worker 'web-1:7' is known."),
        ({"kind": "pause", "pool": "chat"}, "There is no admission pool 'chat'."),
    ],
)
def test_what_cannot_be_done_is_refused_before_it_is_asked_for(operator, data, told):
    response = operator.post(ACT, data, follow=True)
    assert response.redirect_chain == [(PAGE, 302)]
    (message,) = map(str, response.context["messages"])
    assert message.startswith(told)
    assert "Are you sure?" not in response.content.decode()


def test_nothing_is_asked_for_while_the_ledger_is_down(operator, admission):
    admission(LEDGER="redis://127.0.0.1:1/0")
    response = operator.post(ACT, ACTIONS["drain"], follow=True)
    (message,) = map(str, response.context["messages"])
    assert message.startswith("The ledger is down. Nothing can be changed until it is back. ConnectionError")
    html = response.content.decode()
    told = "Check that Redis runs and can be reached at the address in LEDGER. The command ws_status --diagnose tells"
    assert f"each worker decides alone. {told} more.</p>" in html


def test_the_drain_of_all_pools_stands_outside_of_the_pools(operator):
    html = operator.get(PAGE).content.decode()
    before, _, pools = html.partition('<div data-list="pools">')
    assert "Drain a worker or a host in all pools" in before
    assert '<input type="text" name="target"' in before
    assert '<input type="text" name="target"' not in pools
    asked = operator.post(ACT, {"kind": "drain", "target": "web-1", "over": "60"}).content.decode()
    assert "Drain web-1? It refuses new connections to all pools and closes its own within 60 s." in asked


def test_the_page_returns_to_the_pool_of_an_action(operator):
    html = operator.get(PAGE).content.decode().partition("<template")[0]
    assert '<section id="pool-default" class="module admission-pool"' in html
    forms = re.findall(r'<form method="post".*?</form>', html.partition('<div data-list="pools">')[2], re.S)
    assert [form for form in forms if 'name="at" value="default"' not in form] == []
    data = {**ACTIONS["pause"], "at": "default"}
    asked = operator.post(ACT, data).content.decode()
    assert '<input type="hidden" name="at" value="default">' in asked
    assert f'<a href="{PAGE}#pool-default" class="button cancel-link">' in asked
    assert operator.post(ACT, {**data, "confirmed": "yes"})["Location"] == f"{PAGE}#pool-default"
    assert operator.post(ACT, {**data, "at": "//evil", "confirmed": "yes"})["Location"] == PAGE


# What is done, and what the log says


def test_a_limit_is_set_and_given_back(operator):
    told = act(operator, ACTIONS["limit"])
    assert (pool()["limit"], pool()["configured"]) == (80, 50)
    assert pool()["controls"]["limit"]["by"] == "chief"
    assert told == "Pool default: the limit is 80 now."
    act(operator, ACTIONS["reset"])
    assert pool()["limit"] == 50
    assert logged() == [
        ("chief", "default", "Pool default: limit from 50 by the settings to 80"),
        ("chief", "default", "Pool default: limit from 80 to 50 by the settings"),
    ]


def test_a_pool_is_paused_and_resumed(operator):
    act(operator, ACTIONS["pause"])
    assert pool()["paused"] is True
    act(operator, ACTIONS["resume"])
    assert pool()["paused"] is False
    assert [message for _, _, message in logged()] == [
        "Pool default: admissions from open to paused",
        "Pool default: admissions from paused to open",
    ]


def test_a_dry_run_begins_and_ends(operator):
    act(operator, ACTIONS["dry-run-on"])
    assert pool()["dry_run"] is True
    act(operator, ACTIONS["dry-run-off"])
    assert pool()["dry_run"] is False
    assert len(logged()) == 2


@pytest.mark.parametrize("target", [WORKER, "web-1"])
def test_a_worker_or_a_host_is_drained_and_let_go(operator, target):
    act(operator, {**ACTIONS["drain"], "target": target})
    assert [(drain["target"], drain["over"]) for drain in pool()["controls"]["drains"]] == [(target, 60.0)]
    act(operator, {**ACTIONS["cancel"], "target": target})
    assert list(pool()["controls"]["drains"]) == []
    assert [message for _, _, message in logged()] == [
        f"Pool default: drain of {target} from none to 60 s",
        f"Pool default: drain of {target} from 60 s to none",
    ]


def test_what_was_changed_before_the_ledger_went_away_is_said_and_logged(operator, admission, monkeypatch):
    admission(MAX_CONNECTIONS=50, POOLS={"chat": {}})
    lose_changes(monkeypatch, MemoryLedger, "chat")
    told = act(operator, ACTIONS["drain"])
    assert told == f"Pool default: {WORKER} closes its connections within 60 s. gone"
    assert logged() == [("chief", "default", f"Pool default: drain of {WORKER} from none to 60 s")]


def test_what_was_done_is_said_in_the_operators_language(operator):
    told = act(operator, ACTIONS["limit"], headers={"accept-language": "id"})
    assert told == "Pool default: batasnya sekarang 80."
    assert [message for _, _, message in logged()] == ["Pool default: limit from 50 by the settings to 80"]


def test_what_cannot_be_set_is_said_in_the_operators_language(operator):
    told = act(operator, {"kind": "drain", "target": "web-2", "over": "5"}, headers={"accept-language": "id"})
    assert told == "Host 'web-2' tidak dikenal. Maksud Anda 'web-1'?"
    told = act(operator, {"kind": "drain", "target": "*", "over": "5"}, headers={"accept-language": "id"})
    assert told.startswith("Worker atau host: '*' adalah pola: berikan nama satu worker atau host. Semua worker")


def test_the_button_beside_a_drain_of_all_ends_every_drain(operator):
    controls.drain(controls.ALL_WORKERS, by="ann", over=60)
    act(operator, {**ACTIONS["drain"], "target": "web-1"})
    assert (
        'name="target" value="*" data-target="target">'
        '<input type="hidden" name="at" value="default" data-target="pool">'
        '<button type="submit">End' in operator.get(PAGE).content.decode()
    )
    html = operator.post(ACT, {"kind": "cancel", "target": "*"}).content.decode()
    assert "End all drains of workers and hosts?" in html
    assert act(operator, {"kind": "cancel", "target": "*"}) == (
        "Pool default: all workers admit connections again. Pool default: all workers admit connections again."
    )
    assert list(pool()["controls"]["drains"]) == []


@pytest.mark.parametrize("at", ["999999999999", "253402300800"])
def test_a_date_that_none_of_ours_can_have_set_is_no_error(client, db, admission, redis_server, at):
    settings = admission(LEDGER=redis_server.url, STATUS_TOKEN="x" * 32)
    asyncio.run(report_and_close())
    with redis.Redis.from_url(redis_server.url) as server:
        orders = f"limit=40,{at},a;paused=1,{at},a;dry_run=1,{at},a;drain:host=1:2/5,{at},a"
        server.hset(f"{settings.prefix}:{{default}}:controls", "set", f"5;{orders}")
    client.force_login(User.objects.create_superuser("chief"))
    for url in [*every_url() - {ACT}, f"{HISTORY}?minutes"]:
        assert client.get(url).status_code == 200, url
    assert "by a, 9999-12-31 23:59:59" in client.get(PAGE).content.decode()


def test_what_is_so_already_is_said_and_not_logged(operator):
    assert act(operator, ACTIONS["resume"]) == "Nothing to change."
    assert logged() == []


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"kind": "explode", "pool": "default"}, "Action: "),
        ({"kind": "limit", "pool": "default"}, "Limit: This field is required."),
        ({"kind": "limit", "pool": "default", "limit": "many"}, "Limit: Enter a whole number."),
        ({"kind": "limit", "pool": "default", "limit": "-1"}, "Limit: "),
        ({"kind": "pause"}, "Pool: This field is required."),
        ({"kind": "pause", "pool": "nobody"}, "nobody"),
        ({"kind": "drain", "target": "web-9", "over": "5"}, "No host 'web-9' is known."),
        ({"kind": "drain", "target": "*", "over": "5"}, "Worker or host: '*' is a pattern: give the name of one"),
        ({"kind": "cancel", "target": "web-?"}, "Worker or host: 'web-?' is a pattern"),
        ({"kind": "drain", "target": WORKER, "over": "nan"}, "Seconds: "),
        ({"kind": "drain", "target": WORKER, "over": "99999999"}, "Seconds: "),
    ],
)
def test_what_cannot_be_done_is_said(operator, data, told):
    before = pool()["controls"]
    assert told in act(operator, data)
    assert pool()["controls"] == before
    assert logged() == []


def test_a_ledger_that_is_down_is_said(operator, admission):
    admission(LEDGER="redis://127.0.0.1:1/0")
    assert "ConnectionError" in act(operator, ACTIONS["pause"])


# What is seen of it


def test_the_page_names_the_operator_of_each_override_and_its_time(operator):
    act(operator, ACTIONS["limit"])
    act(operator, ACTIONS["dry-run-on"])
    act(operator, {**ACTIONS["drain"], "target": "web-1"})
    html = operator.get(PAGE).content.decode()
    found = re.findall(r'order.what">([^<]+)</span> <span data-field="order.by">([^<]+)<', html)
    assert [what for what, _ in found] == ["Limit 80 instead of 50", "Dry run", "Drain of web-1 within 60 s"]
    assert all(re.fullmatch(r"by chief, \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", by) for _, by in found)
    pool_html = html.partition("<template")[0]
    offered = re.findall(r'<form ([^>]*)>.*?name="kind" value="([a-z-]+)"', pool_html, re.S)
    assert {kind for attributes, kind in offered if not attributes.endswith("hidden")} == {
        "limit", "reset", "pause", "dry-run-off", "drain", "cancel",
    }  # fmt: skip


def changes(html: str) -> list[tuple[str, str]]:
    """User and change of each row of the table of changes."""
    row = r'<tr><th scope="row">\d{4}-\d\d-\d\d \d\d:\d\d:\d\d</th><td>([^<]+)</td><td>([^<]+)</td></tr>'
    return re.findall(row, html)


def test_the_page_and_the_start_page_name_the_operator_of_each_change(operator):
    assert "No change has been made here." in operator.get(PAGE).content.decode()
    act(operator, ACTIONS["limit"])
    act(operator, ACTIONS["pause"])
    assert changes(operator.get(PAGE).content.decode()) == [
        ("chief", "Pool default: admissions from open to paused"),
        ("chief", "Pool default: limit from 50 by the settings to 80"),
    ]
    recent = operator.get(INDEX).content.decode().partition('id="recent-actions-module"')[2]
    assert "Pool default: limit from 50 by the settings to 80" in recent


def test_ten_changes_stand_on_the_page_and_all_on_a_page_of_their_own(operator):
    for number in range(101):
        act(operator, {**ACTIONS["limit"], "limit": str(100 + number)})
    html = operator.get(PAGE).content.decode()
    assert f'<a href="{CHANGES}">All changes</a>' in html
    assert len(changes(html)) == 10
    asked = operator.post(ACT, ACTIONS["pause"])
    for further in (operator.get(CHANGES), asked):
        assert f'<a href="{PAGE}">Connection pools</a>' in further.content.decode()
    assert changes(html)[0] == ("chief", "Pool default: limit from 199 to 200")
    assert len(changes(operator.get(CHANGES).content.decode())) == 100
    oldest = changes(operator.get(f"{CHANGES}?p=2").content.decode())
    assert oldest == [("chief", "Pool default: limit from 50 by the settings to 100")]


def test_only_a_viewer_sees_the_changes(onlooker, client):
    assert onlooker.get(CHANGES).status_code == 200
    client.force_login(user("nobody"))
    assert client.get(CHANGES).status_code == 403


def test_hostile_names_stay_text(operator):
    act(operator, ACTIONS["pause"])
    User.objects.filter(username="chief").update(username="<img src=x onerror=alert(1)>")
    act(operator, ACTIONS["limit"])
    for url in (PAGE, CHANGES, INDEX):
        assert "<img src=x" not in operator.get(url).content.decode()
