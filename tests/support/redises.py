"""Redis servers of several kinds, and several that belong together: watched by sentinels, or a cluster."""

import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

import trustme
from redis import Redis as Client
from redis.exceptions import RedisError

from demo.redises import find_all, find_redis
from demo.servers import POLL, Redis, free_port
from support import ROOT

NAME = "main"
"""What the sentinels call their primary."""
DOWN_AFTER = 1.0
"""Seconds of silence after which a sentinel takes a server to be down."""

SLOTS = 16384
NODES_TALK_AT = 10000
"""Above the port where a node of a cluster serves."""
TIMEOUT = 20.0
"""Seconds for servers to find each other."""

AUTHORITY = "authority.pem"
"""The file of :func:`certify` that a client needs."""

SECURITY = ROOT / "SECURITY.md"


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


VERSION = re.compile(r"(\w+) server v=(\d+\.\d+)")


class Other(Redis):
    """The server of which the program is at ``path``."""

    def __init__(self, path: str, *args: str) -> None:
        super().__init__(*args)
        self._path = path

    def _command(self) -> list[str]:
        return [self._path, *super()._command()[1:]]


@cache
def kinds() -> dict[str, str]:
    """The paths of all servers that are there, such as ``redis 6.2``; the one that all other tests use is the first."""
    found = {}
    for path in find_all():
        said = VERSION.match(subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout)
        found.setdefault(f"{said[1].lower()} {said[2]}", path)
    return found


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

    def wait(self) -> None:
        """Until all sentinels know each other and the replicas, and these have what the primary has."""
        deadline = time.monotonic() + TIMEOUT
        while not all(map(self._knows_all, self.sentinels)):
            if time.monotonic() > deadline:
                raise AssertionError(f"the sentinels do not know all after {TIMEOUT} s")
            time.sleep(POLL)

    def _knows_all(self, sentinel: Sentinel) -> bool:
        with Client(sentinel.host, sentinel.port, decode_responses=True) as client:
            (state,) = client.sentinel_masters().values()
            replicas = client.sentinel_slaves(NAME)
        known = (state["num-slaves"], state["num-other-sentinels"])
        return known == (2, 2) and all(replica["master-link-status"] == "ok" for replica in replicas)


@contextmanager
def watched() -> Iterator[Watched]:
    with ExitStack() as stack:
        primary = stack.enter_context(Redis())
        follow = ("--replicaof", primary.host, str(primary.port))
        replicas = [stack.enter_context(Redis(*follow, "--repl-diskless-sync-delay", "0")) for _ in range(2)]
        sentinels = [stack.enter_context(Sentinel(primary)) for _ in range(3)]
        servers = Watched(primary, replicas, sentinels)
        servers.wait()
        yield servers


class Node(Redis):
    """A server of a cluster that has yet to be formed."""

    def __init__(self, *args: str) -> None:
        # A node that has given its last slot away stays what it is.
        stays = ("--cluster-allow-replica-migration", "no")
        super().__init__("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", *stays, *args)

    def client(self) -> Client:
        """One of the operator's."""
        return Client(self.host, self.port, decode_responses=True)

    def _free_port(self) -> int:
        """One whose companion, for the talk among the nodes, is free as well."""
        while True:
            port = super()._free_port()
            with suppress(OSError, OverflowError):
                free_port(self.host, port + NODES_TALK_AT)
                return port


class SecretNode(Node):
    """The same, with TLS between clients and nodes and among the nodes; ``folder`` has what :func:`certify` wrote."""

    def __init__(self, folder: Path, *args: str) -> None:
        chain = str(folder / "server.pem")
        files = ("--tls-cert-file", chain, "--tls-key-file", chain, "--tls-ca-cert-file", str(folder / AUTHORITY))
        super().__init__("--tls-cluster", "yes", "--tls-replication", "yes", "--tls-auth-clients", "no", *files, *args)
        self._authority = str(folder / AUTHORITY)

    @property
    def url(self) -> str:
        return f"rediss://{self.host}:{self.port}/0"

    def client(self) -> Client:
        return Client(self.host, self.port, decode_responses=True, ssl=True, ssl_ca_certs=self._authority)

    def _command(self) -> list[str]:
        return [*super()._command(), "--port", "0", "--tls-port", str(self.port)]

    def _answers(self) -> bool:
        with self.client() as client, suppress(RedisError):
            return bool(client.ping())
        return False


