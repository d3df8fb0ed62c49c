"""The newest data of each pool that this process has seen. After a restart or a failover, Redis may have older ones."""

from threading import Lock

Place = tuple[str, str, str]
"""The ledger's address, the prefix, and the pool."""
Seen = tuple[float, int]
"""The latest ``since`` of a pool's counters, and the highest version."""
NOTHING: Seen = (0.0, 0)


class Newest:
    """For each pool the latest ``since`` of its counters, 0 where unknown, and the highest version."""

    def __init__(self) -> None:
        self._seen: dict[Place, Seen] = {}
        self._older: dict[Place, float] = {}
        """Since when older data are seen instead."""
        self._lock = Lock()

    def hear(self, place: Place, version: int) -> None:
        """A worker of this process has the ledger's reply with this version."""
        since, known = self._seen.get(place, NOTHING)
        if version > known:
            self._seen[place] = since, version

    def seen(self, place: Place) -> Seen:
        """What has been seen of the pool until now."""
        return self._seen.get(place, NOTHING)

    def is_older(
        self, place: Place, since: float | None, version: int, now: float, lease: float, before: Seen | None = None
    ) -> bool:
        """Whether data that were just read are older than others before; ``now`` and ``lease`` in seconds.

        ``before`` is what had been seen when the read began: a reply that came meanwhile may be newer than the read.
        If they still are after a lease, they are the newest: all workers that know better have reported by then.
        """
        with self._lock:
            begun, known = before or self.seen(place)
            is_newer = since is None or (begun and since > begun) or (since >= begun and version >= known)
            if not is_newer and now - self._older.setdefault(place, now) < lease:
                return True
            self._older.pop(place, None)
            if since is not None:
                _, heard = self.seen(place)
                self._seen[place] = since, version if heard == known else max(version, heard)
            return False


newest = Newest()
