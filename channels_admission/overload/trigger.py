"""Triggers: the pressure of a reading, scaled and with hysteresis. Pure; times in seconds."""

from ..conf.overload import Thresholds

MARGIN = 0.2
"""How far below scaling a reading must fall to end the refusals, as a share of the distance from scaling to saturation.

If the distance from scaling to 0 is shorter, it counts instead, so that a healthy worker's reading can fall so far.
"""
STEADY = 2.0
"""Least seconds between two changes of state, unless the reading reaches saturation."""
AMPLE = 0.8
"""The share of scaling up to which there is plenty."""
LITTLE = 0.02
"""The share of scaling by which a reading may change from one to the next in a calm worker."""
FLOOR = 0.01
"""Least pressure while a trigger refuses, so that it does not stop and start again."""


class Trigger:
    """Envoy's scaled trigger with hysteresis: the share of handshakes to refuse.

    The share grows linearly from 0 at a lower mark to 1 at saturation. Refusals begin when the reading rises above
    scaling, and end when it falls below the lower mark.
    """

    def __init__(self, thresholds: Thresholds) -> None:
        self._high = thresholds
        self.scaling, self.saturation = thresholds.scaling, thresholds.saturation
        span = thresholds.saturation - thresholds.scaling
        self._low = thresholds.scaling - MARGIN * min(span, thresholds.scaling)
        self.refuses = False
        """Whether the trigger refuses at present."""
        self._changed_at = float("-inf")

    def pressure(self, reading: float | None, now: float) -> float:
        """The pressure from 0 to 1; 0 for an unknown reading."""
        mark = self._low if self.refuses else self._high.scaling
        wants = reading is not None and reading > mark
        saturated = reading is not None and reading >= self._high.saturation
        if wants != self.refuses and (saturated or now - self._changed_at >= STEADY):
            self.refuses, self._changed_at = wants, now
        if not self.refuses or reading is None:
            return 0.0
        share = (reading - self._low) / (self._high.saturation - self._low)
        return min(1.0, max(FLOOR, share))

    def is_near(self, reading: float | None) -> bool:
        """Whether there is no longer plenty of what is read; not for an unknown reading."""
        return reading is not None and reading > AMPLE * self.scaling

    def is_calm(self, before: float | None, reading: float | None) -> bool:
        """Whether a reading, after the one ``before``, needs no closer look."""
        if reading is None:
            return True
        return not self.is_near(reading) and before is not None and abs(reading - before) <= LITTLE * self.scaling
