"""The client for browsers without a browser: its rules on a clock of its own, and the tag that loads it."""

import os
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import django
import pytest
from django.core.management import call_command
from django.http import HttpResponse
from django.template import Context, Template
from django.templatetags.static import static
from django.test import RequestFactory
from django.utils.functional import SimpleLazyObject

STATIC = Path(str(files("channels_admission"))) / "static" / "channels_admission"
NODE_TESTS = sorted(Path(__file__).parent.glob("*.test.mjs"))
CLASSIC = "/static/channels_admission/admission-socket.classic.js"


def render(tag: str = "{% admission_socket %}", **context: object) -> str:
    return Template("{% load channels_admission %}" + tag).render(Context(context))


class LazyNonce(SimpleLazyObject):
    """Made by the first who reads it; false until then, as in Django and in django-csp."""

    def __init__(self) -> None:
        super().__init__(lambda: "lazy")

    def __bool__(self) -> bool:
        return False


@pytest.fixture
def node() -> str:
    """The path of Node. Without one the test is skipped, and in CI fails."""
    path = shutil.which("node")
    if path is None and "CI" in os.environ:
        pytest.fail("Node must be there in CI.")
    return path or pytest.skip("no node on the PATH")


def test_every_rule_of_the_client_holds(node):
    command = [node, "--test", *map(str, NODE_TESTS)]
    env = {**os.environ, "ADMISSION_STATIC": str(STATIC)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert NODE_TESTS
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fail 0" in done.stdout


def test_the_tag_loads_the_script():
    assert render() == f'<script src="{CLASSIC}"></script>'


def test_the_tag_takes_the_nonce_it_is_given_before_any_other():
    html = render("{% admission_socket nonce=mine %}", mine="m", csp_nonce="c")
    assert html == f'<script src="{CLASSIC}" nonce="m"></script>'


@pytest.mark.parametrize("nonce", ["abc", LazyNonce()], ids=["made", "not made yet"])
def test_the_tag_finds_the_nonce_of_the_context(nonce):
    assert render(csp_nonce=nonce) == f'<script src="{CLASSIC}" nonce="{nonce}"></script>'


@pytest.mark.parametrize("nonce", ["abc", LazyNonce()], ids=["made", "not made yet"])
def test_the_tag_finds_the_nonce_of_the_request(nonce):
    request = SimpleNamespace(csp_nonce=nonce)
    assert render(request=request) == f'<script src="{CLASSIC}" nonce="{nonce}"></script>'


@pytest.mark.skipif(django.VERSION < (6, 0), reason="Django has a policy of its own from 6.0 on")
def test_the_tag_has_the_nonce_of_djangos_own_policy(settings):
    from django.middleware.csp import ContentSecurityPolicyMiddleware
    from django.template.context_processors import csp
    from django.utils.csp import CSP

    settings.SECURE_CSP = {"script-src": [CSP.NONCE]}
    answer = ContentSecurityPolicyMiddleware(lambda request: HttpResponse(render(**csp(request))))
    response = answer(RequestFactory().get("/"))
    (nonce,) = re.findall(r"'nonce-(.+)'", response["Content-Security-Policy"])
    assert response.text == f'<script src="{CLASSIC}" nonce="{nonce}"></script>'


def test_the_tag_needs_neither_nonce_nor_request():
    bare = f'<script src="{CLASSIC}"></script>'
    assert render(request=RequestFactory().get("/")) == bare
    assert render(csp_nonce=None, request=None) == bare
    assert render("{% admission_socket nonce='' %}") == bare


def test_the_tag_escapes_what_it_writes():
    assert '"><b>' not in render(csp_nonce='"><b>')


def test_the_script_of_the_tag_and_the_module_survive_hashed_names(settings, tmp_path):
    manifest = "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"
    settings.STATIC_ROOT = tmp_path
    settings.STORAGES = {**settings.STORAGES, "staticfiles": {"BACKEND": manifest}}
    settings.DEBUG = False
    call_command("collectstatic", interactive=False, verbosity=0)
    script = tmp_path / render().split('"')[1].removeprefix("/static/")
    module = tmp_path / static("channels_admission/admission-socket.js").removeprefix("/static/")
    assert {script.name, module.name}.isdisjoint(file.name for file in STATIC.iterdir())
    assert script.read_bytes() == (STATIC / "admission-socket.classic.js").read_bytes()
    (imported,) = re.findall(r'^import "(.+)";$', module.read_text(), re.MULTILINE)
    assert (module.parent / imported).read_bytes() == script.read_bytes()
