"""Quality against the size of the region it is measured in: the paper's comparison, and one's own in the same style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from lsdflow.errors import UserError
from lsdflow.figures import style
from lsdflow.figures.style import Palette


@dataclass(frozen=True)
class Metric:
    """A column that can be drawn: its label, the factor to the label's unit, its digits, and whether it is a count."""

    label: str
    scale: float = 1.0
    decimals: int = 3
    is_count: bool = False


METRICS = {
    "voi_sum": Metric("VOI sum (bits)"),
    "voi_split": Metric("VOI split (bits)"),
    "voi_merge": Metric("VOI merge (bits)"),
    "expected_run_length": Metric("ERL (µm)", scale=1e-3, decimals=2),
    "normalized_run_length": Metric("Normalised ERL"),
    "min_cut_splits": Metric("Min-cut splits", decimals=0, is_count=True),
    "min_cut_merges": Metric("Min-cut merges", decimals=0, is_count=True),
}

# What quality can be drawn against, always on a logarithmic axis.
ABSCISSAE = {"volume_um3": "ROI (µm³)", "tera_flop": "Computation for the whole ROI (TFLOP)"}


@dataclass(frozen=True)
class Series:
    """All lines of one row of a table: its label, how it is drawn (for matplotlib's lines), and its numbers."""

    label: str
    line: dict[str, Any]
    rows: pd.DataFrame

    @property
    def handle(self) -> Line2D:
        """The entry of the legend."""
        return Line2D([], [], **self.line, label=self.label)


def series(table: pd.DataFrame, palette: Palette) -> list[Series]:
    """The rows of a table in the palette's order, one's own last, each with its look.

    Parameters
    ----------
    table : ``row`` and, where reported numbers and one's own are in one table, ``is_own``: those rows are dashed, with
        hollow markers.
    palette : colours, markers and order.
    """
    is_own = table["is_own"].astype(bool) if "is_own" in table else pd.Series(False, index=table.index)
    reported = {"markeredgecolor": "white", "markeredgewidth": 0.7}
    hollow = {"linestyle": (0, (4, 2)), "markerfacecolor": "white", "markeredgewidth": 1.5}
    found = []
    for own, suffix, kind in ((False, "", reported), (True, " (own)", hollow)):
        rows = table[is_own == own]
        for name in palette.sorted(list(rows["row"])):
            look = palette[name]
            line = {"color": look.colour, "marker": look.marker, "markersize": 8, "linewidth": 1.5, **kind}
            found.append(Series(style.label(name) + suffix, line, rows[rows["row"] == name]))
    return found


def size_curves(
    table: pd.DataFrame, palette: Palette, *, metrics: Sequence[str] = tuple(METRICS), against: str = "volume_um3"
) -> Figure:
    """Metrics against the size of the ROI, a panel for each and a line per row.

    A marker is the mean over replicates, its error bar their sample standard deviation (ddof 1) where there are
    several. Counts have a logarithmic axis where they span more than a factor of ten.

    Parameters
    ----------
    table : a line per row, replicate and ROI: ``row``, ``volume_um3`` (positive), columns of `METRICS`, NaN where a
        number does not exist; ``is_own`` as in `series`. ``expected_run_length`` is in nm.
    palette : colours, markers and order of the rows.
    metrics : keys of `METRICS`, in the order of the panels; those without a number in the table are left out.
    against : key of `ABSCISSAE`, the column on the horizontal axis.

    Raises
    ------
    UserError
        If the table has no number of any of the metrics.
    """
    shown = [m for m in metrics if m in table and (table[m].notna() & table[against].notna()).any()]
    if not shown:
        raise UserError(
            f"the table has no {' or '.join(metrics)} against {against}: name a table that has such columns"
        )
    drawn = table[table[shown].notna().any(axis=1) & table[against].notna()]
    lines = series(drawn, palette)
    n_columns = 2 if len(shown) == 4 else min(len(shown), 3)
    n_rows = math.ceil(len(shown) / n_columns)
    legend_rows = math.ceil(len(lines) / (7 if n_columns == 3 else 4))
    with style.context():
        height = 0.55 + 2.9 * n_rows + 0.25 * legend_rows
        figure = style.new_figure(max(3.3 * n_columns, 6.0), height)
        grid = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
        for index, (axes, metric) in enumerate(zip(grid, shown, strict=False)):
            _draw(axes, lines, METRICS[metric], metric, against)
            _size_axes(axes, against, drawn[against], has_edges=against == "volume_um3" and index < n_columns)
        for axes in grid[len(shown) :]:
            axes.set_axis_off()
        legend = {"handles": [line.handle for line in lines], "handlelength": 2.6}
        if len(shown) < len(grid):
            grid[len(shown)].legend(loc="center left", **legend)
        else:
            figure.legend(loc="outside lower center", ncols=math.ceil(len(lines) / legend_rows), **legend)
    return figure


