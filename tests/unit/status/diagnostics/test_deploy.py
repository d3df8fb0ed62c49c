"""``ws_status --advise``: the lines for other programs, and whether nginx takes them."""

import io
import json
import math
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from channels_admission import conf
from channels_admission.conf import sizing
from channels_admission.management.commands.ws_status import Command
from channels_admission.overload.monitors import Descriptors
from channels_admission.status.diagnostics.deploy import advise, as_text

from demo.servers import Workers, end, free_port, spawn, wait_until
from support.clients import Client

SYSCTL = "/etc/sysctl.d/admission.conf"
UNIT, LIMITS, MAIN, HTTP, SERVER = (
    "/etc/systemd/system/YOUR-WORKER.service.d/admission.conf",
    "/etc/security/limits.d/admission.conf",
    "/etc/nginx/nginx.conf",
    "/etc/nginx/conf.d/admission.conf",
    "/etc/nginx/snippets/admission.conf",
)


def instructions(text: str) -> list[str]:
    """The lines that are no comments, without space around them."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def printed(*args: str) -> str:
    out = io.StringIO()
    call_command("ws_status", "--advise", *args, stdout=out)
    return out.getvalue()


def test_the_limit_of_open_files_for_systemd_and_for_logins(admission):
    files = advise(admission(MAX_CONNECTIONS=20_000, EXPECTED_WORKERS=4))
    assert list(files) == [UNIT, LIMITS, MAIN, HTTP, SERVER]
    assert instructions(files[UNIT]) == [
        "[Service]", "LimitNOFILE=6144", "TimeoutStopSec=15", "Restart=always", "RestartSec=1",
    ]  # fmt: skip
    assert instructions(files[LIMITS]) == ["www-data soft nofile 6144", "www-data hard nofile 6144"]


def test_the_memory_for_a_worker_s_part_by_the_figures_of_the_servers_that_are_installed(admission, monkeypatch):
    unit = {}
    for names in (("daphne", "granian"), ()):
        monkeypatch.setattr("channels_admission.status.diagnostics.deploy.installed", lambda names=names: names)
        settings = admission(MAX_CONNECTIONS=4000, EXPECTED_WORKERS=4, PRESSURE={"memory": (0.5, 0.6)})
        unit[names] = advise(settings)[UNIT]
    daphne, granian = (sizing.FIGURES[name] for name in ("daphne", "granian"))
    needs = [math.ceil(2 * (each.worker + 1000 * each.spoken / 1024)) for each in (daphne, granian)]
    assert (
        f"\n# Memory for it, with consumers that store nothing: {needs[0]:,} MiB under daphne, {needs[1]:,} MiB under "
        "granian.\n# manage.py ws_capacity measures your own.\n"
    ) in unit["daphne", "granian"]
    assert "with consumers that store nothing: unknown.\n" in unit[()]


def test_pools_on_routes_of_their_own_are_for_the_reader_to_add(admission):
    alone = advise(admission(MAX_CONNECTIONS=20_000, EXPECTED_WORKERS=4))[UNIT]
    assert "\n# A worker's part of the limit is 5000 connections.\n" in alone
    assert "routes" not in alone
    pools = {"chat": {"MAX_CONNECTIONS": 24_000}}
    several = advise(admission(MAX_CONNECTIONS=20_000, EXPECTED_WORKERS=4, POOLS=pools))[UNIT]
    assert "\n# A worker's part of the greatest pool is 6000 connections. A connection is one socket" in several
    assert "# slots in; if pools have separate routes, add a worker's parts of the others.\n" in several
    assert "\nLimitNOFILE=8192\n" in several


@pytest.mark.parametrize(
    ("greatest", "first"),
    [(6143, ["fs.nr_open = 6144"]), (6144, None), (None, None)],
    ids=["less", "enough", "unknown"],
)
def test_what_no_limit_can_pass_is_raised_first(admission, monkeypatch, greatest, first):
    monkeypatch.setattr(Descriptors, "greatest", lambda self: greatest)
    files = advise(admission(MAX_CONNECTIONS=5000))
    assert list(files) == [*([SYSCTL] if first else []), UNIT, LIMITS, MAIN, HTTP, SERVER]
    assert instructions(files.get(SYSCTL, "")) == (first or [])


def test_nginx_sends_to_every_worker_what_a_websocket_needs(admission):
    files = advise(admission(MAX_CONNECTIONS=1000, EXPECTED_WORKERS=2))
    assert instructions(files[MAIN]) == [
        f"worker_rlimit_nofile {2 * 1230 + 1024};", "events {", f"worker_connections {2 * 1230 + 512};", "}",
    ]  # fmt: skip
    assert instructions(files[HTTP]) == [
        "map $http_upgrade $connection_upgrade {", "default upgrade;", "''      close;", "}",
        "limit_conn_zone $server_name zone=admission:1m;",
        "upstream admission {", "zone admission_workers 256k;", "least_conn;",
        "server 127.0.0.1:8000 max_fails=0;", "server 127.0.0.1:8001 max_fails=0;", "}",
    ]  # fmt: skip
    assert instructions(files[SERVER]) == [
        "client_header_timeout 10s;",
        "proxy_http_version 1.1;",
        "proxy_set_header Upgrade $http_upgrade;",
        "proxy_set_header Connection $connection_upgrade;",
        "proxy_set_header Host $http_host;",
        "proxy_set_header X-Forwarded-For $remote_addr;",
        "proxy_set_header X-Forwarded-Proto $scheme;",
        "proxy_set_header Admission-Retry $admission_retry;",
        "set $admission_retry 1;",
        "proxy_connect_timeout 1s;",
        "proxy_read_timeout 75s;",
        "limit_conn_status 429;",
        "location /ws/ {",
        "limit_conn admission 1230;",
        "proxy_next_upstream error timeout http_503;",
        "proxy_next_upstream_tries 2;",
        "proxy_intercept_errors on;",
        "error_page 503 = @last_try;",
        "proxy_pass http://admission;",
        "}",
        "location @last_try {",
        "set $admission_retry 0;",
        "proxy_pass http://admission;",
        "}",
    ]


@pytest.mark.parametrize(
    ("keys", "outer"),
    [
        ({"MAX_CONNECTIONS": 0}, 115),
        ({"MAX_CONNECTIONS": 100, "REFUSAL_HOLD": 1, "MAX_REFUSALS_HELD": 50, "EXPECTED_WORKERS": 2}, 430),
        ({"MAX_CONNECTIONS": 100, "POOLS": {"chat": {"MAX_CONNECTIONS": 200}}}, 530),
        ({"MAX_CONNECTIONS": 0, "POOLS": {"a": {"EXPECTED_WORKERS": 2}, "b": {"EXPECTED_WORKERS": 3}}}, 6 * 115),
        ({"MAX_CONNECTIONS": 10_000_000}, 65_535),
    ],
)
def test_the_outer_ring_is_wider_than_the_limits_together(admission, keys, outer):
    assert f"limit_conn admission {outer};" in advise(admission(**keys))[SERVER]


@pytest.mark.parametrize(
    ("keys", "timeout"),
    [
        ({}, 75),
        ({"MAX_CONNECTION_AGE": 60}, 75),
        ({"MAX_CONNECTION_AGE": 3600}, 3960),
        ({"MAX_CONNECTION_AGE": 3600, "POOLS": {"chat": {"MAX_CONNECTION_AGE": 7200}}}, 7920),
    ],
)
def test_nginx_is_patient_for_as_long_as_a_connection_may_be_silent(admission, keys, timeout):
    text = advise(admission(**keys))[SERVER]
    assert f"proxy_read_timeout {timeout}s;" in text
    assert ("The greatest age of a connection." in text) == (timeout > 75)


def test_a_handshake_is_tried_at_a_few_workers_only(admission):
    assert "proxy_next_upstream_tries 5;" in advise(admission(EXPECTED_WORKERS=40))[SERVER]


def test_a_unit_waits_for_the_drain_as_well(admission):
    assert "TimeoutStopSec=26" in advise(admission(DRAIN_ON_STOP=8, DRAIN_DELAY=2.5))[UNIT]
    assert "TimeoutStopSec=15" in advise(admission(DRAIN_DELAY=2.5))[UNIT]


def test_a_great_number_of_workers_is_not_written_out(admission):
    text = advise(admission(EXPECTED_WORKERS=100_000))[HTTP]
    assert len(re.findall("server 127", text)) == 64
    assert "    # And so on: 100000 workers are expected.\n}" in text
    assert "And so on" not in advise(admission(EXPECTED_WORKERS=64))[HTTP]


# The command


def test_it_is_printed_whole_and_asks_no_ledger(admission, monkeypatch):
    monkeypatch.setattr("channels_admission.management.commands.ws_status.collect", None)
    settings = admission(LEDGER="redis://127.0.0.1:1/0", MAX_CONNECTIONS=300)
    assert printed() == as_text(advise(settings))
    assert [line for line in printed().splitlines() if line.startswith("# /etc/")] == [
        f"# {name}" for name in (UNIT, LIMITS, MAIN, HTTP, SERVER)
    ]
    assert json.loads(printed("--json")) == dict(advise(settings))


def test_wrong_settings_are_told(settings):
    settings.CHANNELS_ADMISSION = {"MAX_CONNECTIONS": -1}
    with pytest.raises(CommandError, match=r"\['MAX_CONNECTIONS'\] must be"):
        printed()


def test_a_pool_has_no_advice_of_its_own(admission):
    admission()
    with pytest.raises(CommandError, match="not allowed with argument"):
        printed("--pool=default")


def test_the_help_tells_of_it():
    text = " ".join(Command().create_parser("manage.py", "ws_status").format_help().split())
    assert "Print lines for systemd, limits.conf and nginx that fit the settings" in text
    assert "--advise --json prints one object: the text of each file by its path." in text


# nginx


def find_nginx() -> str:
    """Where it is; without one the test is skipped, and in CI fails."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if not found:
        if "CI" in os.environ:
            pytest.fail("nginx must be there in CI.")
        pytest.skip("no nginx on the PATH")
    return found


