"""What is asked by URL: who may, and what is answered."""

import importlib
import sys

import pytest
from django.contrib.auth.models import Permission, User
from django.core import checks
from django.test import Client

from channels_admission.management import checks as ours
from channels_admission.status import cache
from channels_admission.web import views

TOKEN = "a-token-of-forty-three-characters-at-random"
STATUS, METRICS, WORKERS = "/admission/status.json", "/admission/metrics", "/admission/metrics/workers"
GUARDED = pytest.mark.parametrize("url", [STATUS, METRICS, WORKERS])
CHALLENGE = 'Bearer realm="channels_admission"'
MISSING = (
    "Missing: the header 'Authorization: Bearer TOKEN' with the STATUS_TOKEN of CHANNELS_ADMISSION, "
    "or a login with the permission channels_admission.view_pool.\n"
)
WRONG = "The token is not the STATUS_TOKEN of CHANNELS_ADMISSION, or the settings have none.\n"


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch):
    monkeypatch.setattr(cache, "_remembered", None)


def get(url: str, authorization: str | None = None) -> object:
    headers = {} if authorization is None else {"Authorization": authorization}
    return Client().get(url, headers=headers)


@GUARDED
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_token_opens(admission, url, scheme):
    admission(STATUS_TOKEN=TOKEN)
    response = get(url, f"{scheme} {TOKEN}")
    assert response.status_code == 200
    assert response["Cache-Control"] == "no-store"


@GUARDED
@pytest.mark.parametrize(
    ("authorization", "challenge"),
    [
        (None, CHALLENGE),
        ("", CHALLENGE),
        (f"Basic {TOKEN}", CHALLENGE),
        (TOKEN, CHALLENGE),
        ("Bearer", f'{CHALLENGE}, error="invalid_token"'),
        ("Bearer ", f'{CHALLENGE}, error="invalid_token"'),
        (f"Bearer {TOKEN[:-1]}", f'{CHALLENGE}, error="invalid_token"'),
        (f"Bearer {TOKEN}x", f'{CHALLENGE}, error="invalid_token"'),
        ("Bearer é", f'{CHALLENGE}, error="invalid_token"'),
        ("Bearer None", f'{CHALLENGE}, error="invalid_token"'),
    ],
)
@pytest.mark.parametrize("token", [TOKEN, None])
def test_anonymous_clients_are_asked_for_it(admission, url, token, authorization, challenge):
    admission(STATUS_TOKEN=token)
    response = get(url, authorization)
    text = MISSING if challenge == CHALLENGE else WRONG
    assert (response.status_code, response["WWW-Authenticate"], response.content.decode()) == (401, challenge, text)
    assert response["Content-Type"] == "text/plain; charset=utf-8"
    assert response["Cache-Control"] == "no-store"


@GUARDED
def test_users_need_the_permission(admission, client, db, url):
    admission()
    user = User.objects.create_user("somebody", is_staff=True)
    client.force_login(user)
    response = client.get(url)
    text = "Missing: the permission channels_admission.view_pool for the user that is logged in.\n"
    assert (response.status_code, response.content.decode()) == (403, text)
    assert response["Cache-Control"] == "no-store"
    user.user_permissions.add(Permission.objects.get(codename="view_pool"))
    assert client.get(url).status_code == 200
    assert client.get(url, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.post(url).status_code == 405
    user.is_active = False
    user.save()
    assert client.get(url).status_code == 401


@GUARDED
def test_a_site_without_sessions_goes_by_the_token(admission, settings, url):
    settings.MIDDLEWARE = []
    admission(STATUS_TOKEN=TOKEN)
    assert get(url).status_code == 401
    assert get(url, f"Bearer {TOKEN}").status_code == 200


@GUARDED
def test_a_site_that_asks_everybody_to_log_in_lets_programs_ask(admission, settings, url):
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    admission(STATUS_TOKEN=TOKEN)
    assert get(url).status_code == 401
    assert get(url, f"Bearer {TOKEN}").status_code == 200


def test_the_status_is_the_snapshot(admission):
    admission(STATUS_TOKEN=TOKEN, MAX_CONNECTIONS=50, POOLS={"chat": {}})
    told = get(STATUS, f"Bearer {TOKEN}").json()
    assert [(pool["name"], pool["limit"]) for pool in told["pools"]] == [("default", 50), ("chat", 50)]
    assert told["ledger"]["health"] == "ok"


def test_a_ledger_that_is_down_is_an_answer(admission):
    admission(STATUS_TOKEN=TOKEN, LEDGER="redis://127.0.0.1:1/0")
    assert get(STATUS, f"Bearer {TOKEN}").json()["ledger"]["health"] == "down"
    response = get(METRICS, f"Bearer {TOKEN}")
    assert response.status_code == 200
    assert "channels_admission_ledger_up 0.0\n" in response.text
    assert "channels_admission_pool_held{" not in response.text


# Without the library


@pytest.fixture
def _without_the_library(monkeypatch):
    monkeypatch.delitem(sys.modules, "channels_admission.web.metrics", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    importlib.reload(views)
    yield
    monkeypatch.undo()
    importlib.reload(views)


@pytest.mark.usefixtures("_without_the_library")
def test_without_the_library_the_metrics_say_what_to_install(admission):
    admission(STATUS_TOKEN=TOKEN)
    assert get(METRICS).status_code == 401
    response = get(METRICS, f"Bearer {TOKEN}")
    assert response.status_code == 501
    assert "pip install 'channels-admission[prometheus]'" in response.text
    assert get(STATUS, f"Bearer {TOKEN}").status_code == 200


@pytest.mark.parametrize(("urlconf", "expected"), [("project.urls", 1), ("demo.routing", 0), ("no.such.urls", 0)])
def test_a_check_warns_of_metrics_without_the_library(admission, settings, monkeypatch, urlconf, expected):
    monkeypatch.setattr(ours, "find_spec", lambda name: None)
    settings.ROOT_URLCONF = urlconf
    warnings = ours.check_metrics(None)
    assert [warning.id for warning in warnings] == ["channels_admission.W009"] * expected
    assert all(isinstance(warning, checks.Warning) for warning in warnings)


def test_no_check_warns_of_metrics_with_the_library():
    assert ours.check_metrics(None) == []
