"""The picture of a herd's return: the clients back over time, and their attempts."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from .simulation import Return

if TYPE_CHECKING:
    from demo.returns import Return as Real

SHOWN = 100
"""Seconds."""
FEWEST = 5
"""Attempts per second."""
INK, SOFT, LINE = "#1b2533", "#596779", "#e3e8ee"
HINT, JITTER, DOUBLING, PATIENT, NAIVE = "#007a5e", "#0072b2", "#b3541e", "#a0487d", "#6f7681"
"""Distinguishable with colour blindness, and by their labels."""
THIN = 2.0
MIXED = {
    "ticket": ("The hint and its ticket", HINT, 3.0),
    "hint": ("The hint, no ticket", JITTER, THIN),
    "full-jitter": ("Full jitter", PATIENT, THIN),
    "hammer": ("Every half second", DOUBLING, THIN),
}
"""Title, colour and width of the rules of a mixed herd."""

STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.bottom": False,
    "ytick.left": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
}


def draw(returns: Mapping[str, Return], path: Path) -> None:
    """Save the picture of one herd's returns, by the name of the rule, as ``path``."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.5, 7.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.15])
        figure.get_layout_engine().set(hspace=0.09, w_pad=0.12, h_pad=0.12)
        _draw_back(above, returns)
        _draw_attempts(below, returns)
        figure.savefig(path, dpi=200, facecolor="white")


def draw_mixed(returns: Sequence["Real"], ideal: float, scene: str, path: Path) -> None:
    """Save the picture of one herd of several rules, of those in :data:`MIXED`, as ``path``."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.5, 7.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.15, 1])
        figure.get_layout_engine().set(hspace=0.09, w_pad=0.12, h_pad=0.12)
        shown = 5 * math.ceil(max(each.back[-1] for each in returns) / 5)
        _title(above, "How soon they are in, in one herd", scene)
        above.axvline(ideal, color=SOFT, linewidth=1, linestyle=":")
        for each in returns:
            _, color, width = MIXED[each.rule.name]
            share = np.arange(1, len(each.back) + 1) / each.clients
            above.plot(each.back, share, color=color, linewidth=width, solid_capstyle="round")
        above.set(xlim=(0, shown), ylim=(0, 1.02), ylabel="clients back")
        above.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        _list(above, [(each.rule.name, f"99 % after {each.until(0.99):.1f} s") for each in returns], 0.52)
        _title(below, "What they ask of the servers meanwhile", "attempts of all clients of a rule in each second")
        for each in returns:
            _, color, width = MIXED[each.rule.name]
            counts = np.pad(np.array(each.per_second(), dtype=float), (0, shown))[:shown]
            below.plot(np.arange(shown) + 0.5, counts, color=color, linewidth=width, solid_capstyle="round")
        below.set(xlim=(0, shown), ylabel="attempts", xlabel="seconds")
        _list(below, [(each.rule.name, f"{each.per_client:.1f} attempts a client") for each in returns], 0.95)
        figure.savefig(path, dpi=200, facecolor="white")


def _list(axes: Axes, lines: Sequence[tuple[str, str]], top: float) -> None:
    """The figure of each rule, at the right."""
    for row, (rule, text) in enumerate(lines):
        title, color, width = MIXED[rule]
        weight = "bold" if width > THIN else "normal"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        options = {"transform": axes.transAxes, "ha": "right", "fontweight": weight, "bbox": box}
        _label(axes, 0.985, top - 0.11 * row, f"{title}: {text}", color, **options)


def _title(axes: Axes, title: str, rest: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=22)
    axes.text(0, 1.025, rest, transform=axes.transAxes, color=SOFT, va="bottom")


def _label(axes: Axes, x: float, y: float, text: str, color: str, **options: object) -> None:
    axes.text(x, y, text, color=color, **{"va": "center", "linespacing": 1.35, **options})


def _draw_back(axes: Axes, returns: Mapping[str, Return]) -> None:
    hint = returns["hint"]
    clients = len(hint.back)
    scene = f"{clients:,} clients cut at once; the pool admits {hint.rate:,.0f} a second"
    _title(axes, "How soon they are back", scene)
    share = np.arange(1, clients + 1) / clients
    for name, color, width in (("patient-doubling", PATIENT, 2), ("full-jitter", JITTER, 2), ("hint", HINT, 3)):
        axes.plot(returns[name].back, share, color=color, linewidth=width, solid_capstyle="round")
    for name, x, y, title, color, options in (
        ("hint", 42, 0.9, "The server's hint", HINT, {"ha": "right", "fontweight": "bold"}),
        ("full-jitter", 60, 0.85, "Full jitter", JITTER, {}),
        ("patient-doubling", 69, 0.22, "Doubling, not started over", PATIENT, {}),
    ):
        _label(axes, x, y, f"{title}\n99 % after {returns[name].until(0.99):.0f} s", color, **options)
    axes.set(xlim=(0, SHOWN), ylim=(0, 1.02), ylabel="clients back")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _draw_attempts(axes: Axes, returns: Mapping[str, Return]) -> None:
    _title(axes, "What they ask of the servers meanwhile", "attempts in each second, in powers of ten")
    for name, x, y, title, color in (
        ("patient-doubling", 69, 2_600, "Doubling, not started over", PATIENT),
        ("naive", 52.5, 50_000, "0.1 s, doubled, started over on open", NAIVE),
        ("doubling", 5, 14_000, "Doubling, started over on open", DOUBLING),
        ("full-jitter", 70, 75, "Full jitter", JITTER),
        ("hint", 55.5, 330, "The server's hint", HINT),
    ):
        counts = np.pad(returns[name].per_second().astype(float), (0, SHOWN))[:SHOWN]
        middle = np.arange(SHOWN) + 0.5
        if name == "patient-doubling":
            axes.fill_between(middle, np.maximum(counts, FEWEST), FEWEST, color=color, alpha=0.25, linewidth=0)
        else:
            width = 3 if name == "hint" else 2
            counts[counts < FEWEST] = np.nan
            axes.plot(middle, counts, color=color, linewidth=width, solid_capstyle="round")
        weight = "bold" if name == "hint" else "normal"
        _label(axes, x, y, f"{title}\n{returns[name].per_client:.0f} attempts a client", color, fontweight=weight)
    axes.set(xlim=(0, SHOWN), yscale="log", ylim=(FEWEST, 200_000), ylabel="attempts", xlabel="seconds after the cut")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.minorticks_off()
