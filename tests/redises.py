"""Several Redis servers that belong together: watched by sentinels, or a cluster."""

import re
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

SECURITY = Path(__file__).resolve().parent.parent / "SECURITY.md"


def rights(*more: str, in_cluster: bool = False) -> tuple[str, ...]:
    """Arguments of a Redis: a user with the rights that SECURITY.md asks for, and ``more``, on keys of tests."""
    documented = SECURITY.read_text()
    rules = re.search(r"^ACL SETUSER (.*)$", documented, re.MULTILINE).group(1)
    if in_cluster:
        rules += " " + re.search(r"`([^`]+)` in a cluster", documented).group(1)
    return ("--user", *rules.replace("channels_admission:*", "test-*").split(), *more)


def as_admission(url: str) -> str:
    """The URL for that user."""
    return url.replace("//", "//admission:PASSWORD@")


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
        # A node that has given its last slot away stays what it is.
        stays = ("--cluster-allow-replica-migration", "no")
        super().__init__("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", *stays, *args)

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

    def owner(self, slot: int) -> int:
        """The number of the node that has the slot."""
        ranges = self.clients[0].execute_command("CLUSTER", "SLOTS")
        (port,) = (node[1] for first, last, node in ranges if first <= slot <= last)
        return [node.port for node in self.nodes].index(port)

    @property
    def hosts(self) -> list[str]:
        return [node.url for node in self.nodes]

    def form(self) -> None:
        first, second, _ = self.clients
        first.execute_command("CLUSTER", "ADDSLOTS", *range(SLOTS // 2))
        second.execute_command("CLUSTER", "ADDSLOTS", *range(SLOTS // 2, SLOTS))
        for node in self.nodes[1:]:
            first.execute_command("CLUSTER", "MEET", node.host, node.port)
        self.wait()

    def wait(self) -> None:
        """Until all of them know each other, and who has which slot."""
        deadline = time.monotonic() + PATIENCE
        while not all(self._is_whole(client) for client in self.clients):
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"no cluster after {PATIENCE} s: {self.clients[0].execute_command('CLUSTER', 'NODES')}"
                )
            time.sleep(POLL)

    def begin_to_move(self, slot: int, source: int, target: int) -> None:
        """Let the keys of a slot go one by one from one node to another, each by its number."""
        names = [client.execute_command("CLUSTER", "MYID") for client in self.clients]
        self.clients[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
        self.clients[source].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])

    def move(self, source: int, target: int, *keys: str) -> None:
        node = self.nodes[target]
        self.clients[source].execute_command("MIGRATE", node.host, node.port, "", 0, 1000, "KEYS", *keys)

    def keys(self, slot: int, node: int) -> list[str]:
        return self.clients[node].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)

    def end_move(self, slot: int, source: int, target: int) -> None:
        """With whatever keys are left."""
        while keys := self.keys(slot, source):
            self.move(source, target, *keys)
        name = self.clients[target].execute_command("CLUSTER", "MYID")
        for client in (self.clients[target], self.clients[source]):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", name)

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
