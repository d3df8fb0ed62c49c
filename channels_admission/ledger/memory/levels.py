"""How near a pool is to its limit, and which worker tells of each change."""

from collections.abc import Container
from dataclasses import dataclass, field

from ...core import levels
from ...core.levels import Edge, Level
from ...core.protocol import Report
from ..base import EDGES_KEPT


@dataclass(slots=True)
class Telling:
    """An edge that is to be told, by which worker, and the version of the reply that said so."""

    version: int
    edge: Edge
    worker: str | None


@dataclass(slots=True)
class Levels:
    """The level by the last report, and the changes of it that no worker is known to have told."""

    level: Level = Level.CALM
    untold: list[Telling] = field(default_factory=list)

    def change(self, report: Report, total: int, limit: int, *, is_settling: bool) -> None:
        """Follow the counts, which say nothing while the pool settles."""
        self.untold = [
            each for each in self.untold if each.worker != report.worker or report.version < each.version
        ]  # fmt: skip
        if is_settling:
            return
        before, self.level = self.level, levels.alert(total, limit, report.warn_at, self.level)
        if self.level is not before:
            self.untold.append(Telling(0, Edge(before, self.level, total, limit), None))

    def tell(self, worker: str, version: int, workers: Container[str]) -> tuple[Edge, ...]:
        """What a worker is to tell of: what it brought about, and what no other one of the ``workers`` can tell."""
        del self.untold[:-EDGES_KEPT]
        ours = [each for each in self.untold if each.worker == worker or each.worker not in workers]
        teller = worker if worker in workers else None
        for each in ours:
            each.version, each.worker = version, teller
        return tuple(each.edge for each in ours) if teller else ()
