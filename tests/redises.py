"""Several Redis servers that belong together: watched by sentinels, or a cluster."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from redis import Redis as Client

from demo.servers import POLL, Redis, find_redis, free_port

NAME = "main"
"""What the sentinels call their primary."""
DOWN_AFTER = 1.0
"""Seconds of silence after which a sentinel takes a server to be down."""

SLOTS = 16384
NODES_TALK_AT = 10000
"""Above the port where a node of a cluster serves."""
PATIENCE = 20.0
"""Seconds for a cluster to form."""


class Sentinel(Redis):
    """A sentinel that watches ``primary``; two of them must agree that it is down."""

    def __init__(self, primary: Redis) -> None:
        super().__init__()
        self._primary = primary

    def _command(self) -> list[str]:
        configuration = Path(self._folder(), "sentinel.conf")
        configuration.write_text(
            f"port {self.port}\nbind {self.host}\ndir {self._folder()}\n"
            f"sentinel monitor {NAME} {self.host} {self._primary.port} 2\n"
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER * 1000:.0f}\n"
            f"sentinel failover-timeout {NAME} 5000\n"
        )
        return [find_redis(), str(configuration), "--sentinel"]


class Watched:
    """A primary with two replicas, and three sentinels that watch them."""

    def __init__(self, primary: Redis, replicas: list[Redis], sentinels: list[Sentinel]) -> None:
        self.primary = primary
        self.replicas = replicas
        self.sentinels = sentinels

    @property
    def ledger(self) -> dict[str, object]:
        """What stands in ``LEDGER``."""
        return {"sentinels": [(sentinel.host, sentinel.port) for sentinel in self.sentinels], "master_name": NAME}


@contextmanager
def watched() -> Iterator[Watched]:
    with ExitStack() as stack:
        primary = stack.enter_context(Redis())
        follow = ("--replicaof", primary.host, str(primary.port))
        replicas = [stack.enter_context(Redis(*follow, "--repl-diskless-sync-delay", "0")) for _ in range(2)]
        sentinels = [stack.enter_context(Sentinel(primary)) for _ in range(3)]
        yield Watched(primary, replicas, sentinels)


class Node(Redis):
    """A server of a cluster that has yet to be formed."""

    def __init__(self, *args: str) -> None:
        super().__init__("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", *args)

    def _free_port(self) -> int:
        """One whose companion, for the talk among the nodes, is free as well."""
        while True:
            port = super()._free_port()
            with suppress(OSError, OverflowError):
                free_port(self.host, port + NODES_TALK_AT)
                return port


class Cluster:
    """Three nodes, of which the last has no slot."""

    def __init__(self, nodes: list[Node], clients: list[Client]) -> None:
        self.nodes = nodes
        self.clients = clients
        """Of the operator's, one for each node."""

    @property
    def hosts(self) -> list[str]:
        return [node.url for node in self.nodes]

    def form(self) -> None:
        first, second, _ = self.clients
        first.execute_command("CLUSTER", "ADDSLOTS", *range(SLOTS // 2))
        second.execute_command("CLUSTER", "ADDSLOTS", *range(SLOTS // 2, SLOTS))
        for node in self.nodes[1:]:
            first.execute_command("CLUSTER", "MEET", node.host, node.port)
        deadline = time.monotonic() + PATIENCE
        while not all(self._is_whole(client) for client in self.clients):
            if time.monotonic() > deadline:
                raise AssertionError(f"no cluster after {PATIENCE} s: {first.execute_command('CLUSTER', 'NODES')}")
            time.sleep(POLL)

    def _is_whole(self, client: Client) -> bool:
        state = client.execute_command("CLUSTER", "INFO")
        known = client.execute_command("CLUSTER", "NODES")
        return "cluster_state:ok" in state and len(known.splitlines()) == len(self.nodes)


@contextmanager
def cluster(*args: str) -> Iterator[Cluster]:
    """A cluster whose servers have the further arguments ``args``."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(Node(*args)) for _ in range(3)]
        clients = [stack.enter_context(Client(node.host, node.port, decode_responses=True)) for node in nodes]
        cluster = Cluster(nodes, clients)
        cluster.form()
        yield cluster
