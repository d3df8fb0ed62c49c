"""Findings about the versions of the package that workers run."""

from collections.abc import Iterator

from ..values import PoolSnapshot, Side
from .finding import Finder, Finding, Severity, counted
from .model import Inputs


def _releases(inputs: Inputs) -> Iterator[Finding]:
    for pool in inputs.snapshot.pools:
        if pool.elsewhere.workers or pool.elsewhere.held:
            yield Finding(
                "releases-differ",
                Severity.WARNING,
                f"Workers of pool {pool.name} run versions that count apart",
                f"{pool.elsewhere.held:,} slots are held by workers that this command does not see: "
                f"{pool.elsewhere.workers:,} that do not drain. Those that it sees run version {_versions(pool)}.",
                "The limit holds for all together. Quotas, CONNECT_RATE and places in the line hold for each side "
                "alone, and so do drains of all workers. Restart the remaining workers with the new version; "
                f"ws_status of the other version names them. This command is of {inputs.snapshot.release}.",
            )
        elif len(pool.releases) > 1:
            yield Finding(
                "releases-differ",
                Severity.NOTE,
                f"Workers of pool {pool.name} run different versions of channels-admission",
                f"Version {_versions(pool)}.",
                "These versions count together, and nothing is wrong during a rolling deployment. Otherwise restart "
                "the workers that were forgotten.",
            )


def _versions(pool: PoolSnapshot) -> str:
    """Each version, with the first few of its workers."""
    sides = (f"{release or 'unknown'} on {counted(Side.of(None, ids))}" for release, ids in pool.releases.items())
    return "; ".join(sides) or "none"


FINDERS: tuple[Finder, ...] = (_releases,)
