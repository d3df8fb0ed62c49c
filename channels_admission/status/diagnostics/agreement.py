"""Findings about what must be the same of all workers of a pool and this command: their settings and versions."""

from collections.abc import Iterator, Mapping

from ...core.agreement import SITE, shown
from ..values import PoolSnapshot, Side
from .finding import Finder, Finding, Severity, counted
from .model import Inputs


def _agreement(inputs: Inputs) -> Iterator[Finding]:
    own = inputs.host.site
    for pool in inputs.snapshot.pools:
        sides = pool.differs.get(SITE, ())
        if sides:
            title = f"Workers of {len(sides)} sites count in pool {pool.name}"
            yield _sites(pool, inputs, title, _on_each_side({SITE: sides}))
        elif own and pool.site not in (None, own):
            title = f"The workers of pool {pool.name} are of another site than this command"
            yield _sites(pool, inputs, title, f"{shown(SITE, pool.site)} on {_all(pool)}")
        elif pool.differs:
            yield _settings(pool, inputs)
        else:
            yield from _limit(pool, inputs)


def _sites(pool: PoolSnapshot, inputs: Inputs, title: str, sides: str) -> Finding:
    prefix, own = inputs.host.prefix, inputs.host.site
    others = {name: each for name, each in pool.differs.items() if name != SITE}
    strictest = f" The strictest values are in force for all: {_on_each_side(others)}." if others else ""
    return Finding(
        "sites-differ",
        Severity.WARNING,
        title,
        f"All have the PREFIX {prefix!r}: {sides}; this command is of site {own}.{strictest}",
        "Another project, or another environment of this one, uses the same Redis and PREFIX: give each a PREFIX of "
        "its own and restart its workers. If a rolling deployment changes SECRET_KEY, this ends within a LEASE after "
        "the last worker with the old key.",
    )


def _settings(pool: PoolSnapshot, inputs: Inputs) -> Finding:
    return Finding(
        "settings-differ",
        Severity.WARNING,
        f"Workers of pool {pool.name} have different settings",
        f"The strictest values are in force for all: {_on_each_side(pool.differs)}.",
        "During a rolling deployment this ends within a LEASE after the last worker with old settings. Otherwise a "
        "host's workers have kept old settings (restart them), or a copy of the project with the same SECRET_KEY also "
        f"has the PREFIX {inputs.host.prefix!r} (give it its own).",
    )


def _limit(pool: PoolSnapshot, inputs: Inputs) -> Iterator[Finding]:
    origin = inputs.host.origins[pool.name]
    reported = pool.configured if pool.controls.limit else pool.limit
    if pool.workers and reported != origin.limit:
        yield Finding(
            "limit-differs",
            Severity.WARNING,
            f"The limit of pool {pool.name} differs from the settings of this command",
            f"It is {reported:,} on {_all(pool)}; {origin.setting} of this command is {origin.limit:,}.",
            "Restart workers that have older settings, or run this command with the settings of the workers. If they "
            "belong to a copy of the project with the same SECRET_KEY, give it a PREFIX of its own; it has "
            f"{inputs.host.prefix!r}, too.",
        )


def _on_each_side(differs: Mapping[str, tuple[Side, ...]]) -> str:
    return "; ".join(
        f"{shown(name, side.value)} on {counted(side)}" for name, sides in differs.items() for side in sides
    )


def _all(pool: PoolSnapshot) -> str:
    """The workers of a pool, the first few by name."""
    return counted(Side.of(None, [worker.id for worker in pool.workers]))


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


FINDERS: tuple[Finder, ...] = (_agreement, _releases)
