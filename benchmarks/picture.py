"""The picture of a herd's return: the clients back over time, and their attempts."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from .simulation import Return

if TYPE_CHECKING:
    from .world import Group

SHOWN = 100
"""Seconds."""
FEWEST = 5
"""Attempts per second."""
INK, SOFT, LINE = "#1b2533", "#596779", "#e3e8ee"
HINT, JITTER, DOUBLING, PATIENT, NAIVE = "#007a5e", "#0072b2", "#b3541e", "#a0487d", "#6f7681"
"""Distinguishable with colour blindness, and by their labels."""

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


def draw_mixed(groups: Mapping[str, "Group"], ideal: float, scene: str, path: Path) -> None:
    """Save the picture of one herd of several rules, by the name of the rule, as ``path``."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.5, 4.0), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
        axes = figure.subplots()
        _title(axes, "Who is in first, in one herd", scene)
        longest = max(group.back[-1] for group in groups.values())
        for name, title, color, y in (
            ("ticket", "The hint and its ticket", HINT, 0.44),
            ("hammer", "Every half second", DOUBLING, 0.28),
            ("hint", "The hint without a ticket", JITTER, 0.12),
        ):
            back, weight = groups[name].back, "bold" if name == "ticket" else "normal"
            share = np.arange(1, len(back) + 1) / groups[name].clients
            axes.plot(back, share, color=color, linewidth=3 if name == "ticket" else 2, solid_capstyle="round")
            text = f"{title}\n99 % after {groups[name].until(0.99):.1f} s, {groups[name].per_client:.1f} attempts"
            _label(axes, ideal * 1.08, y, text, color, fontweight=weight)
        axes.axvline(ideal, color=SOFT, linewidth=1, linestyle=":")
        _label(axes, ideal * 1.08, 0.92, f"ideally {ideal:.1f} s", SOFT)
        axes.set(xlim=(0, longest), ylim=(0, 1.02), ylabel="clients back", xlabel="seconds")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        figure.savefig(path, dpi=200, facecolor="white")


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
