"""What is installed, and what the documents say of it."""

import os
import re
import runpy
import subprocess
import sys
import venv
from configparser import ConfigParser
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path

import pytest
from packaging.version import Version

import channels_admission
from channels_admission import conf
from channels_admission.conf import sizing

from support import ROOT

NEEDED = {
    "channels_admission/py.typed",
    "channels_admission/ledger/lua/main.lua",
    "channels_admission/templates/channels_admission/status.html",
    "channels_admission/static/channels_admission/admission.js",
    "channels_admission/static/channels_admission/admission.css",
    "channels_admission/static/channels_admission/charts.js",
    "channels_admission/static/channels_admission/admission-socket.classic.js",
    "channels_admission/static/channels_admission/admission-socket.d.ts",
    "channels_admission/static/channels_admission/admission-socket.js",
    "channels_admission/static/channels_admission/admitted-socket.d.ts",
    "channels_admission/static/channels_admission/admitted-socket.js",
    "channels_admission/static/channels_admission/LICENSE",
    "channels_admission/static/channels_admission/package.json",
    "channels_admission/locale/id/LC_MESSAGES/django.mo",
    "channels_admission/management/commands/ws_status.py",
}


def installed() -> set[str]:
    return {str(path) for path in distribution("channels-admission").files or ()}


def test_the_wheel_holds_what_is_needed_and_nothing_of_the_tests():
    files = installed()
    if not distribution("channels-admission").read_text("RECORD") or any("__editable__" in name for name in files):
        pytest.skip("installed in place; tox installs the wheel")
    assert files >= NEEDED
    tops = {name.partition("/")[0] for name in files}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"channels_admission"}


def test_the_package_index_can_show_the_description_with_its_picture():
    markdown = pytest.importorskip("readme_renderer.markdown", reason="tox installs it where it installs the wheel")
    url = runpy.run_path(str(ROOT / "setup.py"))["repository"]()
    metadata = distribution("channels-admission").metadata
    assert metadata["Description-Content-Type"] == "text/markdown"
    page = markdown.render(metadata.get_payload())
    assert re.findall(r'<img [^>]*src="([^"]+)"', page) == [f"{url}/raw/HEAD/docs/admin-status.png"]
    assert [link for link in re.findall(r'href="([^"]+)"', page) if not link.startswith(("https://", "#"))] == []
    assert page.count("<pre") == (ROOT / "README.md").read_text().count("```") / 2


ALONE = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        top, _, rest = name.partition(".")
        known = top in {*sys.stdlib_module_names, "websockets"}
        if not known and name not in {"channels_admission", "channels_admission.client"}:
            raise ImportError(name)

sys.meta_path.insert(0, Nothing())
from channels_admission.client import Retries, RetryPolicy, connections
print(sorted(name for name in sys.modules if name.startswith("channels_admission")))
"""


def test_the_python_client_needs_nothing_but_websockets():
    told = subprocess.run([sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.stdout.strip() == "['channels_admission', 'channels_admission.client']", told.stderr


COMES_BACK = """
import asyncio
from contextlib import suppress
from importlib.metadata import distributions
from channels_admission.client import connections
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

TICKET = 24 * "t"
shown, waits = [], []

async def answer(socket):
    shown.append(socket.request.headers.get("Admission-Ticket"))
    if len(shown) == 1:
        return await socket.close(1013, f"Try Again Later; ticket={TICKET}; retry-after=0.7")
    async for message in socket:
        await socket.send(message)