def certify(folder: Path) -> None:
    """A certificate for the loopback address, and that of the authority which signed it."""
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    authority.cert_pem.write_to_path(str(folder / AUTHORITY))


class Cluster:
    """Three nodes, of which the last has no slot."""

    def __init__(self, nodes: list[Node], clients: list[Client]) -> None:
        self.nodes = nodes
        self.clients = clients
        """Of the operator's, one for each node."""

    def owner(self, slot: int) -> int:
        """The number of the node that has the slot."""
        ranges = self.clients[0].execute_command("CLUSTER", "SLOTS")
        (port,) = (node[1] for first, last, node, *_ in ranges if first <= slot <= last)
        return [node.port for node in self.nodes].index(port)

    @property
    def hosts(self) -> list[str]:
        return [node.url for node in self.nodes]

    def form(self, primaries: int = 2) -> None:
        """Deal all slots out among so many of the nodes."""
        for number, client in enumerate(self.clients[:primaries]):
            share = range(SLOTS * number // primaries, SLOTS * (number + 1) // primaries)
            client.execute_command("CLUSTER", "ADDSLOTS", *share)
        for node in self.nodes[1:]:
            self.clients[0].execute_command("CLUSTER", "MEET", node.host, node.port)
        self.wait()

    def follow(self, replica: int, primary: int) -> None:
        """Return once the replica has what the primary has."""
        name = self.clients[primary].execute_command("CLUSTER", "MYID")
        self.clients[replica].execute_command("CLUSTER", "REPLICATE", name)
        deadline = time.monotonic() + TIMEOUT
        while self.clients[replica].info("replication").get("master_link_status") != "up":
            if time.monotonic() > deadline:
                raise AssertionError(f"no replica after {TIMEOUT} s")
            time.sleep(POLL)

    def is_heard(self, primary: int) -> bool:
        """Whether a replica has said that it follows; until then, nothing that is written is sent to it."""
        return self.clients[primary].info("replication")["slave0"]["offset"] > 0

    def wait(self) -> None:
        """Until all of them know each other, and who has which slot."""
        deadline = time.monotonic() + TIMEOUT
        while not all(self._is_whole(client) for client in self.clients):
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"no cluster after {TIMEOUT} s: {self.clients[0].execute_command('CLUSTER', 'NODES')}"
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
    with _formed([Node(*args) for _ in range(3)], primaries=2) as cluster:
        yield cluster


@contextmanager
def secret_cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster that speaks TLS only; a client needs the file :data:`AUTHORITY` in the folder."""
    certify(folder)
    with _formed([SecretNode(folder) for _ in range(3)], primaries=2) as cluster:
        yield cluster


@contextmanager
def replicated_cluster(*args: str) -> Iterator[Cluster]:
    """Three primaries, and then a replica for each."""
    primaries = 3
    quick = ("--repl-diskless-sync-delay", "0")
    with _formed([Node(*quick, *args) for _ in range(2 * primaries)], primaries) as cluster:
        for number in range(primaries):
            cluster.follow(primaries + number, number)
        yield cluster


@contextmanager
def _formed(nodes: Sequence[Node], primaries: int) -> Iterator[Cluster]:
    with ExitStack() as stack:
        nodes = [stack.enter_context(node) for node in nodes]
        cluster = Cluster(nodes, [stack.enter_context(node.client()) for node in nodes])
        cluster.form(primaries)
        yield cluster
