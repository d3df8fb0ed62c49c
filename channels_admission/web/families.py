"""Families of metrics, as ``prometheus_client`` has them, with names, labels and units in one manner."""

from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from ..status.values import Times

PREFIX = "channels_admission_"
UNITS = ("seconds", "ratio")
"""The units in which names end; a metric without one counts things, or numbers a state."""

Sample = tuple[Sequence[str], float]
"""Label values, and the number."""


def gauge(name: str, text: str, labels: Sequence[str], samples: Iterable[Sample]) -> Metric:
    return _filled(GaugeMetricFamily(PREFIX + name, text, labels=labels, unit=unit_of(name)), samples)


def counter(name: str, text: str, labels: Sequence[str], samples: Iterable[Sample]) -> Metric:
    return _filled(CounterMetricFamily(PREFIX + name, text, labels=labels), samples)


def histogram(name: str, text: str, samples: Iterable[tuple[str, Times]]) -> Metric:
    """By pool."""
    family = HistogramMetricFamily(PREFIX + name, text, labels=["pool"], unit=unit_of(name))
    for pool, times in samples:
        buckets = [("+Inf" if bound == "inf" else f"{float(bound)}", number) for bound, number in times.within.items()]
        family.add_metric([pool], buckets, times.seconds)
    return family


def unit_of(name: str) -> str:
    return next((unit for unit in UNITS if name.endswith(f"_{unit}")), "")


def _filled(family: GaugeMetricFamily | CounterMetricFamily, samples: Iterable[Sample]) -> Metric:
    for values, number in samples:
        family.add_metric(values, number)
    return family