def _draw(axes: Axes, lines: Sequence[Series], metric: Metric, column: str, against: str) -> None:
    lowest, highest = math.inf, 0.0
    for one in lines:
        groups = one.rows.dropna(subset=[column]).groupby(against)[column]
        means, spreads = groups.mean() * metric.scale, groups.std(ddof=1) * metric.scale
        if means.empty:
            continue
        # A single replicate has no spread, and matplotlib draws no bar for NaN.
        axes.errorbar(means.index, means, yerr=spreads, elinewidth=1.0, capsize=2.5, **one.line)
        lowest, highest = min(lowest, means.min()), max(highest, (means + spreads.fillna(0)).max())
    axes.set_ylabel(metric.label)
    axes.grid(axis="y", color="#E6E6E6", linewidth=0.8)
    if metric.is_count and lowest > 0 and highest > 10 * lowest:
        log_axis(axes, "y", pd.Series([lowest, highest]))
    else:
        axes.set_ylim(0, 1.06 * highest or 1.0)


def log_axis(axes: Axes, name: str, values: pd.Series) -> None:
    """Make the axis ``name`` (x or y) logarithmic, wider than the positive ``values`` and at least fourfold."""
    values = values[values > 0]
    low, high = values.min() / 1.35, values.max() * 1.35
    widen = max(1.0, 2 * math.sqrt(low / high))
    low, high = low / widen, high * widen
    axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    # Decades alone would leave a short axis with one number or none.
    steps = (1.0,) if high / low > 300 else (1.0, 3.0) if high / low > 10 else (1.0, 2.0, 5.0)
    axis = getattr(axes, f"{name}axis")
    axis.set_major_locator(LogLocator(subs=steps))
    # Where there are decades alone, large ones are powers of ten: 1 000 000 would run into its neighbours.
    is_short = len(steps) > 1 or high < 1e5
    axis.set_major_formatter(FuncFormatter(lambda value, _: grouped(value) if is_short else _power_of_ten(value)))
    axis.set_minor_formatter(NullFormatter())


def _size_axes(axes: Axes, against: str, values: pd.Series, has_edges: bool) -> None:
    """The horizontal axis, and above it the edges of the ROIs if ``has_edges``; few sizes are its only ticks."""
    log_axis(axes, "x", values)
    axes.set_xlabel(ABSCISSAE[against])
    low, high = axes.get_xlim()
    sizes = np.unique(values)
    gaps = np.diff(np.log(sizes)) / math.log(high / low)
    is_few = len(sizes) <= 5 and (gaps > 0.18).all()
    if is_few:
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(sizes, [grouped(size) for size in sizes])
    if not has_edges:
        return
    top = axes.secondary_xaxis("top", functions=(np.cbrt, lambda edge: edge**3))
    top.set_xlabel("edge of a cube of that volume (µm)", fontsize=9, color=style.GREY)
    edges = np.cbrt(sizes) if is_few else [m * 10.0**n for n in range(-3, 6) for m in (1, 2, 3, 5, 7)]
    top.xaxis.set_minor_locator(NullLocator())
    top.set_xticks([e for e in edges if np.cbrt(low) <= e <= np.cbrt(high)])
    top.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    top.tick_params(labelsize=9, colors=style.GREY)
    top.spines["top"].set_color(style.GREY)


def _power_of_ten(value: float) -> str:
    exponent = str(round(math.log10(value)))
    return "10" + exponent.translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def grouped(value: float) -> str:
    """A number with its thousands set apart by thin spaces; of those below 1000 three digits."""
    return f"{value:,.0f}".replace(",", "\u2009") if value >= 999.5 else f"{value:.3g}"
