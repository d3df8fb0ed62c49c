"""Several Redis servers that belong together: watched by sentinels, or a cluster."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from demo.servers import Redis, find_redis

NAME = "main"
"""What the sentinels call their primary."""
DOWN_AFTER = 1.0
"""Seconds of silence after which a sentinel takes a server to be down."""


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
