"""The package for bundlers, and other libraries with its AdmittedSocket: built by Vite, in a real Chromium."""

import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from pathlib import Path

import pytest

from demo.servers import Workers
from support import ROOT
from support.browsing import eventually, holder

pytestmark = pytest.mark.alone

STATIC = Path(str(files("channels_admission"))) / "static" / "channels_admission"
LIBRARIES = Path(__file__).parent.parent / "js" / "libraries"
TOLERANCE = 200
"""Milliseconds by which an attempt may come later than planned, on a busy machine."""
STRICT = ("--noEmit", "--strict", "--target", "es2022", "--lib", "es2022,dom")
SAMPLE = """
import { AdmissionSocket } from "admission-socket";
import { AdmittedSocket } from "admission-socket/admitted-socket.js";
import "admission-socket/admission-socket.classic.js";

const socket: WebSocket = new AdmissionSocket("/ws/", [], { maxSilence: 30_000, ping: () => "ping" });
const same: boolean = globalThis.AdmissionSocket === AdmissionSocket;
const plain: typeof WebSocket = AdmittedSocket;
const seconds: number | undefined = new AdmittedSocket("/ws/").waiting?.remaining;
// @ts-expect-error: there is no such option.
AdmittedSocket.options = { retries: 5 };
Object.assign(globalThis, { socket, same, plain, seconds });
"""
SPY = """
globalThis.attempts = [];
globalThis.endings = [];
globalThis.seen = [];
class Watched extends WebSocket {
  constructor(...args) {
    super(...args);
    attempts.push({ url: this.url, at: performance.now() });
    this.addEventListener("close", ({ code, reason }) => endings.push({ code, reason, at: performance.now() }));
  }
}
import("/static/channels_admission/admitted-socket.js").then(({ AdmittedSocket }) => {
  AdmittedSocket.options = { platform: { WebSocket: Watched } };
  Object.assign(globalThis, { AdmittedSocket });
});
"""
"""Loads AdmittedSocket, and notes its attempts."""
HTMX = {"2": "htmx.createWebSocket = (url) => new AdmittedSocket(url)", "4": "globalThis.WebSocket = AdmittedSocket"}
"""Where each version of htmx takes another WebSocket."""
CLIENTS = ("admission", "graphql", "party", "reconnecting", "plain")
START = """
const url = location.origin.replace("http", "ws") + "/ws/echo/";
for (const name of arguments[0]) LIBRARIES[name](`${url}?library=${name}`);
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    """The package as npm packs it, without a registry. Without npm the test is skipped, and in CI fails."""
    if shutil.which("npm") is None:
        if "CI" in os.environ:
            pytest.fail("npm must be there in CI.")
        pytest.skip("no npm on the PATH")
    folder = tmp_path_factory.mktemp("packed")
    run("npm", "pack", "--offline", "--ignore-scripts", STATIC, cwd=folder)
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def site(packed, tmp_path_factory) -> Path:
    """A folder in which npm has installed the libraries, and the package."""
    folder = tmp_path_factory.mktemp("site")
    for file in LIBRARIES.iterdir():
        shutil.copy(file, folder)
    run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)
    with tarfile.open(packed) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (folder / "unpacked" / "package").rename(folder / "node_modules" / "admission-socket")
    return folder


@pytest.fixture(scope="module")
def bundle(site) -> str:
    """What Vite makes of the page of the libraries."""
    run("node_modules/.bin/vite", "build", "--logLevel", "warn", cwd=site)
    (script,) = (site / "dist" / "assets").glob("*.js")
    return script.read_text()


def test_typescript_takes_the_types_strictly(site):
    (site / "sample.mts").write_text(SAMPLE)
    run("node_modules/.bin/tsc", *STRICT, "--module", "nodenext", "sample.mts", cwd=site)
    run("node_modules/.bin/tsc", *STRICT, "--module", "esnext", "--moduleResolution", "bundler", "main.ts", cwd=site)


def test_a_build_grows_by_no_more_than_the_page_says(site):
    (site / "only.js").write_text('import { AdmissionSocket } from "admission-socket"; new AdmissionSocket("/ws/");')
    (site / "only.html").write_text('<script type="module" src="./only.js"></script>')
    (site / "vite.config.js").write_text('export default { build: { rollupOptions: { input: "only.html" } } };')
    run("node_modules/.bin/vite", "build", "--logLevel", "warn", "--outDir", "only", cwd=site)
    (site / "vite.config.js").unlink()
    (script,) = (site / "only" / "assets").glob("*.js")
    told = re.search(r"at most (\d+) kB to a build of Vite", (ROOT / "docs" / "clients.md").read_text())
    assert b"retry-after" in script.read_bytes()
    assert script.stat().st_size <= 1000 * int(told[1])


def test_every_library_waits_as_told_keeps_its_place_and_gets_in(browser, redis_server, prefix, bundle):
    slots = len(CLIENTS)
    settings = {"LEDGER": redis_server.url, "PREFIX": prefix, "MAX_CONNECTIONS": slots, "RETRY_AFTER": (1, 2)}
    with Workers("uvicorn", 1, redis_url=redis_server.url, settings=settings) as running:
        browser.get(f"{running.origin}/blank/")
        with ExitStack() as holders:
            for _ in CLIENTS:
                holders.enter_context(holder(running.origin))
            browser.execute_cdp_cmd("Runtime.evaluate", {"expression": bundle})
            browser.execute_script(START, CLIENTS)
            eventually(browser, "Object.values(stories).every(({ endings }) => endings.length >= 2)")
        eventually(browser, "Object.values(stories).every(({ seen }) => seen.includes('open'))")
        stories = browser.execute_script("return stories")
    assert stories.keys() == set(CLIENTS)
    for name, story in stories.items():
        assert_heeded(story["attempts"], story["endings"])
        # Only the library that asks for refusals hears of them.
        assert story["seen"] == [1013] * (name == "admission") * len(story["endings"]) + ["open"]


def assert_heeded(attempts: list[dict], endings: list[dict]) -> None:
    """Every attempt but the last was refused, and each came at the time of the hint with the ticket."""
    assert {ending["code"] for ending in endings} == {1013}
    first = attempts[0]["url"]
    found = [re.search(r"; ticket=([\w-]{24}); retry-after=([\d.]+)$", ending["reason"]) for ending in endings]
    for ending, told, after in zip(endings, found, attempts[1:], strict=True):
        assert -1 <= after["at"] - ending["at"] - 1000 * float(told[2]) <= TOLERANCE
        assert after["url"] == f"{first}{'&' if '?' in first else '?'}admission_ticket={told[1]}"


@pytest.mark.parametrize("version", HTMX)
def test_htmx_waits_as_told_keeps_its_place_and_gets_in(browser, redis_server, prefix, version):
    settings = {"LEDGER": redis_server.url, "PREFIX": prefix, "MAX_CONNECTIONS": 1, "RETRY_AFTER": (1, 2)}
    with Workers("uvicorn", 1, redis_url=redis_server.url, settings=settings) as running:
        browser.get(f"{running.origin}/blank/")
        with holder(running.origin):
            browser.execute_script(SPY)
            eventually(browser, "globalThis.AdmittedSocket")
            for name in (f"htmx-{version}.js", f"ext/hx-ws-{version}.js"):
                script = files("django_htmx").joinpath("static", "django_htmx", *name.split("/")).read_text()
                browser.execute_cdp_cmd("Runtime.evaluate", {"expression": script})
            browser.execute_script(HTMX[version])
            element = '<div hx-ext="ws" ws-connect="/ws/echo/" hx-ws:connect="/ws/echo/"></div>'
            browser.execute_script("document.body.innerHTML = arguments[0]; htmx.process(document.body)", element)
            for kind in ("htmx:wsOpen", "htmx:after:ws:connection", "htmx:wsClose", "htmx:ws:close"):
                browser.execute_script(
                    "document.body.addEventListener(arguments[0], () => seen.push(arguments[0]))", kind
                )
            eventually(browser, "endings.length >= 2")
        eventually(browser, "attempts.length === endings.length + 1 && performance.now() > attempts.at(-1).at + 300")
        attempts, endings, seen = browser.execute_script("return [attempts, endings, seen]")
    assert_heeded(attempts, endings)
    assert seen == [{"2": "htmx:wsOpen", "4": "htmx:after:ws:connection"}[version]]


def told(process: subprocess.Popen, kind: str) -> list:
    """The next event of this kind that Node writes: its time in milliseconds, and what belongs to it."""
    for line in process.stdout:
        at, what, *more = json.loads(line)
        if what == kind:
            return [at, *more]
    raise AssertionError(f"Node has ended with {process.wait()}, without a {kind}: {process.stderr.read()}")


@contextmanager
def in_node(site: Path, *arguments: str) -> Iterator[subprocess.Popen]:
    command = ["node", "node.mjs", *arguments]
    with subprocess.Popen(command, cwd=site, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        limit = threading.Timer(60, process.kill)
        limit.start()
        try:
            yield process
        finally:
            limit.cancel()
            process.kill()


@pytest.mark.parametrize("platform", ["ws", "undici"])
def test_in_node_it_waits_as_told_keeps_its_place_and_gets_in(site, redis_server, prefix, platform):
    settings = {"LEDGER": redis_server.url, "PREFIX": prefix, "MAX_CONNECTIONS": 1, "RETRY_AFTER": (1, 2)}
    with Workers("uvicorn", 1, redis_url=redis_server.url, settings=settings) as running, ExitStack() as stack:
        url = running.origin.replace("http", "ws", 1) + "/ws/echo/?a=%20b"
        with holder(running.origin):
            node = stack.enter_context(in_node(site, platform, url))
            assert told(node, "attempt")[1] == url
            closed, code, reason = told(node, "close")
        at, address = told(node, "attempt")
        ticket, hint = re.search(r"; ticket=([\w-]{24}); retry-after=([\d.]+)$", reason).groups()
        assert (code, address) == (1013, f"{url}&admission_ticket={ticket}")
        # The client's timer begins before its user hears of the end.
        assert -20 <= at - closed - 1000 * float(hint) <= TOLERANCE
        assert told(node, "message")[1] == "hello"


@pytest.mark.parametrize("platform", ["ws", "undici"])
def test_in_node_a_server_that_never_answers_ends_no_process(site, platform):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"ws://127.0.0.1:{server.getsockname()[1]}/"
        with in_node(site, platform, url, '{"connectTimeout": 100, "floor": 1, "base": 1}') as node:
            assert [told(node, "close")[1:] for _ in range(3)] == [[1006, "timeout"]] * 3


def test_a_service_worker_has_one_socket_for_all_pages(browser, redis_server, prefix):
    settings = {"LEDGER": redis_server.url, "PREFIX": prefix, "MAX_CONNECTIONS": 1, "RETRY_AFTER": (1, 2)}
    with Workers("uvicorn", 1, redis_url=redis_server.url, settings=settings) as running:
        browser.get(f"{running.origin}/blank/")
        with holder(running.origin):
            browser.execute_script("""
              globalThis.told = [];
              navigator.serviceWorker.onmessage = ({ data }) => told.push(data);
              navigator.serviceWorker.startMessages();
              navigator.serviceWorker.register("/static/demo/worker.js").then((registration) => {
                globalThis.worker = registration.installing ?? registration.active;
              });
            """)
            eventually(browser, "told.length >= 2")
        eventually(browser, "told.at(-1).state === 'open'")
        waits = browser.execute_script("return told.slice(0, -1)")
        browser.execute_script("worker.postMessage('hello')")
        eventually(browser, "told.at(-1).data === 'hello'")
    assert all(wait["state"] == "waiting" and wait["hinted"] and 1000 <= wait["delay"] <= 2000 for wait in waits)
