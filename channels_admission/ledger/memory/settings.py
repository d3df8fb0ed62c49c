"""Reports with the settings that are in force in place of their own."""

from collections.abc import Mapping
from dataclasses import replace

from ...core.protocol import Report
from ...core.shares import Bound


def narrowed(report: Report, in_force: Mapping[str, float]) -> Report:
    """The report with the settings in force instead of its own."""
    rate = in_force.get("rate")
    terms = replace(report.terms, rate=rate, burst=int(in_force["burst"])) if rate else report.terms
    fair = report.fair
    if fair is not None:
        shares = (min(each.share, in_force.get(f"share:{each.name}", each.share)) for each in fair.classes)
        classes = tuple(replace(each, share=share) for each, share in zip(fair.classes, shares, strict=True))
        fair = replace(fair, classes=classes, quotas=tuple(_strict(bound, in_force) for bound in fair.quotas))
    return replace(report, limit=int(in_force["limit"]), warn_at=in_force["warn_at"], terms=terms, fair=fair)


def _strict(bound: Bound, in_force: Mapping[str, float]) -> Bound:
    """A quota with the strictest maximum of all workers, as a number and as a share."""
    rate = in_force.get(f"attempts:{bound.name}")
    if bound.rate and rate:
        bound = replace(bound, rate=rate, burst=int(in_force[f"at_once:{bound.name}"]))
    numbers = [number for number in (bound.most, in_force.get(f"quota:{bound.name}")) if number is not None]
    shares = [share for share in (bound.share, in_force.get(f"quota%:{bound.name}")) if share]
    return replace(bound, most=int(min(numbers)) if numbers else None, share=min(shares, default=0.0))
