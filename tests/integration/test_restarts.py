"""Python clients behind nginx while their server is away for three seconds, whatever nginx answers for it."""

import asyncio
import math
import socket
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from websockets.exceptions import ConnectionClosed

from channels_admission.client import RetryPolicy, connections

from demo.servers import Workers, end, free_port, spawn, wait_until
from support.deployment import find
from support.waiting import eventually

ANSWERS = {
    200: 'return 200 "Back soon";',
    302: "return 302 http://status.invalid/;",
    400: "return 400;",
    403: "return 403;",
    404: "return 404;",
    502: "return 502;",
    521: "return 521;",
    522: "return 522;",
    530: "return 530;",
}
"""What nginx answers while the server is away."""
REDIRECT_TO_A_PAGE = None
"""How a client tells of the 302."""
CLIENTS = 20
"""For each answer."""
AWAY = 3.0
TIMEOUT = 30.0
POLICY = RetryPolicy(first_retry_window=1.0, cap=2.0)

CONF = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  {paths}
  map $http_upgrade $connection_upgrade {{ default upgrade; "" close; }}
  {servers}
}}
"""
SERVER = """
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{backend};
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      error_page 502 504 = @away;
    }}
    location @away {{ {answer} }}
  }}
"""


@contextmanager
def nginx(folder: Path, backend: int):
    """The port of nginx for each answer."""
    ports = {code: free_port("127.0.0.1") for code in ANSWERS}
    servers = [SERVER.format(port=ports[code], backend=backend, answer=answer) for code, answer in ANSWERS.items()]
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    conf, log = folder / "nginx.conf", folder / "log"
    conf.write_text(CONF.format(folder=folder, paths=paths, servers="".join(servers)))
    process = spawn([find("nginx"), "-p", str(folder), "-c", str(conf)], log)
    try:
        wait_until(lambda: all(map(_serves, ports.values())), [process], [log], "nginx")
        yield ports
    finally:
        end([process])


def _serves(port: int) -> bool:
    with closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


class Visitor:
    """A client that stays connected."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.codes = set()
        self.connected = 0
        self.connected_at = math.inf

    @property
    def has_been_up(self) -> bool:
        return time.monotonic() - self.connected_at > POLICY.settle

    async def stay(self) -> None:
        url, origin = f"ws://127.0.0.1:{self.port}/ws/echo/", f"http://127.0.0.1:{self.port}"
        options = {"policy": POLICY, "on_wait": lambda wait: self.codes.add(wait.ending.code)}
        async for client in connections(url, origin=origin, proxy=None, **options):
            with suppress(ConnectionClosed):
                await client.send("hello")
                assert await client.recv() == "hello"
                self.connected += 1
                self.connected_at = time.monotonic()
                await client.wait_closed()


async def test_every_client_is_back_after_a_restart_whatever_the_proxy_answers(redis_server, prefix, tmp_path):
    settings = {"LEDGER": redis_server.url, "PREFIX": prefix, "MAX_CONNECTIONS": 2 * CLIENTS * len(ANSWERS)}
    options = {"redis_url": redis_server.url, "settings": settings}
    first = Workers("uvicorn", 1, **options)
    with first, nginx(tmp_path, first.port) as ports:
        visitors = {code: [Visitor(port) for _ in range(CLIENTS)] for code, port in ports.items()}
        everyone = [visitor for each in visitors.values() for visitor in each]
        tasks = [asyncio.ensure_future(visitor.stay()) for visitor in everyone]
        try:
            await eventually(lambda: all(visitor.has_been_up for visitor in everyone), TIMEOUT)
            for process in first.processes:
                process.kill()
            await asyncio.sleep(AWAY)
            second = Workers("uvicorn", 1, port=first.port, **options)
            await asyncio.to_thread(second.__enter__)
            try:
                await eventually(lambda: all(visitor.connected == 2 for visitor in everyone), TIMEOUT)
            finally:
                await asyncio.to_thread(second.__exit__, None, None, None)
        finally:
            ended = [task for task in tasks if task.done()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    assert ended == []
    for code, each in visitors.items():
        seen = [visitor.codes for visitor in each]
        assert [codes for codes in seen if (REDIRECT_TO_A_PAGE if code == 302 else code) not in codes] == [], code
