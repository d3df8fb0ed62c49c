"""A row of small bars as wide as the console, the latest value last."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.:-=+*#"


@dataclass(frozen=True, slots=True)
class Sparkline:
    """``values`` from 0 to ``top``. Only a value of ``top`` or more is a whole bar; None is a gap."""

    values: Sequence[float | None]
    top: float
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        bars = ASCII_BARS if options.ascii_only else BARS
        latest = self.values[-options.max_width :]
        yield Text("".join(" " if value is None else bars[self._height(value)] for value in latest), self.style)

    def _height(self, value: float) -> int:
        if value >= self.top > 0:
            return len(BARS) - 1
        return max(0, min(int(value / self.top * len(BARS)), len(BARS) - 2)) if self.top > 0 else 0
