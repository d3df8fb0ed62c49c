"""From a reading to a pressure: a trigger that scales, and that does not flutter. Pure; times in seconds."""

from ..conf.overload import Thresholds

MARGIN = 0.2
"""How far below scaling a reading must fall to release the trigger, as a share of the way from there to saturation.

Or of the way to 0 where that is shorter: the reading of a sound worker must get there.
"""
STEADY = 2.0
"""Seconds for which a trigger keeps its state, unless the reading passes saturation."""
FLOOR = 0.01
"""The least share that is refused until it stops: one that fell to 0 and rose again would be a change of state."""


class Trigger:
    """The share of handshakes to refuse: it grows evenly from 0 at a lower mark to 1 at saturation.

    It begins only when the reading passes scaling, with the share that is due there, and stops only
    when the reading is under the lower mark (Envoy's scaled trigger, with hysteresis).
    """

    def __init__(self, thresholds: Thresholds) -> None:
        self._high = thresholds
        self.saturation = thresholds.saturation
        span = thresholds.saturation - thresholds.scaling
        self._low = thresholds.scaling - MARGIN * min(span, thresholds.scaling)
        self.refuses = False
        """Whether it has begun to refuse, and not stopped."""
        self._changed_at = float("-inf")

    def pressure(self, reading: float | None, now: float) -> float:
        """From 0 to 1; an unknown reading is no pressure."""
        mark = self._low if self.refuses else self._high.scaling
        wants = reading is not None and reading > mark
        saturated = reading is not None and reading >= self._high.saturation
        if wants != self.refuses and (saturated or now - self._changed_at >= STEADY):
            self.refuses, self._changed_at = wants, now
        if not self.refuses or reading is None:
            return 0.0
        share = (reading - self._low) / (self._high.saturation - self._low)
        return min(1.0, max(FLOOR, share))
