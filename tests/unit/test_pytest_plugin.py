"""The pytest plugin, with the tests of a small site and of a project that merely has the package installed."""

import os
import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import distribution

import pytest
import redis

from channels_admission.core.guard import VARIABLE

from support import ROOT

SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "channels", "channels_admission"]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}}}
CHANNEL_LAYERS = {{"default": {{"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {{"hosts": ["{url}"]}}}}}}
CHANNELS_ADMISSION = {{"MAX_CONNECTIONS": 2, "PREFIX": "{prefix}"}}
TEST_RUNNER = "channels_admission.testing.AdmissionRunner"
USE_TZ = True
"""
ASGI = """
import django
django.setup()
from channels.generic.websocket import AsyncWebsocketConsumer
from channels_admission.middleware import AdmissionMiddleware
application = AdmissionMiddleware(AsyncWebsocketConsumer.as_asgi())
"""
TESTS = """
from asgiref.sync import async_to_sync
from channels.testing import WebsocketCommunicator
from django.test import SimpleTestCase, TestCase, override_settings
from site_.asgi import application
from channels_admission import conf
from channels_admission.testing import fill, override_admission, refused

def client():
    return WebsocketCommunicator(application, "/")

async def take_both_slots():
    held = [client(), client()]
    for each in held:
        assert await each.connect(timeout=30) == (True, None)
        assert await each.receive_nothing()
    assert (await refused(client(), timeout=30)).code == 1013

class InTestCase(TestCase):
    async def test_with_the_settings_of_the_site(self):
        await take_both_slots()

    def test_in_a_function(self):
        async_to_sync(take_both_slots)()

    @override_settings(CHANNELS_ADMISSION={"MAX_CONNECTIONS": 2})
    def test_with_settings_that_name_no_ledger(self):
        async_to_sync(take_both_slots)()

@override_admission(MAX_CONNECTIONS=5)
class WithOtherSettings(SimpleTestCase):
    def test_in_a_function(self):
        with fill() as held:
            assert held == 5
            assert async_to_sync(refused)(client(), timeout=30).code == 1013
"""
MORE_TESTS = """
import pytest
from site_.test_site import client, fill, override_admission, refused, take_both_slots, async_to_sync

@pytest.mark.parametrize("time", range(3))
def test_each_test_begins_with_an_empty_pool(time):
    async_to_sync(take_both_slots)()

async def test_in_a_coroutine():
    await take_both_slots()

@override_admission(MAX_CONNECTIONS=3)
async def test_with_other_settings():
    async with fill(free=1):
        first = client()
        assert await first.connect(timeout=30) == (True, None)
        assert (await refused(client(), timeout=30)).code == 1013
"""


@pytest.fixture
def site(tmp_path, redis_server, prefix):
    package = tmp_path / "site_"
    package.mkdir()
    files = {
        "__init__.py": "", "settings.py": SETTINGS.format(url=redis_server.url, prefix=prefix), "asgi.py": ASGI,
        "test_site.py": TESTS, "test_more.py": MORE_TESTS,
    }  # fmt: skip
    for name, text in files.items():
        (package / name).write_text(text)
    # Settings are read before the first test, as a conftest that imports asgi.py does it.
    (tmp_path / "conftest.py").write_text("import site_.asgi\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\nDJANGO_SETTINGS_MODULE = site_.settings\n")
    return tmp_path


def run(folder, *args, **more):
    """A run of Python in the folder, with the plugin known even where the package is installed in place."""
    ours = {"DJANGO_SETTINGS_MODULE", "PYTEST_ADDOPTS", VARIABLE}
    env = {name: value for name, value in os.environ.items() if name not in ours}
    env |= {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), **more}
    return subprocess.run([sys.executable, *args], cwd=folder, env=env, capture_output=True, text=True, check=False)


def run_pytest(folder, *args):
    known = ["-p", "channels_admission.pytest_plugin"] if not is_installed() else []
    return run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", *known, *args)


def is_installed() -> bool:
    points = distribution("channels-admission").entry_points
    return any(point.value == "channels_admission.pytest_plugin" for point in points)


def keys(redis_server, prefix):
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        return list(client.scan_iter(match=f"{prefix}*"))


def test_the_tests_of_a_site_pass_and_count_nothing_in_its_redis(site, redis_server, prefix):
    told = run_pytest(site)
    assert (told.returncode, "9 passed" in told.stdout) == (0, True), told.stdout + told.stderr
    assert keys(redis_server, prefix) == []


def test_without_the_guard_they_would_count_there(site, redis_server, prefix):
    (site / "pytest.ini").write_text((site / "pytest.ini").read_text() + "admission_guard = false\n")
    told = run_pytest(site, "-k", "with_the_settings_of_the_site")
    assert (told.returncode, keys(redis_server, prefix) != []) == (0, True), told.stdout + told.stderr


def test_the_runner_of_django_guards_as_well(site, redis_server, prefix):
    told = run(
        site, "-m", "django", "test", "site_", "--pattern", "test_site.py", DJANGO_SETTINGS_MODULE="site_.settings"
    )
    assert (told.returncode, "Ran 4 tests" in told.stderr) == (0, True), told.stderr
    assert keys(redis_server, prefix) == []


def test_another_project_with_the_package_installed_is_left_alone(tmp_path):
    (tmp_path / "test_other.py").write_text(
        "import os, sys\n\ndef test_nothing_is_imported():\n"
        "    assert not [name for name in sys.modules if name.partition('.')[0] in ('channels', 'redis')]\n"
        "    assert [name for name in sys.modules if name.startswith('channels_admission')] == [\n"
        "        'channels_admission', 'channels_admission.core', 'channels_admission.core.guard',\n"
        "        'channels_admission.pytest_plugin',\n    ]\n"
        f"    assert os.environ['{VARIABLE}'] == 'on'\n"
    )
    told = run_pytest(tmp_path, "-p", "no:django", "-p", "no:asyncio", "-W", "error")
    assert (told.returncode, "1 passed" in told.stdout) == (0, True), told.stdout + told.stderr


def test_the_entry_point_is_declared():
    config = ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    assert config["options.entry_points"]["pytest11"].split() == [
        "channels_admission",
        "=",
        "channels_admission.pytest_plugin",
    ]
