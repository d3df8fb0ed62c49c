"""The lines for systemd, PAM and nginx that fit the settings in force, as texts ready to be pasted."""

import math
from collections.abc import Iterator, Mapping

from ..conf import Settings, sizing
from ..overload.monitors import Descriptors

USER = "www-data"
FIRST_PORT = 8000
SERVERS_SHOWN = 64
"""Workers beyond this are told in a comment."""
STOP_PATIENCE = 15
"""Seconds; hypercorn takes three to end its connections, and a uvicorn whose handlers hang never ends by itself."""
READ_TIMEOUT = 75
"""Seconds; uvicorn and Daphne ping a silent client every 20, and wait for its answer up to 30."""
NGINX_COUNTS = 65_535
"""The highest number that nginx takes for ``limit_conn``."""
NGINX_SPARE = 512
"""Connections of an nginx beside those of WebSockets: pages, and the sockets it listens on."""


def advise(settings: Settings) -> Mapping[str, str]:
    """Texts by the file they belong in, in the order in which to write them."""
    return {
        **_sysctl(settings),
        "/etc/systemd/system/YOUR-WORKER.service.d/admission.conf": _unit(settings),
        "/etc/security/limits.d/admission.conf": _limits(settings),
        "/etc/nginx/nginx.conf": _nginx_main(settings),
        "/etc/nginx/conf.d/admission.conf": _nginx_http(settings),
        "/etc/nginx/snippets/admission.conf": _nginx_server(settings),
    }


def as_text(files: Mapping[str, str]) -> str:
    """All of them on one page, each under its name."""
    return "\n".join(f"# {name}\n\n{text}" for name, text in files.items())


def systemd(settings: Settings) -> str:
    """The line of a unit that lets a worker open as many files as its part of the limit takes."""
    return f"LimitNOFILE={sizing.advised_descriptors(settings)}"


def limits_conf(settings: Settings) -> tuple[str, str]:
    """The same for workers that are started from a login."""
    number = sizing.advised_descriptors(settings)
    return f"{USER} soft nofile {number}", f"{USER} hard nofile {number}"


def greatest_files(settings: Settings) -> str:
    """The line for sysctl that comes before these, where the system itself allows fewer here; else empty."""
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
# Time for goodbyes; what is not over by then is killed, and its slots are free within two beats.
TimeoutStopSec={STOP_PATIENCE}
Restart=always
RestartSec=1
"""


def _why_so_many(settings: Settings) -> str:
    part = sizing.connections(settings)
    if len(settings.pools) == 1:
        return f"# A worker's part of the limit is {part} connections."
    return f"""\
# A worker's part of the greatest pool is {part} connections. A connection is one socket, whatever pools it has
# slots in; where pools have routes of their own, add a worker's part of each other one."""


def _limits(settings: Settings) -> str:
    return "\n".join(
        ("# For workers that are started from a login; systemd does not read this.", *limits_conf(settings), "")
    )


def _nginx_main(settings: Settings) -> str:
    connections = 2 * _outer_limit(settings) + NGINX_SPARE
    return f"""\
# Change these lines where they stand. Every WebSocket is two connections: the client's and the worker's.
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
    # The processes of nginx share the zone, and so what they know of each worker's connections.
    zone admission_workers 256k;
    least_conn;
    # A WebSocket never gives its connection back, so that no "keepalive" is needed.
    # One line for each address that workers listen on.
{servers}
}}
"""


def _servers(count: int) -> Iterator[str]:
    """A line for each worker."""
    shown = min(count, SERVERS_SHOWN)
    for number in range(shown):
        yield f"    server 127.0.0.1:{FIRST_PORT + number};"
    if shown < count:
        yield f"    # And so on: {count} workers are expected."


def _nginx_server(settings: Settings) -> str:
    return f"""\
# Inside server {{ }}: include snippets/admission.conf;

# A client that sends no handshake holds its connection no longer than this.
client_header_timeout 10s;

location /ws/ {{
    # The outer ring, for what the workers cannot refuse any more. It is wider than the limit, since it answers
    # with 503, which a page cannot see.
    limit_conn admission {_outer_limit(settings)};

    proxy_pass http://admission;
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    proxy_set_header Host $http_host;
    # What a client says here itself is dropped. Behind another proxy: $proxy_add_x_forwarded_for
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_connect_timeout 5s;
    # {_why_read_timeout(settings)}
    proxy_read_timeout {_read_timeout(settings)}s;
}}
"""


def _outer_limit(settings: Settings) -> int:
    """Connections that nginx lets through: the limits, and for each worker what it may have open beside its part.

    Pools with routes of their own add up. Where one connection has slots in several this is too wide, which is
    harmless, and too narrow is not.
    """
    limits = (
        pool.max_connections + pool.expected_workers * (sizing.HEADROOM + sizing.held_back(pool))
        for pool in settings.pools.values()
    )
    return min(sum(limits), NGINX_COUNTS)


def _read_timeout(settings: Settings) -> int:
    """Seconds; where connections have a greatest age, their server may not ping, and they may be silent so long."""
    ages = [pool.max_connection_age for pool in settings.pools.values() if pool.max_connection_age]
    return max([READ_TIMEOUT, *(math.ceil(age + age / 10) for age in ages)])


def _why_read_timeout(settings: Settings) -> str:
    if _read_timeout(settings) > READ_TIMEOUT:
        return "As old as a connection may become."
    return "Longer than the 50 s in which uvicorn and Daphne ping their clients and give up the silent ones."
