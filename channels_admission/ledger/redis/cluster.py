"""The ledger in a Redis Cluster."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ClusterError, RedisError, TimeoutError

from ...runtime.descriptors import spares
from . import LOOK, Look, RedisLedger, evaluated, look_of
from .connections import UNNAMED, ConnectTimeout
from .errors import origin, translated
from .names import by_name

NODE_HAS = 0.4
"""The share of the time for a connection in which a node must answer, so that another can be asked in the rest."""


class RedisClusterLedger(RedisLedger):
    """A :class:`~.base.Ledger` over a Redis Cluster, each pool in one of its slots.

    The client follows a pool that moves, within the call, and tries nothing again that may have been done.
    """

    def _connect(self, host: Mapping[str, Any]) -> None:
        self._hosts = self._settings.ledger.nodes or (host,)
        self.address = f"cluster://{self.address.partition('://')[2].partition('/')[0]}"
        self._connect_timeout = ConnectTimeout(self._settings.ledger_timeout)
        self._redis = self._client()
        self._calls: Counter[RedisCluster] = Counter()
        """The calls that each client is in the middle of."""
        self._closing: set[asyncio.Task[None]] = set()

    def _client(self, known: Sequence[tuple[str, int]] = ()) -> RedisCluster:
        return cluster_client(self._hosts, known, self._connect_timeout.seconds)

    async def connect(self, within: float) -> None:
        self._connect_timeout.allow(within)
        await self._drop_connections()
        try:
            async with self._informed():
                pass  # the connections to the nodes are set up by their first calls
        except BaseException as error:
            raise await self._fault(error) from None

    async def _run(self, script: str, keys: list[str], arguments: list[str | bytes | float]) -> Any:
        async with self._informed() as client:
            loop = asyncio.get_running_loop()

            async def ask(*command: Any) -> Any:
                began = loop.time()
                answer = await client.execute_command(*command)
                self._connect_timeout.learn(loop.time() - began)
                return answer

            return await evaluated(ask, script, keys, arguments)

    async def _look(self, pools: list[list[str]]) -> list[Look]:
        looks: list[Look] = []
        async with self._informed() as client:
            for keys in pools:
                looks.append(look_of(await client.eval(LOOK, len(keys), *keys)))
        return looks

    @asynccontextmanager
    async def _informed(self) -> AsyncIterator[Any]:
        """The client for one call, once it knows the nodes of all slots; before that, it would ask any node.

        After a fault the next calls have another client, for what this one knows may be wrong, and so they have after a
        call that was given up: a silent node may have been replaced. All pools share it: the calls that it is in the
        middle of may go on, and their faults are of no matter to its successor.
        """
        client = self._redis
        self._calls[client] += 1
        try:
            await client.initialize()
            yield client
        except (Exception, asyncio.CancelledError):
            if client is self._redis:
                self._replace()
            raise
        finally:
            self._calls[client] -= 1
            if client is not self._redis:
                self._abandon(client)

    async def _fault(self, error: BaseException) -> BaseException:
        if isinstance(error, AttributeError | KeyError):
            # The client stumbles over a node that has no slot yet, and is about to get its first.
            error = ClusterError(f"a pool is on its way to a node not yet known ({error!r})")
        if isinstance(error, Exception) and isinstance(origin(error), TimeoutError):
            self._connect_timeout.grow()
        return translated(error, self._passwords)

    async def _drop_connections(self) -> None:
        client = self._redis
        self._replace()
        self._abandon(client)

    def _replace(self) -> None:
        """Go on with a client that asks for the nodes again."""
        self._redis = self._client([(node.host, int(node.port)) for node in self._redis.get_nodes()])
        spares.fill()

    def _abandon(self, client: RedisCluster) -> None:
        """Close a client that has been replaced, once it is in the middle of no call."""
        if self._calls[client] > 0:
            return
        del self._calls[client]
        task = asyncio.ensure_future(_close(client))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        await self._drop_connections()
        await asyncio.gather(*self._closing)


async def _close(client: RedisCluster) -> None:
    # The client closes nothing by itself while it is about to ask for the nodes again.
    for node in (*client.get_nodes(), *client.nodes_manager.startup_nodes.values()):
        with suppress(RedisError, OSError):
            await node.disconnect()
    with suppress(RedisError, OSError):
        await client.aclose()


def cluster_client(
    hosts: Sequence[Mapping[str, Any]], known: Sequence[tuple[str, int]] = (), timeout: float = 0.25
) -> RedisCluster:
    """A client that asks any of ``hosts``, or of the nodes ``known``, for the others; not yet connected.

    The first of the hosts says how to connect to all. Which node is asked first is drawn by lot, for it may be silent;
    each has a part of ``timeout`` seconds.
    """
    nodes = [ClusterNode(*place) for place in {*map(_place, hosts), *known}]
    random.shuffle(nodes)
    ours = {"retry": Retry(NoBackoff(), 0), "reinitialize_steps": 0, "startup_nodes": nodes}
    each = NODE_HAS * timeout
    timeouts = {"socket_timeout": each, "socket_connect_timeout": each}
    options = {"protocol": 2, "require_full_coverage": False, **UNNAMED, **timeouts, **hosts[0], **ours}
    address = options.pop("address", None)
    client = RedisCluster.from_url(address, **options) if address else RedisCluster(**options)
    if hasattr(client, "cluster_error_retry_attempts"):  # redis-py 5
        client.cluster_error_retry_attempts = 0
    kind = by_name(client.connection_kwargs["connection_class"])
    for made_with in (client.connection_kwargs, client.nodes_manager.connection_kwargs):
        made_with["connection_class"] = kind
    for node in client.nodes_manager.startup_nodes.values():
        node.connection_class = kind
    client.commands_parser = _FirstIsKey()  # type: ignore[assignment]
    return client


class _FirstIsKey:
    """Takes a command's first argument for its key, and asks no node for those of all commands; scripts say theirs.

    The client would ask the first of the primaries before all else, and be of no use while that one is silent.
    """

    async def initialize(self, node: ClusterNode) -> None:
        """There is nothing to learn."""

    async def get_keys(self, *command: Any) -> tuple[Any, ...]:
        return command[1:2]


def _place(host: Mapping[str, Any]) -> tuple[str, int]:
    parts = {"host": "localhost", "port": 6379, **(parse_url(host["address"]) if "address" in host else host)}
    return str(parts["host"]), int(parts["port"])