def configuration(files: Mapping[str, str], folder: Path, port: int) -> Path:
    """The lines put together as one small configuration that any user may run."""
    temporary = "\n".join(
        f"    {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    path = folder / "nginx.conf"
    path.write_text(f"""\
{files[MAIN]}
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
http {{
    access_log off;
{temporary}
    {files[HTTP]}
    server {{
        listen 127.0.0.1:{port};
        {files[SERVER]}
    }}
}}
""")
    return path


@pytest.mark.integration
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"MAX_CONNECTIONS": 0},
        {"MAX_CONNECTIONS": conf.MAX_LIMIT, "EXPECTED_WORKERS": 100_000},
        {"MAX_CONNECTION_AGE": 3600, "REFUSAL_HOLD": 2, "EXPECTED_WORKERS": 4},
    ],
)
def test_nginx_accepts_the_lines(admission, tmp_path, keys):
    path = configuration(advise(admission(**keys)), tmp_path, free_port("127.0.0.1"))
    told = subprocess.run(
        [find_nginx(), "-t", "-p", str(tmp_path), "-c", str(path)], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    # How many files the user who runs the tests may open is not the text's matter.
    assert re.findall(r"\[(?:warn|emerg)\](?!.*open file resource limit).*", told.stderr) == []


@pytest.mark.integration
async def test_a_refusal_and_a_reconciler_pass_through_nginx(redis_server, prefix, admission, tmp_path):
    keys = {"MAX_CONNECTIONS": 1, "PREFIX": prefix}
    with Workers("uvicorn", 1, redis_url=redis_server.url, settings=keys) as workers:
        files = advise(admission(**keys))
        files = {**files, HTTP: files[HTTP].replace("127.0.0.1:8000", f"127.0.0.1:{workers.port}")}
        with nginx(files, tmp_path) as origin:
            first, second = await Client.enter(origin), await Client.enter(origin)
            assert first.is_open
            assert (second.code, second.reason.partition(";")[0]) == (1013, "Try Again Later")
            await first.leave()


@contextmanager
def nginx(files: Mapping[str, str], folder: Path) -> Iterator[str]:
    """An nginx with these lines; gives its origin."""
    port, log = free_port("127.0.0.1"), folder / "nginx.log"
    path = configuration(files, folder, port)
    process = spawn([find_nginx(), "-p", str(folder), "-c", str(path)], log)
    try:
        wait_until(lambda: _answers(port), [process], [log], "nginx")
        yield f"http://127.0.0.1:{port}"
    finally:
        end([process])


def _answers(port: int) -> bool:
    with closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
