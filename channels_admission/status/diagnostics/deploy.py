"""Configuration for systemd, PAM and nginx that fits the settings in force, ready to paste."""

import math
from collections.abc import Iterator, Mapping

from ...conf import Settings, sizing
from ...limiter.connections.refusal import RETRY_HEADER
from ...overload.monitors import Descriptors
from ...runtime.servers import installed

USER = "www-data"
FIRST_PORT = 8000
SERVERS_SHOWN = 64
"""Further workers are mentioned in a comment."""
STOP_TIMEOUT = 15
"""Seconds; hypercorn takes three to end its connections, and uvicorn never ends by itself if handlers hang."""
READ_TIMEOUT = 75
"""Seconds; uvicorn and Daphne ping a silent client every 20, and wait for its answer up to 30."""
MOST_TRIES = 5
"""Workers that nginx tries for one handshake: while all are saturated, each handshake costs as many."""
NGINX_COUNTS = 65_535
"""The highest number that nginx accepts for ``limit_conn``."""
NGINX_SPARE = 512
"""Connections of nginx besides WebSockets: pages, and listening sockets."""


def advise(settings: Settings) -> Mapping[str, str]:
    """Texts by file, in the order in which to write them."""
    return {
        **_sysctl(settings),
        "/etc/systemd/system/YOUR-WORKER.service.d/admission.conf": _unit(settings),
        "/etc/security/limits.d/admission.conf": _limits(settings),
        "/etc/nginx/nginx.conf": _nginx_main(settings),
        "/etc/nginx/conf.d/admission.conf": _nginx_http(settings),
        "/etc/nginx/snippets/admission.conf": _nginx_server(settings),
    }


def as_text(files: Mapping[str, str]) -> str:
    """All files in one text, each under its name."""
    return "\n".join(f"# {name}\n\n{text}" for name, text in files.items())


def systemd(settings: Settings) -> str:
    """The line of a unit that lets a worker open the files for its part of the limit."""
    return f"LimitNOFILE={sizing.advised_descriptors(settings)}"


def limits_conf(settings: Settings) -> tuple[str, str]:
    """The lines for limits.conf, for workers that are started from a login."""
    number = sizing.advised_descriptors(settings)
    return f"{USER} soft nofile {number}", f"{USER} hard nofile {number}"


def greatest_files(settings: Settings) -> str:
    """The line for sysctl if this system allows fewer files, else empty."""
    greatest, advised = Descriptors().greatest(), sizing.advised_descriptors(settings)
    return f"fs.nr_open = {advised}" if greatest and greatest < advised else ""


def _sysctl(settings: Settings) -> Mapping[str, str]:
    if not (line := greatest_files(settings)):
        return {}
    text = f"# First, with sysctl --system: no process may open more files, whatever its own limit is.\n{line}\n"
    return {"/etc/sysctl.d/admission.conf": text}


def _unit(settings: Settings) -> str:
    return f"""\
[Service]
{_why_so_many(settings)}
{systemd(settings)}
{_memory(settings)}
# Time to stop; then the process is killed, and its slots are free within two heartbeats.
TimeoutStopSec={_stop_timeout(settings)}
Restart=always
RestartSec=1
"""


def _stop_timeout(settings: Settings) -> int:
    """Seconds, the drain of ``DRAIN_ON_STOP`` included."""
    drain = 0.0 if settings.drain_on_stop is None else settings.drain_delay + settings.drain_on_stop
    return STOP_TIMEOUT + math.ceil(drain)


def _why_so_many(settings: Settings) -> str:
    part = sizing.connections(settings)
    if len(settings.pools) == 1:
        return f"# A worker's part of the limit is {part} connections."
    return f"""\
# A worker's part of the greatest pool is {part} connections. A connection is one socket, whatever pools it has
# slots in; if pools have separate routes, add a worker's parts of the others."""


def _memory(settings: Settings) -> str:
    figures = {name: sizing.figure(name) for name in installed()}
    needs = [
        f"{math.ceil(sizing.memory(settings, figure.worker << 20, figure.spoken << 10) / 2**20):,} MiB under {name}"
        for name, figure in figures.items()
    ]
    return f"""\
# Memory for it, with consumers that store nothing: {", ".join(needs) or "unknown"}.
# manage.py ws_capacity measures your own."""


