"""The picture of the cost of a handshake: the CPU of each contender against the bare consumer's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from .contenders import CONTENDERS
from .picture import HINT, INK, JITTER, NAIVE, SOFT, STYLE
from .report import BARE, LOOPS, cpu, up

OURS, OTHERS = HINT, NAIVE


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Save it as ``path``."""
    loop = list(found["handshakes"])[-1]
    with mpl.rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(8.5, 6.4), layout="constrained")
        above, below = figure.subplots(2, 1, height_ratios=[8, 5])
        _draw(above, found, loop, refusing=False)
        _draw(below, found, loop, refusing=True)
        figure.savefig(path, dpi=150, facecolor="white")


def _draw(axes: Any, found: Mapping[str, Any], loop: str, *, refusing: bool) -> None:
    names = [name for name in found["handshakes"][loop]["herd"] if CONTENDERS[name].refuses == refusing]
    ratios = [cpu(found, loop, "herd", name) for name in names]
    for row, (name, each) in enumerate(zip(names, ratios, strict=True)):
        color = OURS if CONTENDERS[name].ours else JITTER if name == BARE else OTHERS
        axes.barh(row, each.median, color=color, height=0.62)
        axes.plot([each.low, each.high], [row, row], color=INK, linewidth=1)
        axes.text(max(each.high, each.median) + 0.02, row, up(each.median), va="center", color=INK)
    axes.set_yticks(range(len(names)), [CONTENDERS[name].title for name in names])
    axes.invert_yaxis()
    axes.set_xlim(0, max(2.2, *(each.high + 0.2 for each in ratios)))
    axes.set_title("A refusal" if refusing else "An admission", loc="left", fontsize=12, fontweight="bold")
    if refusing:
        axes.set_xlabel(f"CPU of the server for a connection, × bare; 200 in flight, uvicorn, {LOOPS[loop]}")
    axes.tick_params(axis="y", labelcolor=SOFT)