async def come_back():
    async with serve(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async for socket in connections(f"ws://127.0.0.1:{port}", on_wait=waits.append, proxy=None):
            with suppress(ConnectionClosed):
                await socket.send("hello")
                return await socket.recv()

print(asyncio.run(come_back()), shown == [None, TICKET], [wait.seconds for wait in waits])
print(sorted(each.name for each in distributions()))
"""


def test_the_wheel_and_websockets_alone_are_a_client_that_comes_back(tmp_path):
    if "WHEELS" not in os.environ:
        pytest.skip("tox -e package builds the wheel")
    (wheel,) = Path(os.environ["WHEELS"]).glob("*.whl")
    venv.create(tmp_path, symlinks=True)
    python = tmp_path / "bin" / "python"
    install = ["uv", "pip", "install", "--quiet", "--no-deps", "--python", python, wheel, "websockets"]
    done = subprocess.run(install, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told = subprocess.run([python, "-I", "-c", COMES_BACK], capture_output=True, text=True, timeout=60)
    assert told.stdout == "hello True [0.7]\n['channels-admission', 'websockets']\n", told.stderr


def test_the_versions_agree():
    assert distribution("channels-admission").version == channels_admission.__version__
    assert f"## {channels_admission.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_page_of_settings_tells_each_with_its_default():
    page = (ROOT / "docs" / "settings.md").read_text()
    table = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]+) \|", page, re.MULTILINE))
    assert set(table) == {key.name for key in conf.KEYS} | {"POOLS"}
    for key in conf.KEYS:
        if key.name != "LEDGER":
            assert table[key.name].strip() == f"`{key.default!r}`".replace("'", '"')


def test_the_page_and_the_types_tell_every_option_of_the_client_with_its_default():
    static = Path(str(files("channels_admission"))) / "static" / "channels_admission"
    block = re.search(r"const DEFAULTS = \{\n(.*?)\n  \};", (static / "admission-socket.classic.js").read_text(), re.S)
    options = dict(re.findall(r"^ +(\w+)(?:: ([^,]+))?, //", block[1], re.MULTILINE))
    assert len(options) > 10
    page = (ROOT / "docs" / "clients.md").read_text()
    table = dict(re.findall(r"^\| `([a-z]\w+)` \| `([^`]+)` \|", page, re.MULTILINE))
    assert table == {name: value.replace("_", "") or f"AdmissionSocket.{name}" for name, value in options.items()}
    types = re.search(r"interface AdmissionOptions \{\n(.*?)\n\}", (static / "admission-socket.d.ts").read_text(), re.S)
    told = re.findall(r"^  (?:/\*\* .*: (.*)\. \*/\n  )?(\w+)\?:", types[1], re.MULTILINE)
    assert {name: value.replace(",", "").strip("`") or "{}" for value, name in told} == table


def test_the_page_of_checks_tells_every_check():
    checks = "".join(path.read_text() for path in (ROOT / "channels_admission").rglob("*.py"))
    ids = set(re.findall(r'"(?:channels_admission\.)?([EW]\d{3})"', checks))
    page = (ROOT / "docs" / "checks.md").read_text()
    assert len(ids) > 15
    assert [check for check in sorted(ids) if f"`{check}`" not in page] == []


def test_the_page_of_checks_tells_the_files_beside_the_connections():
    assert f"plus {sizing.HEADROOM} files" in (ROOT / "docs" / "checks.md").read_text()


def test_the_page_of_capacity_has_the_figures_of_every_server():
    page = (ROOT / "docs" / "capacity.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| (\d+) \| (\d+) \| (\d+) \| 1 \|$", page, re.MULTILINE)
    assert {name: tuple(map(int, numbers)) for name, *numbers in rows} == sizing.FIGURES


def test_ci_runs_the_command_that_contributors_are_told():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    (command,) = re.findall(r"^## Tests\n\n```console\n(.*)\n```", page, re.MULTILINE)
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == command


def test_every_link_of_the_documents_leads_somewhere():
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    links = [(page, *re.match(r"([^#]*)#?(.*)", to).groups()) for page in documents for to in links_of(page)]
    assert len(links) > 30
    for page, path, anchor in links:
        target = page.parent / path if path else page
        assert target.exists(), (page, path)
        assert not anchor or anchor in anchors_of(target), (page, path, anchor)


def links_of(page: Path) -> list[str]:
    return [to for to in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if not to.startswith("http")]


def anchors_of(page: Path) -> set[str]:
    """The names that a page's headings have as places to go to."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_oldest_versions_that_are_tested_are_those_that_are_allowed():
    config = ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    allowed = dict(line.split(">=") for line in config["options"]["install_requires"].split())
    lines = (ROOT / "tests" / "oldest.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert tested.keys() == allowed.keys()
    for name, version in tested.items():
        assert Version(version) == Version(allowed[name]), name
