"""Ranges of the Monitoring Plugins guidelines, as ``-w`` and ``-c`` take them.

===========  ===========================================
``10``       alert below 0 and above 10
``10:``      alert below 10
``~:10``     alert above 10
``10:20``    alert below 10 and above 20
``@10:20``   alert from 10 to 20
===========  ===========================================
"""

import math
import re
from dataclasses import dataclass, replace

NUMBER = r"\d{1,9}(?:\.\d{1,9})?"
RANGE = re.compile(rf"(@?)(?:(~|{NUMBER}):)?({NUMBER})?")


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from ``low`` to ``high``, both included. It alerts outside of them, or ``inside``."""

    high: float = math.inf
    low: float = 0.0
    inside: bool = False

    @classmethod
    def parse(cls, text: str) -> "Range":
        """:exc:`ValueError` for a text that is no range."""
        match = RANGE.fullmatch(text)
        if match is None or (match[2] is None and match[3] is None):
            raise ValueError(f"must be a number or a range such as 10:20 or @10:20, not {text!r:.40}")
        low = -math.inf if match[2] == "~" else float(match[2] or 0)
        high = float(match[3]) if match[3] else math.inf
        if low > high:
            raise ValueError(f"must begin below its end, not {text!r:.40}")
        return cls(high, low, bool(match[1]))

    @property
    def is_plain(self) -> bool:
        """Whether it is a single number."""
        return not self.inside and self.low == 0 and math.isfinite(self.high)

    def alerts(self, value: float) -> bool:
        return (self.low <= value <= self.high) is self.inside

    def of(self, whole: float) -> "Range":
        """The range of per cent as a range of ``whole``, to three decimals."""
        low, high = (round(each * whole / 100, 3) if math.isfinite(each) else each for each in (self.low, self.high))
        return replace(self, low=low, high=high)

    def __str__(self) -> str:
        low = "~:" if math.isinf(self.low) else f"{self.low:g}:" if self.low or math.isinf(self.high) else ""
        high = "" if math.isinf(self.high) else f"{self.high:.10g}"
        return f"{'@' if self.inside else ''}{low}{high}"