def _limits(settings: Settings) -> str:
    return "\n".join(
        ("# For workers that are started from a login; systemd does not read this.", *limits_conf(settings), "")
    )


def _nginx_main(settings: Settings) -> str:
    connections = 2 * _outer_limit(settings) + NGINX_SPARE
    return f"""\
# Change these lines in place. Every WebSocket is two connections: the client's and the worker's.
worker_rlimit_nofile {connections + NGINX_SPARE};
events {{
    worker_connections {connections};
}}
"""


def _nginx_http(settings: Settings) -> str:
    servers = "\n".join(_servers(sizing.workers(settings)))
    return f"""\
map $http_upgrade $connection_upgrade {{
    default upgrade;
    ''      close;
}}

limit_conn_zone $server_name zone=admission:1m;

upstream admission {{
    # In this zone the processes of nginx share the counts of each worker's connections.
    zone admission_workers 256k;
    least_conn;
    # A WebSocket keeps its connection, so "keepalive" is not needed.
    # One line for each address that workers listen on. Without max_fails=0 a worker that drains or starts anew would
    # be left out, and then get a single handshake per fail_timeout until that WebSocket has ended.
{servers}
}}
"""


def _servers(count: int) -> Iterator[str]:
    """A line for each worker."""
    shown = min(count, SERVERS_SHOWN)
    for number in range(shown):
        yield f"    server 127.0.0.1:{FIRST_PORT + number} max_fails=0;"
    if shown < count:
        yield f"    # And so on: {count} workers are expected."


def _nginx_server(settings: Settings) -> str:
    return f"""\
# Inside server {{ }}: include snippets/admission.conf;

# A client without a handshake is disconnected after this time.
client_header_timeout 10s;

proxy_http_version 1.1;
proxy_set_header Upgrade $http_upgrade;
proxy_set_header Connection $connection_upgrade;
proxy_set_header Host $http_host;
# The client's own header is dropped. Behind another proxy: $proxy_add_x_forwarded_for
proxy_set_header X-Forwarded-For $remote_addr;
proxy_set_header X-Forwarded-Proto $scheme;
# Tells a worker that others are tried after its 503, as it answers while it drains or is saturated.
proxy_set_header {RETRY_HEADER} $admission_retry;
set $admission_retry 1;
# A host that does not answer is skipped after this time.
proxy_connect_timeout 1s;
# {_why_read_timeout(settings)}
proxy_read_timeout {_read_timeout(settings)}s;

# The outer limit, for overload beyond the workers' own refusals. It answers with 429: workers answer with 503.
limit_conn_status 429;

location /ws/ {{
    # Wider than the workers' limit, since a page cannot see this answer.
    limit_conn admission {_outer_limit(settings)};

    proxy_next_upstream error timeout http_503;
    proxy_next_upstream_tries {min(sizing.workers(settings), MOST_TRIES)};
    # If each of these answers with 503, one more refuses with the code and the hint that pages can see.
    proxy_intercept_errors on;
    error_page 503 = @last_try;
    proxy_pass http://admission;
}}

location @last_try {{
    set $admission_retry 0;
    proxy_pass http://admission;
}}
"""


def _outer_limit(settings: Settings) -> int:
    """Connections that nginx admits: the limits of all pools, plus the spare connections of each worker.

    The pools' limits add up, which is too wide if a connection has slots in several. That is harmless; too narrow is
    not.
    """
    limits = (
        pool.max_connections + pool.expected_workers * (sizing.HEADROOM + sizing.held_back(pool))
        for pool in settings.pools.values()
    )
    return min(sum(limits), NGINX_COUNTS)


def _read_timeout(settings: Settings) -> int:
    """Seconds; with a maximum age the server may not ping, and connections may be silent for that long."""
    ages = [pool.max_connection_age for pool in settings.pools.values() if pool.max_connection_age]
    return max([READ_TIMEOUT, *(math.ceil(age + age / 10) for age in ages)])


def _why_read_timeout(settings: Settings) -> str:
    if _read_timeout(settings) > READ_TIMEOUT:
        return "The greatest age of a connection."
    return "Longer than the 50 s within which uvicorn and Daphne ping their clients and drop silent ones."
