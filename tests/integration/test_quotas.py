"""Quotas of real users, who log in by sessions, over four real workers and one Redis."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
import redis
from websockets.exceptions import ConnectionClosed

from channels_admission.core.protocol import KEY_BYTES

from demo.servers import Workers, environment
from support import TESTS
from support.clients import Client
from support.waiting import eventually

pytestmark = pytest.mark.fault

USERS, SOCKETS, QUOTA = 50, 10, 3
HEARTBEAT, LEASE = 0.5, 5.0
LOGINS = TESTS / "support" / "logins.py"


class Visits:
    """The sockets that users have open, and how many one of them had at most."""

    def __init__(self, origins: list[str], cookies: list[str]) -> None:
        self.origins = origins
        self.cookies = cookies
        self.open: Counter[int] = Counter()
        self.most = 0
        self.clients: list[tuple[int, Client]] = []
        self.codes: Counter[int | None] = Counter()

    async def come(self, user: int, number: int) -> None:
        headers = {"Cookie": f"sessionid={self.cookies[user]}"}
        client = await Client.enter(self.origins[number % len(self.origins)], "/ws/user/", additional_headers=headers)
        if not client.is_open:
            self.codes[client.code] += 1
            return
        self.open[user] += 1
        self.most = max(self.most, self.open[user])
        self.clients.append((user, client))

    async def lose(self, pid: int) -> int:
        """Wait until those whose worker was killed have seen it; how many they are."""
        lost = [(user, client) for user, client in self.clients if client.pid == pid]
        for user, client in lost:
            try:
                await asyncio.wait_for(client.socket.recv(), 10)
            except ConnectionClosed:
                self.open[user] -= 1
                self.clients.remove((user, client))
        return len(lost)


@pytest.fixture
def logins(redis_server, tmp_path):
    database = tmp_path / "db.sqlite3"
    done = subprocess.run(
        [sys.executable, str(LOGINS), str(USERS)],
        env=environment(redis_server.url, {}, database, {}),
        capture_output=True,
        text=True,
        check=True,
    )
    return database, json.loads(done.stdout)


def keys_kept(url: str, prefix: str) -> int:
    with redis.Redis.from_url(url) as client:
        names = client.scan_iter(f"{prefix}:*claims*")
        return sum(len(field) == KEY_BYTES for name in names for field in client.hkeys(name))


async def test_no_user_has_more_than_the_quota_whatever_worker_dies(admission, prefix, redis_server, logins, figures):
    database, cookies = logins
    keys = {
        "MAX_CONNECTIONS": 5000, "LEDGER": redis_server.url, "PREFIX": prefix, "HEARTBEAT": HEARTBEAT, "LEASE": LEASE,
        "LEDGER_TIMEOUT": 4, "EXPECTED_WORKERS": 4, "QUOTAS": [{"key": "user", "max": QUOTA}],
    }  # fmt: skip
    with Workers(
        "uvicorn", 4, redis_url=redis_server.url, settings=keys, database=database, shared_port=False
    ) as running:
        await asyncio.sleep(2 * HEARTBEAT)  # the ledger has started empty, and settles
        visits = Visits(running.origins, cookies)
        herd = [(user, socket) for socket in range(SOCKETS) for user in range(USERS)]
        await asyncio.gather(*(visits.come(user, number) for number, (user, _) in enumerate(herd)))
        assert sum(visits.open.values()) == USERS * QUOTA
        assert visits.codes == {1013: USERS * (SOCKETS - QUOTA)}
        assert visits.most == QUOTA
        assert keys_kept(redis_server.url, prefix) >= 2 * USERS

        ((victim, _),) = Counter(client.pid for _, client in visits.clients).most_common(1)
        os.kill(victim, signal.SIGKILL)
        began = time.monotonic()
        lost = await visits.lose(victim)
        assert lost > QUOTA
        del visits.origins[running.pids.index(victim)]

        async def return_all() -> bool:
            missing = [user for user in range(USERS) for _ in range(QUOTA - visits.open[user])]
            await asyncio.gather(*(visits.come(user, number) for number, user in enumerate(missing)))
            return sum(visits.open.values()) == USERS * QUOTA

        await eventually(return_all, LEASE + 2 * HEARTBEAT, every=0.1)
        back = time.monotonic() - began
        assert visits.most == QUOTA
        await asyncio.gather(*(client.leave() for _, client in visits.clients))
        await eventually(lambda: keys_kept(redis_server.url, prefix) == 0, 10)
    figures.note(
        f"{USERS} users open {SOCKETS} sockets each at once on four workers, quota {QUOTA}; then a worker is killed",
        f"{USERS * QUOTA} are open, never more than {QUOTA} of one user; the lost are back within the lease; "
        "at last no key is kept",
        f"{USERS * QUOTA}; {visits.most}; the {lost} lost were back after {back:.1f} s (lease {LEASE:g} s); none",
    )
